"""Experiments 1 and 8: live against frozen, and against the loops that people write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.experiment import Ask, Outcome, table
from benchmarks.learning.runs import FROZEN, OURS, dated_stream, run_one, tokens_in, wishes
from streamlearn.bench.compare import compare
from streamlearn.bench.measures import Interval, interval
from streamlearn.bench.report import Comparison, draw

LIVE = (FROZEN, OURS)
LOOPS = (
    FROZEN,
    "sgd_loop",
    "sgd_loop@1e-3",
    "sgd_loop@1e-2",
    "adamw_loop@3e-6",
    "adamw_loop",
    "adamw_loop@3e-5",
    "trainer_nightly",
    "trainer_nightly@1e-3",
    "streamlearn-without-anything@1e-3",
    "streamlearn-without-anything@2e-3",
    "streamlearn-without-anything@4e-3",
    OURS,
)
"""Each rival at its usual rate and beside it; without anything, ours is AdamW on an adapter and fresh chunks alone."""
LOOPS_FAST = (FROZEN, "sgd_loop@1e-3", "adamw_loop", "trainer_nightly@1e-3", "streamlearn-without-anything@1e-2", OURS)


def live(ask: Ask) -> Outcome:
    """Compare with the frozen base."""
    return _compared(ask, LIVE)


def loops(ask: Ask) -> Outcome:
    """Compare with every rival, each at several rates."""
    return _compared(ask, LOOPS_FAST if ask.fast else LOOPS)


def _compared(ask: Ask, arms: Sequence[str]) -> Outcome:
    stream, part = dated_stream(ask)
    runs = [
        compare(
            arms,
            wishes(ask, stream, seed, part=part),
            ask.told,
            run=lambda arm, wished, told: run_one(ask, arm, wished, told),
        )
        for seed in ask.seeds
    ]
    sample = runs[0].sample
    rows = [_row(arm, runs) for arm in arms]
    shown = table(
        f"{sample.tokens:,} tokens of {sample.name}, {len(runs)} seed{'s' * (len(runs) > 1)}",
        ["arm", "nats/token", "gain over frozen [95 %]", f"above {OURS} [95 %]", "forgetting", "held-out", "tokens/s",
         "peak MB"],
        [_shown(row) for row in rows],
    )  # fmt: skip

    def picture(path: Path) -> None:
        draw(runs[0], path)

    figures = {"arms": rows, "by_seed": [run.document() for run in runs]}
    return Outcome(stream=sample.name, tokens=sample.tokens, figures=figures, table=shown, draw=picture)


def _row(arm: str, runs: Sequence[Comparison]) -> dict[str, Any]:
    figures = [next(row for row in run.rows if row.arm == arm) for run in runs]

    def average(name: str) -> float:
        return float(np.mean([getattr(each, name) for each in figures]))

    return {
        "arm": arm,
        "nats_per_token": average("nats_per_token"),
        "nats_per_token_last_fifth": average("nats_per_token_last_fifth"),
        "gain": _between(runs, arm, FROZEN).document(),
        "above": None if arm == OURS else _between(runs, OURS, arm).document(),
        "forgetting": average("forgetting"),
        "forgetting_early_half": average("forgetting_early_half"),
        "anchor_loss": average("anchor_loss"),
        "tokens_per_s": float(np.median([each.tokens_per_s for each in figures])),
        "peak_rss_mb": max(each.peak_rss_mb for each in figures),
    }


def _between(runs: Sequence[Comparison], ours: str, theirs: str) -> Interval:
    """Return how many nats per token `theirs` is above `ours`, over all seeds."""
    return interval([(tokens_in(run.sample), run.scores[theirs] - run.scores[ours]) for run in runs])


def _shown(row: dict[str, Any]) -> list[str]:
    gain, above = Interval(**row["gain"]), row["above"]
    return [
        row["arm"],
        f"{row['nats_per_token']:.3f}",
        "" if row["arm"] == FROZEN else str(gain),
        "" if above is None else str(Interval(**above)),
        f"{row['forgetting']:+.3f}",
        f"{row['anchor_loss']:+.3f}",
        f"{row['tokens_per_s']:.0f}",
        f"{row['peak_rss_mb']:,}",
    ]
