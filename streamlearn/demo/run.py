"""The guided run: the same worker as `streamlearn run`, with a broker, a feeder and a view around it.

Nothing is faked: rows come over the Kafka protocol from another process, and
what is kept under the store is a lineage like any other.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from streamlearn import config_file
from streamlearn.bootstrap import Worker, stopped_by_signals
from streamlearn.config import Config, Store
from streamlearn.core.events import Progress
from streamlearn.core.manifest import Manifest, Scores, Totals
from streamlearn.demo.broker import embedded_broker
from streamlearn.demo.curve import Curve, curve_of, draw
from streamlearn.demo.feeder import Feeder, feeding
from streamlearn.demo.live import View
from streamlearn.demo.report import Completion, Outcome
from streamlearn.demo.slice import Slice, open_slice
from streamlearn.registry.open import open_store
from streamlearn.registry.reader import LineageReader
from streamlearn.reporter import RunReport

LINEAGE = "demo"

_PUBLISH_EVERY = "30s"
"""Often enough that two versions appear in a demo of two minutes."""
_SAMPLE, _MIN_BLOCKS = 0.5, 3
_PROMPT_CHARS = 120
_COMPLETION_TOKENS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked for."""

    minutes: float
    model: str
    stream: str
    store: Path
    fresh: bool


def run(wishes: Wishes, screen: Console) -> Outcome:
    """Run the demo and return what it closes with; Ctrl-C ends it early and well.

    Raises:
        ValueError: a wish cannot be met; says how to mend it.
        StreamlearnError: the worker could not begin or go on.
    """
    rows = open_slice(wishes.stream)
    if wishes.fresh:
        _forget(wishes.store, screen)
    before = _published(wishes.store)
    _introduce(wishes, rows, before, screen)
    with embedded_broker() as address, feeding(address, wishes.stream) as feeder:
        config = demo_config(wishes, rows, address)
        return _learn(config, wishes, rows, feeder, before, screen)


def demo_config(wishes: Wishes, rows: Slice, bootstrap_servers: str) -> Config:
    """Return the configuration of the demo's worker; the environment has no part in it."""
    document: dict[str, Any] = {
        "stream": {"name": LINEAGE},
        "kafka": {"bootstrap_servers": bootstrap_servers, "topics": [rows.topic], "start": "earliest"},
        "store": {"url": str(wishes.store)},
        "model": {"name": wishes.model},
        "ingest": {"format": rows.format, "fields": rows.fields},
        "window": {"half_life": rows.half_life},
        "checkpoint": {"every_s": 30.0},
        "publish": {"every": _PUBLISH_EVERY},
        # More of the chunks compared, and a verdict on fewer blocks: minutes are too short for the defaults.
        "evaluation": {"sample": _SAMPLE},
        "gate": {"min_blocks": _MIN_BLOCKS},
        # A demo that was killed must not keep the next one waiting.
        "lease": {"ttl_s": 10.0},
        "http": {"port": 0},
    }
    return config_file.resolve(document, {})


def _learn(
    config: Config, wishes: Wishes, rows: Slice, feeder: Feeder, before: Sequence[Manifest], screen: Console
) -> Outcome:
    worker, stopped = Worker(config), threading.Event()

    def stop() -> None:
        stopped.set()
        worker.stop()

    with stopped_by_signals(stop):
        screen.print("Loading the model; the first time it is also converted and cached …", style="dim")
        with worker:
            # The broker is empty at each start: an offset to continue from must exist before it is asked for.
            if not feeder.wait(should_stop=stopped.is_set):
                return _outcome(_nothing_done(before), wishes, rows, before, completion=None)
            screen.print(f"Learning. Metrics: http://{worker.http_address}/metrics. Ctrl-C ends it well.", style="dim")
            view = View(
                console=screen,
                minutes=wishes.minutes,
                title=f"streamlearn demo · {worker.learner.learner.base.served_name} · {rows.title}",
                first_version=len(before),
            )
            if not before:
                screen.print(
                    "First the base model writes the text that will hold the adapter close to it: a minute or two, "
                    "once per model …",
                    style="dim",
                )
            with view.shown():
                report = worker.run(
                    until_end=True, deadline_s=wishes.minutes * 60.0, publish_last=True, on_step=view.on_step
                )
            completion = _complete(worker, rows, _progress(_published(wishes.store)))
    return _outcome(report, wishes, rows, before, completion)


def _nothing_done(before: Sequence[Manifest]) -> RunReport:
    """Return the report of a run that was stopped before its rows had come."""
    return RunReport(
        seconds=0.0,
        step_seconds=0.0,
        events=0,
        tokens_trained=0,
        totals=before[-1].totals if before else Totals(),
        scores=before[-1].scores if before else Scores(),
        newest_version=len(before),
    )


def _outcome(
    report: RunReport, wishes: Wishes, rows: Slice, before: Sequence[Manifest], completion: Completion | None
) -> Outcome:
    versions, reader = _published(wishes.store), _reader(wishes.store)
    curve = curve_of(reader.ledger()) if reader is not None else Curve(points=(), tokens=0)
    return Outcome(
        report=report,
        versions=versions,
        published=len(versions) - len(before),
        curve=curve,
        picture=_picture(curve, versions, wishes, rows),
        completion=completion,
        store=wishes.store,
        lineage=LINEAGE,
        exhausted=_next_row(rows, _progress(versions)) >= len(rows.rows),
    )


def _introduce(wishes: Wishes, rows: Slice, before: Sequence[Manifest], screen: Console) -> None:
    if before:
        begun = f"Continuing lineage {LINEAGE!r} at {before[-1].version} (--fresh starts over)"
    else:
        begun = f"Starting a fresh lineage {LINEAGE!r}"
    screen.print(f"{begun} in {wishes.store}", style="bold", highlight=False, soft_wrap=True)
    screen.print(
        f"{len(rows.rows):,} events ({rows.title}) go through a Kafka broker into the worker, which scores each one "
        f"before it learns from it, for {wishes.minutes:g} minutes.",
        highlight=False,
    )
    if rows.left_out:
        last = f"The last {rows.left_out:,} events" if rows.counted_all else f"More than {rows.left_out:,} later events"
        screen.print(f"{last} do not fit the built-in broker and are left out.", style="yellow")


def _forget(store: Path, screen: Console) -> None:
    lineage = store / LINEAGE
    if (lineage / "head.json").exists():
        screen.print(f"--fresh: removing the lineage of earlier runs, {lineage}", style="yellow", highlight=False)
        shutil.rmtree(lineage)


def _reader(store: Path) -> LineageReader | None:
    if not (store / LINEAGE / "head.json").exists():
        return None
    return LineageReader(open_store(Store(url=str(store))), LINEAGE)


def _published(store: Path) -> Sequence[Manifest]:
    reader = _reader(store)
    return [version.manifest for version in reader.versions()] if reader is not None else []


def _progress(versions: Sequence[Manifest]) -> Progress:
    return versions[-1].progress if versions else {}


def _next_row(rows: Slice, progress: Progress) -> int:
    return progress.get(rows.topic, {}).get(0, 0)


def _complete(worker: Worker, rows: Slice, progress: Progress) -> Completion | None:
    """Let base and newest version go on from the beginning of a text that neither has learnt, if one is left."""
    row = _next_row(rows, progress)
    learnt = row >= len(rows.rows)
    text = " ".join(rows.text(min(row, len(rows.rows) - 1)).split())
    prompt = text[:_PROMPT_CHARS].rpartition(" ")[0]
    if not prompt:
        return None
    learner = worker.learner.learner
    return Completion(
        prompt=prompt,
        base=learner.complete(prompt, adapter=False, max_new_tokens=_COMPLETION_TOKENS),
        newest=learner.complete(prompt, adapter=True, max_new_tokens=_COMPLETION_TOKENS),
        real=text[len(prompt) :][: 4 * _COMPLETION_TOKENS],
        learnt=learnt,
    )


def _picture(curve: Curve, versions: Sequence[Manifest], wishes: Wishes, rows: Slice) -> Path | None:
    if not curve.points:
        return None
    path = wishes.store / f"{LINEAGE}-curve.png"
    marks = [(manifest.version, manifest.totals.tokens) for manifest in versions]
    draw(curve, marks, path, title=f"{wishes.model} on {rows.title}")
    return path
