"""Experiment 4: how fast should a stream of releases be forgotten? One point for each `window.half_life`.

The floor on the window's effective size is lowered for all but the default:
at 256 chunks it lengthens every half-life here, and there is nothing to see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import picture
from benchmarks.learning.experiment import Ask, Outcome, table
from benchmarks.learning.runs import FROZEN, Variant, dated_stream, run, sample_of, tokens_in, wishes
from streamlearn.bench.measures import ArmResult, interval
from streamlearn.bench.sample import Sample

HALF_LIVES = ("90d", "180d", "1y", "2y", "4y", "16y")
HALF_LIVES_FAST = ("10m", "2h")
_FLOOR = 32
NO_WINDOW, DEFAULT = "no window", "2y, usual floor"


def half_life(ask: Ask) -> Outcome:
    """Vary the half-life alone."""
    stream, part = dated_stream(ask)
    spans = HALF_LIVES_FAST if ask.fast else HALF_LIVES
    floor = 4 if ask.fast else _FLOOR
    variants = [
        Variant(label=FROZEN, arm=FROZEN),
        Variant(label=NO_WINDOW, arm="streamlearn-without-window"),
        *(
            Variant(label=span, settings={"window": {"half_life": span, "min_effective_chunks": floor}})
            for span in spans
        ),
        Variant(label=DEFAULT, settings={"window": {"half_life": "2y"}}),
    ]
    runs = []
    for seed in ask.seeds:
        wished = wishes(ask, stream, seed, part=part)
        runs.append((sample_of(wished), run(ask, variants, wished)))
    rows = [_row(variant.label, runs) for variant in variants[1:]]
    sample = runs[0][0]
    shown = table(
        f"half-life of the window, {sample.tokens:,} tokens of {sample.name}, {len(runs)} seed(s)",
        ["half-life", "nats/token", "gain over frozen [95 %]", "gain over no window [95 %]", "forgetting", "held-out"],
        [
            [
                row["half_life"],
                f"{row['nats_per_token']:.3f}",
                *(f"{row[of]['mean']:+.3f} [{row[of]['low']:+.3f}, {row[of]['high']:+.3f}]"
                  for of in ("gain", "over_no_window")),
                f"{row['forgetting']:+.3f}",
                f"{row['held_out_loss']:+.3f}",
            ]
            for row in rows
        ],
    )  # fmt: skip

    def draw(path: Path) -> None:
        points = [row for row in rows if row["half_life"] != NO_WINDOW]
        gains = np.array([[row["over_no_window"][name] for name in ("mean", "low", "high")] for row in points])
        with picture.canvas(
            path, "How long should the window remember?", "half-life of the window (event time)",
            "gain over learning without a window\n(nats per token; 95 % interval)",
        ) as axes:  # fmt: skip
            axes.errorbar(
                [row["half_life"] for row in points], gains[:, 0],
                yerr=np.abs(gains[:, 1:] - gains[:, :1]).T, fmt="o", color=picture.OURS, capsize=4, ms=7,
            )  # fmt: skip
            picture.zero(axes)

    return Outcome(
        stream=sample.name, tokens=sample.tokens, figures={"floor_chunks": floor, "variants": rows}, table=shown,
        draw=draw,
    )  # fmt: skip


def _row(label: str, runs: list[tuple[Sample, dict[str, ArmResult]]]) -> dict[str, Any]:
    def gain_over(other: str) -> dict[str, float]:
        return interval([(tokens_in(sample), found[other].nll - found[label].nll) for sample, found in runs]).document()

    results = [found[label] for _, found in runs]
    return {
        "half_life": label,
        "nats_per_token": float(np.mean([found[label].nll.sum() / sample.tokens for sample, found in runs])),
        "gain": gain_over(FROZEN),
        "over_no_window": gain_over(NO_WINDOW),
        "forgetting": float(
            np.mean([each.probes["first tenth"][-1] - min(each.probes["first tenth"]) for each in results])
        ),
        "held_out_loss": float(
            np.mean([found[label].probes["held-out"][-1] - found[FROZEN].probes["held-out"][-1] for _, found in runs])
        ),
    }
