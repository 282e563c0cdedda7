"""The events of the measurement, and a log of them for machines without a broker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from streamlearn.core.events import Progress, Record
from streamlearn.core.manifest import Origin

TOPIC = "backlog"
_WORDS = ("stream", "of", "events", "that", "never", "ends", "and", "is", "learnt", "once", "fox", "owl", "hen", "dog")
_BEGAN_S = 1_760_000_000.0
_APART_S = 0.5
"""Between two events, so that a million of them outlast the window and its half-life several times."""


def value_of(number: int) -> bytes | None:
    """Return event `number`: 8 to 60 words, and now and then what a stream holds beside texts.

    One in 50 repeats an earlier text, one in 97 is no event, one in 1,009 is longer than a chunk.
    """
    if number % 97 == 0:
        return b'{"id": "broken", "text": '
    shown = number - 40 if number % 50 == 0 else number
    length = 2_000 if number % 1_009 == 0 else 8 + shown * 7 % 52
    words = " ".join(_WORDS[(shown * 31 + place * (1 + shown % 11)) % len(_WORDS)] for place in range(length))
    return json.dumps(
        {"id": f"event-{number}", "source": f"source-{number % 100_003}", "text": f"{shown} {words}"}
    ).encode()


def timestamp_ms(number: int) -> int:
    """Return when event `number` happened, milliseconds since 1970."""
    return int((_BEGAN_S + _APART_S * number) * 1000)


def records(first: int, last: int) -> Iterator[Record]:
    """Yield the records from `first` up to, not including, `last` as partition 0 holds them."""
    for number in range(first, last):
        yield Record(
            topic=TOPIC,
            partition=0,
            offset=number,
            key=None,
            value=value_of(number),
            timestamp=timestamp_ms(number) / 1000.0,
        )


class MadeUpRecords:
    """`ports.Records` over a log that is made up as it is read; nothing of it is kept."""

    _BATCH = 500

    def __init__(self, events: int) -> None:
        self._events = events
        self._next = 0
        self._paused = False

    def assign(self, progress: Progress, origin: Origin) -> None:  # noqa: ARG002 - there is only one such log
        """Begin where `progress` says."""
        self._next = progress.get(TOPIC, {}).get(0, 0)

    def poll(self, timeout_s: float) -> Sequence[Record]:  # noqa: ARG002 - there is always an answer
        """Return the next records."""
        if self._paused:
            return []
        first, self._next = self._next, min(self._next + self._BATCH, self._events)
        return list(records(first, self._next))

    def pause(self) -> None:
        """Return nothing."""
        self._paused = True

    def resume(self) -> None:
        """Return records again."""
        self._paused = False

    def watermarks(self) -> Progress:
        """Return where the log ends."""
        return {TOPIC: {0: self._events}}

    def positions(self) -> Progress:
        """Return the next offset to be read."""
        return {TOPIC: {0: self._next}}

    def origin(self) -> Origin:
        """Return nothing: no broker tells ids."""
        return Origin()

    def mirror(self, progress: Progress) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nothing to give back."""
