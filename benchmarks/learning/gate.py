"""Experiment 7: does the gate promote what is no better, does it find what is, and what does poison do?

Simulated: two equal learners whose paired losses hang together from chunk to
chunk (AR(1)), through the worker's own gate; then learners that are better by
a known amount. Real: two learners that differ in their seed alone, on one
stream, which tells how far real pairs hang together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group

from benchmarks.learning import picture
from benchmarks.learning.experiment import Ask, Outcome, table
from benchmarks.learning.poison import poisoned
from benchmarks.learning.runs import Variant, dated_stream, run, sample_of, tokens_in, wishes
from streamlearn.bench.measures import interval
from streamlearn.core.gate import Gate
from streamlearn.core.judgement import Decision, Verdict
from tests.unit.core.judging import GATE, series

ALLOWED = 0.05
"""Share of A/A comparisons that may end in a promotion."""
_CORRELATIONS = (0.0, 0.5, 0.8)
_SD = 0.2
"""Nats per token between chunks: what two adapters of one base differ by from chunk to chunk."""
_GAINS = (0.002, 0.005, 0.01, 0.02, 0.05)
_SDS = (0.05, 0.1, 0.2)
_TOKENS = 100


def gate(ask: Ask) -> Outcome:
    """Simulate, then compare two real learners, then poison one."""
    even, power = _even(ask), _power(ask)
    twins = _twins(ask)
    poison = poisoned(ask)
    apart = "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**twins["difference"])
    shown = [
        table(
            "two equal learners: how often is one promoted?",
            ["AR(1)", "runs", "promoted", f"at most {ALLOWED:.0%}"],
            [
                [f"{row['correlation']}", str(row["runs"]), f"{row['promoted']:.1%}", "yes" if row["kept"] else "no"]
                for row in even
            ],
        ),
        table(
            "a better one: share promoted within 200 blocks of 16 chunks (median blocks)",
            ["gain, nats/token", *(f"sd {sd}" for sd in _SDS)],
            [
                [
                    f"{gain}",
                    *(
                        f"{row['promoted']:.0%}" + (f" ({row['blocks']:.0f})" if row["blocks"] else "")
                        for row in power
                        if row["gain"] == gain
                    ),
                ]
                for gain in _GAINS
            ],
        ),
        table(
            f"two seeds on one stream: {twins['tokens']:,} tokens",
            ["mean difference [95 %]", "sd of a chunk", "AR(1)", "gate, one way", "the other way"],
            [
                [
                    apart,
                    f"{twins['sd']:.3f}", f"{twins['correlation']:+.2f}",
                    *twins["verdicts"],
                ]
            ],
        ),
        poison.table,
    ]  # fmt: skip

    def draw(path: Path) -> None:
        with picture.canvas(
            path, "How often the gate promotes, by how much better the candidate is",
            "gain of the candidate (nats per token)", "promoted within 200 blocks",
        ) as axes:  # fmt: skip
            nothing = next(row["promoted"] for row in even if row["correlation"] == 0.5)  # noqa: PLR2004
            for colour, sd in zip(picture.COLOURS, _SDS, strict=False):
                shares = [row["promoted"] for row in power if row["sd"] == sd]
                axes.plot(_GAINS, shares, "o-", color=colour, lw=1.8, label=f"chunks differ by sd {sd}")
            axes.plot([0.0], [nothing], "D", color=picture.DARK, ms=7, label=f"two equal learners: {nothing:.1%}")
            axes.axhline(ALLOWED, color=picture.DARK, ls="--", lw=1)
            axes.axvline(GATE.min_gain, color=picture.QUIET, ls=":", lw=1, label=f"min_gain, {GATE.min_gain}")
            axes.set_ylim(-0.03, 1.05)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")

    figures = {"even": even, "power": power, "twins": twins, "poison": poison.figures}
    return Outcome(
        stream=poison.stream, tokens=poison.tokens, figures=figures, draw=draw,
        table=Group(*shown),
    )  # fmt: skip


def _even(ask: Ask) -> list[dict[str, Any]]:
    runs = 200 if ask.fast else 1_000
    rows = []
    for correlation in (0.5,) if ask.fast else _CORRELATIONS:
        promoted = sum(
            _promoted(_shown(ask.seed * 100_003 + number, gain=0.0, sd=_SD, correlation=correlation)) is not None
            for number in _counted(ask, f"equal learners, AR(1) {correlation}", runs)
        )
        share = promoted / runs
        rows.append({"correlation": correlation, "runs": runs, "promoted": share, "kept": share <= ALLOWED})
    return rows


def _power(ask: Ask) -> list[dict[str, Any]]:
    runs = 3 if ask.fast else 100
    rows = []
    for gain in _GAINS:
        for sd in _SDS:
            verdicts = [
                _promoted(_shown(ask.seed * 100_003 + number, gain=gain, sd=sd, correlation=0.5))
                for number in _counted(ask, f"better by {gain}, sd {sd}", runs)
            ]
            blocks = [verdict.evidence.blocks for verdict in verdicts if verdict is not None]
            rows.append({
                "gain": gain, "sd": sd, "runs": runs, "promoted": len(blocks) / runs,
                "blocks": float(np.median(blocks)) if blocks else None,
            })  # fmt: skip
    return rows


def _counted(ask: Ask, what: str, runs: int) -> Iterator[int]:
    for number in range(runs):
        yield number
        ask.told(what, number + 1, runs)


def _shown(seed: int, *, gain: float, sd: float, correlation: float) -> NDArray[np.float64]:
    """Return differences of chunks, nats per token, for as long as a candidate is compared."""
    return gain + series(seed, 16 * GATE.max_blocks, sd=sd, correlation=correlation)


def _promoted(differences: NDArray[np.float64]) -> Verdict | None:
    """Return the gate's promotion of a candidate that is better by `differences`, None where there is none."""
    verdict = _verdict(differences, np.full(len(differences), _TOKENS))
    return verdict if verdict is not None and verdict.decision is Decision.PROMOTE else None


def _verdict(differences: NDArray[np.float64], tokens: NDArray[Any]) -> Verdict | None:
    judge = Gate(GATE)
    judge.consider("v000002", champion="v000001", held_out_rise=0.0)
    for difference, count in zip(differences.tolist(), tokens.tolist(), strict=True):
        if (verdict := judge.observe(difference * count, 0.0, int(count))) is not None:
            return verdict
    return None


def _twins(ask: Ask) -> dict[str, Any]:
    """Let two learners live that differ in their seed alone, and show the gate their live losses."""
    stream, part = dated_stream(ask)
    wished = wishes(ask, stream, ask.seed, part=part)
    sample = sample_of(wished)
    tokens = tokens_in(sample)
    first, second = (
        run(ask, [Variant(label=f"seed {seed}", settings={"stream": {"seed": seed}})], wished)[f"seed {seed}"].nll
        for seed in (ask.seed, ask.seed + 1)
    )
    difference = (first - second) / tokens
    verdicts = [_verdict(each, tokens) for each in (difference, -difference)]
    return {
        "tokens": sample.tokens,
        "difference": interval([(tokens, first - second)]).document(),
        "sd": float(difference.std()),
        "correlation": float(np.corrcoef(difference[:-1], difference[1:])[0, 1]),
        "verdicts": ["undecided" if each is None else each.decision.value for each in verdicts],
    }
