"""One arm after another on the same sample, each in a process of its own.

A process each, so that peak memory is the arm's, and nothing that one leaves
in torch helps or harms the next. Progress goes to a callback.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from streamlearn.bench.measures import ArmResult
from streamlearn.bench.sample import Sample, held_out, tokens_of
from streamlearn.core.events import Completion, Plain
from streamlearn.demo.rows import Part
from streamlearn.learner.held_out import BUNDLED
from streamlearn.ports import StreamlearnError
from streamlearn.telemetry import logs

PROBED_AT = (0.1, 0.5, 1.0)
"""Shares of the tokens after which the past is probed; held-out text only at the end, as probes cost more than arms."""
_HELD_OUT_CHUNKS = 32
_WHOLE_HALF = 0.5
"""Share from which on the early half lies in the past."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked for."""

    stream: str
    model: str
    max_tokens: int
    part: Part
    seed: int
    settings: Mapping[str, Any]
    """Sections of a configuration that the streamlearn arms run with, beyond the defaults."""
    asked: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    """More probes by name: texts (`{"text"}`), or answers after a prompt (`{"prompt", "completion"}`)."""
    at_changes: bool = False
    """Whether to probe also wherever the stream's source changes."""


Told = Callable[[str, int, int], None]
"""(arm, tokens done, tokens in all)."""


class ArmFailed(StreamlearnError):
    """An arm ended by itself; the message says how."""


def run_arm(arm: str, wishes: Wishes, told: Told) -> ArmResult:
    """Run `arm` in a process of its own and return what it did.

    Raises:
        ArmFailed: it ended by an error, which the message names.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(arm, wishes, theirs), name=f"arm-{arm}", daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            kind, *rest = ours.recv()
            match kind:
                case "progress":
                    told(arm, *rest)
                case "anchor":
                    told(f"{arm}, its anchor first", *rest)
                case "failed":
                    raise ArmFailed(f"arm {arm}: {rest[0]}")
                case "done":
                    return _result(arm, rest[0])
    except EOFError:
        process.join()
        raise ArmFailed(f"arm {arm} died with exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()


def run_here(arm: str, wishes: Wishes, told: Told) -> ArmResult:
    """Do as `run_arm` in this process: quick to begin, and its peak memory is that of all before."""
    return _result(
        arm,
        _lived(
            arm,
            wishes,
            lambda done, total: told(arm, done, total),
            lambda done, total: told(f"{arm}, its anchor first", done, total),
        ),
    )


def _child(arm: str, wishes: Wishes, parent: Connection) -> None:
    _end_with_parent()
    # Standard output is the table's.
    logs.configure("warning", "console")
    try:
        found = _lived(
            arm,
            wishes,
            lambda done, total: parent.send(("progress", done, total)),
            lambda done, total: parent.send(("anchor", done, total)),
        )
    except Exception as error:  # noqa: BLE001 - told to the parent, which names the arm
        parent.send(("failed", f"{type(error).__name__}: {error}"))
        return
    parent.send(("done", found))


def _end_with_parent() -> None:
    """See to it that this process does not outlive the one that began it, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"

    def follow() -> None:
        parent.join()
        # Nobody is left to tell, and a step may be minutes from its end.
        os._exit(1)

    threading.Thread(target=follow, name="parent", daemon=True).start()


def _lived(
    arm: str, wishes: Wishes, told: Callable[[int, int], None], anchored: Callable[[int, int], None]
) -> dict[str, Any]:
    """Return what an arm did, as JSON."""
    # Here: the parent starts children without torch.
    from streamlearn.bench.make import make_arm, opened  # noqa: PLC0415
    from streamlearn.bench.ours import Streamlearn  # noqa: PLC0415

    world = opened(arm, wishes)
    made = make_arm(arm, world, wishes, anchored)
    probes = {
        "first tenth": world.sample.past("first tenth"),
        "early half": world.sample.past("early half"),
        "held-out": held_out_chunks(world.chunker),
    } | {name: asked(rows, world.chunker) for name, rows in wishes.asked.items()}
    found = _measured(made, world.sample, probes, at_changes=wishes.at_changes, told=told)
    return found | {"remarks": made.remarks() if isinstance(made, Streamlearn) else {}}


def _measured(
    arm: Any,
    sample: Sample,
    probes: Mapping[str, Sequence[Any]],
    *,
    at_changes: bool,
    told: Callable[[int, int], None],
) -> dict[str, Any]:
    counts = [chunk.scored_tokens for chunk in sample.chunks]
    total = sum(counts)
    nll: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in probes}
    probed: dict[str, list[int]] = {name: [] for name in probes}

    def probe(done: int) -> float:
        started = time.perf_counter()
        for name, chunks in probes.items():
            early = (name == "early half" and done < _WHOLE_HALF * total) or (name == "held-out" and done < total)
            if chunks and (at_changes or not early):
                found[name].append(float(np.sum(arm.served_nll(chunks)) / tokens_of(chunks)))
                probed[name].append(len(nll))
        return time.perf_counter() - started

    due = _places(sample, at_changes=at_changes)
    done, probing, began = 0, 0.0, time.perf_counter()
    for place, value in enumerate(arm.scores(sample.arrivals)):
        nll.append(float(value))
        done += counts[place]
        told(done, total)
        if len(nll) in due:
            probing += probe(done)
    seconds = time.perf_counter() - began - probing
    probe(total)
    assert len(nll) == len(counts), "an arm yields one score for each chunk"
    return {"nll": nll, "probes": found, "probed": probed, "seconds": seconds, "peak_rss_mb": _peak_rss_mb()}


def _places(sample: Sample, *, at_changes: bool) -> set[int]:
    """Return after how many chunks to probe, the end left out."""
    done = np.cumsum([chunk.scored_tokens for chunk in sample.chunks])
    shares = {int(np.searchsorted(done, share * done[-1])) + 1 for share in PROBED_AT}
    changes = set(sample.changes()) if at_changes else set()
    return (shares | changes) - {len(done)}


def asked(rows: Sequence[Mapping[str, str]], chunker: Any) -> Sequence[Any]:
    """Return the chunks of probes as `Wishes.asked` has them; of an answer its own tokens alone are scored."""
    return [chunk for row in rows for chunk in _asked(row, chunker)]


def _asked(row: Mapping[str, str], chunker: Any) -> Iterator[Any]:
    if "text" in row:
        yield from chunker.chunk(Plain(text=row["text"]))
        return
    for chunk in chunker.chunk(Completion(prompt=row["prompt"], completion=row["completion"])):
        # The last one is the end of the text, which no sentence comes to here.
        scored = chunk.scored.copy()
        scored[-1] = False
        yield dataclasses.replace(chunk, scored=scored)


def _peak_rss_mb() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    # A process begins with the peak of its parent in `ru_maxrss`, where it is begun by vfork.
    if (own := re.search(r"VmHWM:\s+(\d+) kB", status)) is not None:
        return int(own[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 * 1024 if sys.platform == "darwin" else 1024)


def _result(arm: str, found: Mapping[str, Any]) -> ArmResult:
    return ArmResult(
        arm=arm,
        nll=np.array(found["nll"]),
        probes={name: tuple(values) for name, values in found["probes"].items()},
        seconds=found["seconds"],
        peak_rss_mb=found["peak_rss_mb"],
        probed={name: tuple(values) for name, values in found["probed"].items()},
        remarks=found["remarks"],
    )


def held_out_chunks(chunker: Any) -> Sequence[Any]:
    """Return the bundled text that no arm learns from, cut by the arm's own tokenizer."""
    return held_out(BUNDLED, chunker, chunks=_HELD_OUT_CHUNKS)
