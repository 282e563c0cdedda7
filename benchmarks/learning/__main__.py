"""Run one experiment, print its table, keep its document and its picture; see the package."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.learning.against import live, loops
from benchmarks.learning.control import control
from benchmarks.learning.drift import drift
from benchmarks.learning.experiment import Ask, Experiment, document, write
from benchmarks.learning.facts import learnt
from benchmarks.learning.forgetting import forgetting
from benchmarks.learning.frontier import frontier
from benchmarks.learning.gate import gate
from benchmarks.learning.half_life import half_life
from benchmarks.learning.poison import poisoned
from streamlearn.cli.bench import progress, settings_of
from streamlearn.learner.threads import share_cores
from streamlearn.ports import StreamlearnError
from streamlearn.telemetry import logs
from tests.models.tiny import make_model

EXPERIMENTS = {
    each.name: each
    for each in (
        Experiment(
            name="live", shows="what learning gains over the frozen base on a dated stream", run=live,
            tokens=60_000, fast_tokens=3_000,
        ),
        Experiment(
            name="control", shows="what it loses on a stream that the base itself wrote, where nobody can win",
            run=control, tokens=30_000, fast_tokens=1_500, seeds=3,
        ),
        Experiment(
            name="forgetting", shows="what of A is left after B, and how soon it is back, with and without replay",
            run=forgetting, tokens=60_000, fast_tokens=4_000,
        ),
        Experiment(
            name="half-life", shows="how long the window should remember", run=half_life, tokens=30_000,
            fast_tokens=2_000,
        ),
        Experiment(
            name="facts", shows="whether invented facts are known afterwards, asked in words never read", run=learnt,
            tokens=60_000, fast_tokens=4_000,
        ),
        Experiment(
            name="drift", shows="how soon an abrupt switch is noticed, and whether the reaction helps", run=drift,
            tokens=140_000, fast_tokens=9_000, seeds=3,
        ),
        Experiment(
            name="gate", shows="how often the gate errs, its power, and what scrambled text does", run=gate,
            tokens=60_000, fast_tokens=7_000,
        ),
        Experiment(
            name="poison", shows="what scrambled text does, alone: of gate, with a picture of its own", run=poisoned,
            tokens=60_000, fast_tokens=7_000,
        ),
        Experiment(
            name="loops", shows="the loops people write, each at several rates, in one table", run=loops,
            tokens=60_000, fast_tokens=1_200,
        ),
        Experiment(
            name="frontier", shows="gain on the stream against loss on held-out text, one point a variant",
            run=frontier, tokens=30_000, fast_tokens=2_000,
        ),
    )
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and return the exit code: 0, or 2 where it cannot be done as asked."""
    told = _parser().parse_args(arguments)
    console = Console(width=160)
    if told.name == "list":
        for each in EXPERIMENTS.values():
            console.print(f"[bold]{each.name:11}[/bold] {each.shows}", highlight=False)
        return 0
    share_cores(os.environ)
    # Progress and the table are enough to read.
    logs.configure("warning", "console")
    try:
        with tempfile.TemporaryDirectory(prefix="streamlearn-learning-") as folder:
            _run(EXPERIMENTS[told.name], told, Path(folder), console)
    except (StreamlearnError, ValueError, OSError) as error:
        sys.stderr.write(f"{told.name}: {error}\n")
        return 2
    return 0


def _run(experiment: Experiment, told: argparse.Namespace, folder: Path, console: Console) -> None:
    count = told.seeds or (1 if told.fast else experiment.seeds)
    for file in (told.json, told.plot):
        if file is not None and not file.absolute().parent.is_dir():
            raise ValueError(f"there is no directory {file.parent} to write {file.name} to")
    ask = Ask(
        experiment=experiment.name,
        fast=told.fast,
        seeds=tuple(range(told.seed, told.seed + count)),
        max_tokens=told.max_tokens or (experiment.fast_tokens if told.fast else experiment.tokens),
        model=str(make_model(folder / "tiny")) if told.fast else told.model,
        settings=settings_of(told.set),
        folder=folder,
        told=progress(),
        files=tuple(told.results),
        grid=tuple(told.grid),
    )
    began = time.monotonic()
    outcome = experiment.run(ask)
    console.print(outcome.table)
    if told.json is not None:
        write(told.json, document(ask, outcome, experiment.shows, time.monotonic() - began))
    if told.plot is not None:
        outcome.draw(told.plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning",
        description="Show by experiment whether learning from a stream helps, and what it costs.",
        epilog="experiments:\n" + "\n".join(f"  {each.name:11} {each.shows}" for each in EXPERIMENTS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*EXPERIMENTS, "list"], metavar="NAME", help="see below; `list` prints them")
    parser.add_argument("--fast", action="store_true", help="a tiny model and made-up text, in seconds")
    parser.add_argument("--seed", type=_count(0), default=17, metavar="N", help="of everything drawn (17)")
    parser.add_argument("--seeds", type=_count(1), metavar="N", help="how many, from --seed on; each is a whole run")
    parser.add_argument("--max-tokens", type=_count(1), metavar="N", help="of the stream, in each run of an arm")
    parser.add_argument("--model", default="smollm2-135m", help="hub id, directory or GGUF file (smollm2-135m)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for the streamlearn arms, as `bench learn` has"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, with all that made them")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the picture there")
    group = parser.add_argument_group("frontier alone")
    group.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="FILE",
        help="take points from these documents of `streamlearn bench learn --json`, of live or of loops; run nothing",
    )  # fmt: skip
    group.add_argument(
        "--grid", action="append", default=[], metavar="KEY=A,B", help="run all combinations of these settings"
    )
    return parser


def _count(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.replace("_", "").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: write a whole number from {least} on")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
