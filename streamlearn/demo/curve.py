"""The learning curve, from the ledger: numbers and a picture.

Every point is a chunk that base and live model both scored before either had
learnt from it. Knows nothing of how a ledger is stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamlearn.core.manifest import EventLine, ScoreLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMOOTH_TOKENS = 8_000.0
"""Tokens after which a chunk counts 1/e in the drawn averages: about a fifth of a short demo."""

_BASE, _LIVE, _GAIN, _INK = "#8a8f98", "#1565c0", "#cfe3f7", "#30343a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One chunk, scored by both before it was learnt."""

    at: int
    """Tokens learnt up to and with this chunk."""
    tokens: int
    live: float
    """Summed nats."""
    base: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """All points of a lineage in stream order."""

    points: tuple[Point, ...]
    tokens: int
    """Tokens of all first visits, sampled or not."""

    @property
    def gain(self) -> float | None:
        """Nats per token that the live model saves over the frozen base; None before the first point."""
        return _gain(self.points)

    @property
    def gain_last_fifth(self) -> float | None:
        """The same over the last fifth of the tokens; None where it holds no point."""
        return _gain([point for point in self.points if point.at > 0.8 * self.tokens])


def curve_of(ledger: Iterable[EventLine | ScoreLine]) -> Curve:
    """Return the curve of a ledger's lines, given in stream order."""
    points, at = [], 0
    for line in ledger:
        if isinstance(line, EventLine):
            continue
        at += line.tokens
        if line.nll is not None and line.nll_base is not None and line.tokens > 0:
            points.append(Point(at=at, tokens=line.tokens, live=line.nll, base=line.nll_base))
    return Curve(points=tuple(points), tokens=at)


def smooth(points: Sequence[Point]) -> tuple[list[float], list[float], list[float]]:
    """Return (tokens learnt, live, base) with both scores as fading averages in nats per token."""
    at, live, base = [], [], []
    weight = live_sum = base_sum = 0.0
    last = 0
    for point in points:
        keep, last = math.exp((last - point.at) / _SMOOTH_TOKENS), point.at
        weight = weight * keep + point.tokens
        live_sum = live_sum * keep + point.live
        base_sum = base_sum * keep + point.base
        at.append(float(point.at))
        live.append(live_sum / weight)
        base.append(base_sum / weight)
    return at, live, base


def draw(curve: Curve, versions: Sequence[tuple[str, int]], path: Path, *, title: str) -> None:
    """Write the picture as PNG.

    Args:
        versions: (name, tokens learnt when it was made).

    Raises:
        ValueError: there is nothing to draw yet.
    """
    if not curve.points:
        raise ValueError("no chunk was scored by both models yet, so there is no curve to draw")
    # Here, not above: matplotlib takes half a second that other commands need not wait for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    scores, gain = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_scores(scores, curve)
    _draw_gain(gain, curve)
    for axes in (scores, gain):
        for _, tokens in versions:
            axes.axvline(tokens, color=_INK, lw=0.7, ls=(0, (4, 4)))
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for name, tokens in versions:
        scores.annotate(
            name, (tokens, 1.0), xycoords=("data", "axes fraction"), xytext=(-2, -2), textcoords="offset points",
            rotation=90, va="top", ha="right", fontsize=7, color=_INK,
        )  # fmt: skip
    scores.set_title(title, loc="left", fontsize=12, color=_INK, fontweight="bold")
    figure.savefig(path)


def _draw_scores(axes: Axes, curve: Curve) -> None:
    at, live, base = smooth(curve.points)
    places = [point.at for point in curve.points]
    axes.scatter(places, [point.base / point.tokens for point in curve.points], s=6, color=_BASE, alpha=0.35, lw=0)
    axes.scatter(places, [point.live / point.tokens for point in curve.points], s=6, color=_LIVE, alpha=0.35, lw=0)
    axes.fill_between(at, live, base, color=_GAIN, lw=0)
    axes.plot(at, base, color=_BASE, lw=2, label="frozen base")
    axes.plot(at, live, color=_LIVE, lw=2, label="live model, scored before it learns")
    low, high = min(live + base), max(live + base)
    margin = 0.25 * (high - low) + 0.05
    axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel("nats per token\n(lower is better)")
    axes.legend(frameon=False, loc="lower left", fontsize=9, ncols=2)


def _draw_gain(axes: Axes, curve: Curve) -> None:
    at, live, base = smooth(curve.points)
    gain = [above - below for above, below in zip(base, live, strict=True)]
    axes.fill_between(at, 0.0, gain, color=_GAIN, lw=0)
    axes.plot(at, gain, color=_LIVE, lw=2)
    axes.axhline(0.0, color=_INK, lw=0.8)
    axes.set_xlim(0, curve.tokens)
    axes.set_ylim(min(0.0, *gain), 1.15 * max([*gain, 0.01]))
    axes.set_ylabel("gain over the base\n(nats per token)")
    axes.set_xlabel("tokens of the stream learnt")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(
        f"{curve.gain or 0.0:.3f} over all, {curve.gain_last_fifth or 0.0:.3f} on the last fifth",
        loc="left",
        fontsize=9,
    )


def _gain(points: Sequence[Point]) -> float | None:
    tokens = sum(point.tokens for point in points)
    return sum(point.base - point.live for point in points) / tokens if tokens else None
