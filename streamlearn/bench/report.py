"""A comparison as a table, a document and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from streamlearn.bench.measures import Figures, Interval
from streamlearn.bench.sample import Sample

_SMOOTH_CHUNKS = 40
_COLOURS = ("#8a8f98", "#c62828", "#ef6c00", "#6a1b9a", "#2e7d32", "#00838f", "#795548", "#1565c0")
_LINES = ("-", "--", ":")
"""Where there are more arms than colours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Arms on one sample."""

    sample: Sample
    model: str
    seed: int
    settings: Mapping[str, Any]
    """What the streamlearn arms ran with beyond the defaults."""
    rows: Sequence[Figures]
    scores: Mapping[str, NDArray[np.float64]]
    against: str
    """The arm that the intervals compare the others with."""
    gains: Mapping[str, Interval]
    """Arm -> how many nats per token it is above `against`."""

    def document(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "stream": self.sample.name,
            "sample": self.sample.digest,
            "model": self.model,
            "seed": self.seed,
            "settings": self.settings,
            "chunks": len(self.sample.chunks),
            "tokens": self.sample.tokens,
            "arms": [self._row(row) for row in self.rows],
        }

    def _row(self, row: Figures) -> dict[str, Any]:
        gain = self.gains.get(row.arm)
        return {
            "arm": row.arm,
            "nats_per_token": _rounded(row.nats_per_token),
            "nats_per_token_last_fifth": _rounded(row.nats_per_token_last_fifth),
            "bits_per_byte": _rounded(row.bits_per_byte),
            "forgetting": _rounded(row.forgetting),
            "forgetting_early_half": _rounded(row.forgetting_early_half),
            "anchor_nats": _rounded(row.anchor_nats),
            "anchor_loss": _rounded(row.anchor_loss),
            "tokens_per_s": round(row.tokens_per_s, 1),
            "peak_rss_mb": row.peak_rss_mb,
            "seconds": round(row.seconds, 1),
            "above": None
            if gain is None
            else {
                "arm": self.against,
                "mean": _rounded(gain.mean),
                "low": _rounded(gain.low),
                "high": _rounded(gain.high),
            },
            "topics": {
                topic: {"nats_per_token": _rounded(nats), "bits_per_byte": _rounded(bits)}
                for topic, (nats, bits) in row.by_topic.items()
            },
        }


def table(comparison: Comparison) -> Table:
    """Return the comparison for a terminal."""
    shown = Table(title=f"{comparison.sample.tokens:,} tokens of {comparison.sample.name}, {comparison.model}")
    shown.add_column("arm")
    for name in (
        "nats/token", f"above {comparison.against} [95 %]", "last fifth", "bits/byte", "forgetting", "held-out",
        "tokens/s", "peak MB", "seconds",
    ):  # fmt: skip
        shown.add_column(name, justify="right")
    for row in comparison.rows:
        gain = comparison.gains.get(row.arm)
        shown.add_row(
            row.arm,
            f"{row.nats_per_token:.3f}",
            "" if gain is None else f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
            f"{row.nats_per_token_last_fifth:.3f}",
            f"{row.bits_per_byte:.3f}",
            _signed(row.forgetting),
            _signed(row.anchor_loss),
            f"{row.tokens_per_s:.0f}",
            f"{row.peak_rss_mb:,}",
            f"{row.seconds:.0f}",
        )
    return shown


def draw(comparison: Comparison, path: Path) -> None:
    """Write the arms' gain over the frozen base along the stream as PNG; the base must be among them."""
    # Here: matplotlib takes half a second that other commands need not wait for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    tokens = np.array([chunk.scored_tokens for chunk in comparison.sample.chunks], dtype=np.float64)
    base = comparison.scores["frozen"]
    for place, row in enumerate(comparison.rows):
        gain = smooth(base - comparison.scores[row.arm], tokens)
        axes.plot(
            np.cumsum(tokens), gain, label=row.arm, lw=2.4 if row.arm == comparison.against else 1.3,
            color=_COLOURS[place % len(_COLOURS)], ls=_LINES[place // len(_COLOURS) % len(_LINES)],
        )  # fmt: skip
    axes.axhline(0.0, color="#30343a", lw=0.8)
    axes.set_xlabel("tokens of the stream")
    axes.set_ylabel("gain over the frozen base\n(nats per token, before learning)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(f"{Path(comparison.model).name} on {comparison.sample.name}", loc="left", fontweight="bold")
    figure.savefig(path)


def smooth(nats: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fading mean in nats per token."""
    keep, total, weight, out = 1.0 - 1.0 / _SMOOTH_CHUNKS, 0.0, 0.0, np.zeros(len(nats))
    for place in range(len(nats)):
        total, weight = total * keep + nats[place], weight * keep + tokens[place]
        out[place] = total / weight
    return out


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
