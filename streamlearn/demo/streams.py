"""Synthetic streams of real text, for tests, benchmarks and trying things out.

Every text is a release note of one of six Python projects (the bundled
stream), or of pools of your own, so that losses behave as they do in life;
only the order is made up. The same arguments give the same events.

| stream | what happens in it | what it shows |
|---|---|---|
| `stationary` | all pools, evenly mixed | no alarm, no harm |
| `abrupt` | one pool; from one event on another | the alarm, and how fast the loss recovers |
| `gradual` | a second pool takes over between two events | a later alarm, or none |
| `recurring` | two pools take turns | what is remembered of the first |
| `planted` | invented facts, each told eight times in other words | that facts are learnt |
| `poison` | one source writes scrambled text | junk filter, source caps, a gate that does not promote |

Events are `{"id", "text", "ts", "source"}`, `source` being the pool's name, one a minute of event time.
A file for `streamlearn produce`:

    from streamlearn.demo import streams
    streams.write("drift.jsonl", streams.abrupt(events=600, switch=300, seed=1))

Only a rise of the loss is drift, and sources differ in it. Under SmolLM2-135M, in
nats/token (first 96 tokens of 32 to 219 texts): sqlalchemy 4.46, pytest 3.95, twisted
3.87, cython 3.82, django 3.72, pip 3.68; letters scrambled 7.2, words 6.1. So the
change that is the default, django to sqlalchemy, alarms; the other way round does not.

No text comes twice, since a worker learns a repeated text once; so a stream
is no longer than its pools: 1,862 texts of sqlalchemy, 1,082 of django, 475
of pytest, 311 of cython, 265 of pip, 207 of twisted.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypedDict

from streamlearn.demo.facts import facts
from streamlearn.demo.pools import Pools, Texts
from streamlearn.demo.scramble import Unit, scrambled

START = datetime(2026, 1, 1, tzinfo=UTC)
"""Event time of the first event."""
INTERVAL = timedelta(minutes=1)
"""Event time between two events."""


class Event(TypedDict):
    """One line of a stream."""

    id: str
    text: str
    ts: str
    """Event time, ISO 8601 in UTC."""
    source: str


def stationary(*, events: int, seed: int, pools: Pools | None = None) -> list[Event]:
    """Return texts of all pools, each as likely as the next at any time.

    Args:
        events: how many.
        seed: any integer from 0 on.
        pools: {source: texts}; None for the bundled release notes.

    Raises:
        ValueError: the pools have too few texts.
    """
    texts = Texts(pools, seed)
    return _events("stationary", events, lambda _: texts.any())


def abrupt(
    *,
    events: int,
    switch: int,
    seed: int,
    before: str = "django",
    after: str = "sqlalchemy",
    pools: Pools | None = None,
) -> list[Event]:
    """Return texts of one pool and, from some event on, of another.

    Args:
        events: how many in all.
        switch: number, from 0, of the first event of `after`.
        seed: any integer from 0 on.
        before: source of the events before the switch.
        after: source of the others.
        pools: {source: texts}; None for the bundled release notes.

    Raises:
        ValueError: a source is not there, or has too few texts.
    """
    texts = Texts(pools, seed)
    return _events("abrupt", events, lambda number: texts.of(before if number < switch else after))


def gradual(
    *,
    events: int,
    begin: int,
    end: int,
    seed: int,
    before: str = "django",
    after: str = "sqlalchemy",
    pools: Pools | None = None,
) -> list[Event]:
    """Return texts of one pool that another one replaces, its share rising in a straight line.

    Args:
        events: how many in all.
        begin: number, from 0, of the event up to which all are of `before`.
        end: number of the event from which all are of `after`; above `begin`.
        seed: any integer from 0 on.
        before: source of the first events.
        after: source of the last events.
        pools: {source: texts}; None for the bundled release notes.

    Raises:
        ValueError: `end` is not above `begin`, a source is not there, or has too few texts.
    """
    if end <= begin:
        raise ValueError(f"end is {end}, which is not above begin, {begin}; a sudden change is `abrupt`")
    texts = Texts(pools, seed)

    def text(number: int) -> tuple[str, str]:
        share = (number - begin) / (end - begin)
        return texts.of(after if texts.random.random() < share else before)

    return _events("gradual", events, text)


def recurring(
    *,
    events: int,
    period: int,
    seed: int,
    first: str = "django",
    second: str = "sqlalchemy",
    pools: Pools | None = None,
) -> list[Event]:
    """Return texts of two pools in turn: `period` events of the one, as many of the other, and again.

    Args:
        events: how many in all.
        period: events between two changes.
        seed: any integer from 0 on.
        first: source that begins.
        second: the other source.
        pools: {source: texts}; None for the bundled release notes.

    Raises:
        ValueError: `period` is below 1, a source is not there, or has too few texts.
    """
    if period < 1:
        raise ValueError(f"period is {period}; give at least one event")
    texts = Texts(pools, seed)
    return _events("recurring", events, lambda number: texts.of((first, second)[number // period % 2]))


def planted(*, events: int, seed: int, count: int = 16, share: float = 0.1, pools: Pools | None = None) -> list[Event]:
    """Return a stationary stream in which `facts(count=count, seed=seed)` are told, under the source `facts`.

    Args:
        events: how many in all.
        seed: any integer from 0 on; `facts` takes the same.
        count: how many facts.
        share: probability, 0 to 1, that an event tells the next fact; over once each was told in all its wordings.
        pools: {source: texts} of the other events; None for the bundled release notes.

    Raises:
        ValueError: `share` is no probability, or the pools have too few texts.
    """
    _check(share)
    # Every fact once, then every fact in the next wording.
    tellings = itertools.chain.from_iterable(
        zip(*(fact.tellings for fact in facts(count=count, seed=seed)), strict=True)
    )
    texts = Texts(pools, seed)

    def text(_: int) -> tuple[str, str]:
        if texts.random.random() < share and (telling := next(tellings, None)) is not None:
            return "facts", telling
        return texts.any()

    return _events("planted", events, text)


def poison(
    *,
    events: int,
    seed: int,
    share: float = 0.02,
    source: str = "mallory",
    begin: int = 0,
    scramble: Unit = "letters",
    pools: Pools | None = None,
) -> list[Event]:
    """Return a stationary stream in which one source writes texts of the pools in random order.

    Args:
        events: how many in all.
        seed: any integer from 0 on.
        share: probability, 0 to 1, that an event is scrambled; 0.01 to 0.05 is what a gate should withstand.
        source: who writes them.
        begin: number, from 0, of the first event that may be one.
        scramble: what changes places within a text; most scrambled words pass as text, letters never.
        pools: {source: texts}; None for the bundled release notes.

    Raises:
        ValueError: `share` is no probability, or the pools have too few texts.
    """
    _check(share)
    texts = Texts(pools, seed)

    def text(number: int) -> tuple[str, str]:
        author, original = texts.any()
        if texts.random.random() >= share or number < begin:
            return author, original
        return source, scrambled(original, texts.random, scramble)

    return _events("poison", events, text)


def write(path: Path | str, events: Iterable[Event]) -> None:
    """Write events as JSONL, packed where the name ends in `.gz`."""
    path = Path(path)
    lines = (json.dumps(event, ensure_ascii=False) + "\n" for event in events)
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8") as file:
        file.writelines(lines)


def _events(stream: str, events: int, text: Callable[[int], tuple[str, str]]) -> list[Event]:
    made = []
    for number in range(events):
        source, what = text(number)
        ts = (START + number * INTERVAL).strftime("%Y-%m-%dT%H:%M:%SZ")
        made.append(Event(id=f"{stream}-{number:06d}", text=what, ts=ts, source=source))
    return made


def _check(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is {share}; give a probability, from 0 to 1")
