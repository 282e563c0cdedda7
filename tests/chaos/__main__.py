"""`make chaos`: strike workers as a seed says, then let an independent checker look at what is left."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.checker import Verdict, check
from tests.chaos.harness import Run, Tally
from tests.chaos.plan import lives
from tests.chaos.scene import AT_RISK, PARTITIONS, STORES, Missing, Scene, broker, set_scene, store
from tests.chaos.stream import Feed
from tests.models.tiny import make_model

_SHOWN = 20
_DESCRIPTION = """\
Starts Apache Kafka (KAFKA_HOME, or the cluster of STREAMLEARN_TEST_KAFKA) and a real S3 server, feeds a topic with
new texts, repeats, bad records and aborted transactions, and strikes one worker after the other: SIGKILL, SIGTERM
(once, and twice), SIGSTOP until another has taken over and then SIGCONT, and signals at the named points of
streamlearn/ports.py. One worker in thirteen is the true command, the others are forked from a process that has
imported everything. A last worker is then left alone until the end of the topic, and a checker that imports nothing
from streamlearn verifies what lies on Kafka and on the store.
"""
_EPILOG = """\
What is struck, how and after how many commits follows from --seed; the instant within that is the machine's.
Progress goes to standard error. The last line of standard output is one JSON object:
  kills          workers struck                  events         ledger lines, one for each offset
  lost           offsets, texts, chunks or dead letters that are missing
  learnt_twice   offsets, texts or chunks that count twice
  half_versions  versions that are seen and not whole
  broken_digests objects that are not what their checkpoint or manifest says
  takeovers      workers that began to write after one that had not given up its lease
  fenced         workers that exited 3, as another had taken over
Exit code: 0 all promises kept, 1 one was broken (standard error names it, and where logs and data were kept),
2 something to run on is missing.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, check, report; returns the exit code."""
    told = _parser().parse_args(arguments)
    folder = Path(told.keep or tempfile.mkdtemp(prefix="streamlearn-chaos-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        # Logs are read for what their workers have done; those of another run would mislead.
        _say(f"{folder} is not empty: name a fresh place to keep things in")
        return 2
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # As an exception, so that broker, store and workers are ended before we are.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    began = time.monotonic()
    try:
        with broker() as kafka, store(told.store) as s3:
            scene = set_scene(kafka, s3, make_model(folder / "model"), folder)
            _say(f"{told.kills} kills with seed {told.seed} on {kafka.name} and {s3.name}; logs in {folder}")
            tally = _struck(scene, told)
            evidence = scene.evidence()
            verdict = check(evidence, drained=not tally.faults, unclean=tally.unclean, at_risk=AT_RISK)
            broken = [*tally.faults, *map(str, verdict.faults)]
            if broken or told.keep:
                evidence.keep(folder)
    except Missing as missing:
        _say(str(missing))
        if not told.keep:
            shutil.rmtree(folder)
        return 2
    _report(broken, verdict, folder)
    if not broken and not told.keep:
        shutil.rmtree(folder)
    figures = _figures(tally, verdict)
    names = {"seconds": round(time.monotonic() - began, 1), "broker": kafka.name, "store": s3.name}
    print(json.dumps(figures | names))  # noqa: T201
    return 1 if broken else 0


def _struck(scene: Scene, told: argparse.Namespace) -> Tally:
    feed = Feed(scene.kafka.address, scene.topic, seed=told.seed, partitions=PARTITIONS, rate=told.rate)
    run = Run(scene, feed, _say)
    try:
        run.through(lives(told.seed, told.kills))
    except TimeoutError as stuck:
        run.tally.faults.append(f"stuck: {stuck}")
    return run.tally


def _report(broken: Sequence[str], verdict: Verdict, folder: Path) -> None:
    _say(
        f"checked {verdict.events} events, {verdict.checkpoints} checkpoints and {verdict.leavings} leavings, "
        f"{verdict.versions} versions, {verdict.letters_again} dead letters that came again"
    )
    for each in broken[:_SHOWN]:
        _say(f"BROKEN  {each}")
    if broken:
        _say(f"{len(broken)} promises broken; logs, objects and records are in {folder}")


def _figures(tally: Tally, verdict: Verdict) -> dict[str, Any]:
    return {
        "kills": tally.kills,
        "events": verdict.events,
        "lost": verdict.count("lost") + verdict.count("dead_letter"),
        "learnt_twice": verdict.count("learnt_twice"),
        "half_versions": verdict.count("half_version"),
        "broken_digests": verdict.count("broken_digest"),
        "takeovers": tally.takeovers,
        "fenced": tally.fenced,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make chaos",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=50, help="workers to strike (50); 300 take about a quarter hour")
    parser.add_argument("--seed", type=int, default=0, help="what is struck and what is sent (0)")
    parser.add_argument("--store", choices=STORES, default="seaweedfs", help="S3 server (seaweedfs)")
    parser.add_argument("--rate", type=float, default=8.0, help="records a second beside the bursts (8)")
    parser.add_argument("--keep", metavar="DIR", help="where logs and data go, and stay; a fresh place unless given")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
