"""One arm after another on the same sample, each in a process of its own.

A process each, so that peak memory is the arm's, and nothing that one leaves
in torch helps or harms the next. Progress goes to a callback, results to JSON
files in a scratch folder.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from streamlearn.bench.measures import ArmResult
from streamlearn.bench.sample import Sample, held_out, tokens_of
from streamlearn.demo.rows import Part
from streamlearn.learner.held_out import BUNDLED
from streamlearn.ports import StreamlearnError
from streamlearn.telemetry import logs

PROBED_AT = (0.1, 0.5, 0.75, 1.0)
"""Shares of the tokens after which the past and the held-out text are probed."""
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


def _child(arm: str, wishes: Wishes, parent: Connection) -> None:
    # Here: the parent starts children without torch.
    from streamlearn.bench.make import make_arm, opened  # noqa: PLC0415

    # Standard output is the table's.
    logs.configure("warning", "console")
    try:
        world = opened(arm, wishes)
        made = make_arm(arm, world, wishes, lambda done, total: parent.send(("anchor", done, total)))
        probes = {
            "first tenth": world.sample.past("first tenth"),
            "early half": world.sample.past("early half"),
            "held-out": held_out_chunks(world.chunker),
        }
        found = _measured(made, world.sample, probes, parent)
    except Exception as error:  # noqa: BLE001 - told to the parent, which names the arm
        parent.send(("failed", f"{type(error).__name__}: {error}"))
        return
    parent.send(("done", found))


def _measured(arm: Any, sample: Sample, probes: Mapping[str, Sequence[Any]], parent: Connection) -> str:
    counts = [chunk.scored_tokens for chunk in sample.chunks]
    nll: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in probes}
    due = [share * sum(counts) for share in PROBED_AT]
    done, probing, began = 0, 0.0, time.perf_counter()
    for place, value in enumerate(arm.scores(sample.arrivals)):
        nll.append(float(value))
        done += counts[place]
        parent.send(("progress", done, sum(counts)))
        while len(due) > 1 and done >= due[0]:
            probing += _probe(arm, probes, found, share=PROBED_AT[len(PROBED_AT) - len(due)])
            due.pop(0)
    seconds = time.perf_counter() - began - probing
    _probe(arm, probes, found, share=1.0)
    assert len(nll) == len(counts), "an arm yields one score for each chunk"
    return json.dumps({
        "nll": nll, "probes": found, "seconds": seconds,
        "peak_rss_mb": _peak_rss_mb(),
    })  # fmt: skip


def _probe(arm: Any, probes: Mapping[str, Sequence[Any]], found: dict[str, list[float]], *, share: float) -> float:
    began = time.perf_counter()
    for name, chunks in probes.items():
        if chunks and not (name == "early half" and share < _WHOLE_HALF):
            found[name].append(float(np.sum(arm.served_nll(chunks)) / tokens_of(chunks)))
    return time.perf_counter() - began


def _peak_rss_mb() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    # A process begins with the peak of its parent in `ru_maxrss`, where it is begun by vfork.
    if (own := re.search(r"VmHWM:\s+(\d+) kB", status)) is not None:
        return int(own[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 * 1024 if sys.platform == "darwin" else 1024)


def _result(arm: str, document: str) -> ArmResult:
    found = json.loads(document)
    return ArmResult(
        arm=arm,
        nll=np.array(found["nll"]),
        probes={name: tuple(values) for name, values in found["probes"].items()},
        seconds=found["seconds"],
        peak_rss_mb=found["peak_rss_mb"],
    )


def held_out_chunks(chunker: Any) -> Sequence[Any]:
    """Return the bundled text that no arm learns from, cut by the arm's own tokenizer."""
    return held_out(BUNDLED, chunker, chunks=_HELD_OUT_CHUNKS)
