"""Points of gain and loss: which of them no other beats, where to stop, and how to draw them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning import picture

_WIDEST = 0.06
"""Nats per token of loss that are shown at least."""
_AROUND = (
    (0.7, 0.7, "left", "bottom"),
    (0.7, -0.7, "left", "top"),
    (-0.7, 0.7, "right", "bottom"),
    (-0.7, -0.7, "right", "top"),
    (0.0, 1.0, "center", "bottom"),
    (0.0, -1.0, "center", "top"),
    (1.0, 0.0, "left", "center"),
    (-1.0, 0.0, "right", "center"),
)
"""Where a label may stand around its point, the best first: direction, and how it is aligned."""
_FAR = (8, 20, 34, 48, 64)
"""How far from it, in points of type."""
_LINE_FROM = 15
"""From how far on a line leads to it."""
_AIR = 3.0
"""Pixels around a label that stay free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One variant; nats per token."""

    label: str
    rival: bool
    gain: float
    """Frozen less the variant, on the stream."""
    loss: float
    """The variant less frozen, on held-out text."""
    seeds: int = 1

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both, by rising loss."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.loss, -point.gain)):
        if not found or point.gain > found[-1].gain:
            found.append(point)
    return found


def knee(points: Sequence[Point]) -> Point:
    """Return the point of the front after which gain gets dear: furthest above the chord between its ends."""
    edge = front(points)
    first, last = edge[0], edge[-1]
    wide, high = last.loss - first.loss, last.gain - first.gain
    if wide <= 0.0 or high <= 0.0:
        return last
    return max(edge, key=lambda point: (point.gain - first.gain) / high - (point.loss - first.loss) / wide)


def drawn(points: Sequence[Point], path: Path, stream: str) -> None:
    """Write the picture; what lies far off to the right or below stands at the edge, with its figures."""
    ours = [point for point in points if not point.rival] or list(points)
    right = max(_WIDEST, 1.3 * max(point.loss for point in ours))
    left = min(-0.01, 1.3 * min(point.loss for point in points))
    top = 1.15 * max(0.02, *(point.gain for point in points))
    worst = min(point.gain for point in ours)
    # Where all gain, their differences matter, not the way up from nothing.
    bottom = max(worst - 0.5 * (top - worst), 0.0) if worst > 0.0 else min(-0.15 * top, 1.2 * worst)
    with picture.canvas(
        path, f"Gain on the stream against forgetting\n{stream}", "loss on held-out text (nats per token above frozen)",
        "gain on the stream over frozen\n(nats per token, before learning)", height=6.5,
    ) as axes:  # fmt: skip
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        edge = front(points)
        axes.step(
            [point.loss for point in edge], [point.gain for point in edge], where="post", color=picture.QUIET, lw=1.2,
            ls="--", zorder=1, label="front",
        )  # fmt: skip
        best = knee(ours)
        axes.scatter(
            [best.loss], [best.gain], s=180, facecolors="none", edgecolors=picture.DARK, lw=1.4, label="knee", zorder=4
        )
        for rival, colour, name in ((False, picture.OURS, "streamlearn"), (True, picture.RIVAL, "rivals")):
            each = [point for point in points if point.rival is rival]
            axes.scatter(
                [min(point.loss, right) for point in each], [max(point.gain, bottom) for point in each], color=colour,
                s=42, zorder=3, label=name, clip_on=False,
            )  # fmt: skip
        picture.zero(axes)
        axes.axvline(0.0, color=picture.DARK, lw=0.8)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        _label(axes, points, right, bottom)


def _label(axes: Any, points: Sequence[Point], right: float, bottom: float) -> None:
    """Write each label where it hides the fewest others."""
    from matplotlib.text import Text  # noqa: PLC0415 - as in `picture`

    axes.figure.draw_without_rendering()
    # Nothing moves from here on.
    axes.figure.set_layout_engine("none")
    renderer = axes.figure.canvas.get_renderer()
    inside = axes.get_window_extent(renderer)
    places = [(min(point.loss, right), max(point.gain, bottom)) for point in points]
    at = [axes.transData.transform(place) for place in places]
    taken: list[Any] = [axes.get_legend().get_window_extent(renderer)]
    for point, place in sorted(zip(points, places, strict=True), key=lambda each: (-each[0].gain, each[0].loss)):
        far = place != (point.loss, point.gain)
        text = f"{point.label} ({point.gain:+.2f}, {point.loss:+.2f})" if far else point.label
        own = axes.transData.transform(place)
        best: tuple[float, Any, Any] | None = None
        for dearer, (distance, (dx, dy, across, up)) in enumerate(itertools.product(_FAR, _AROUND)):
            note = axes.annotate(
                text, place, xytext=(distance * dx, distance * dy), textcoords="offset points", ha=across, va=up,
                fontsize=8, color=picture.RIVAL if point.rival else picture.DARK,
                arrowprops={"arrowstyle": "-", "lw": 0.5, "color": picture.QUIET} if distance >= _LINE_FROM else None,
            )  # fmt: skip
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer).padded(_AIR)
            hidden = sum(box.overlaps(other) for other in taken)
            hidden += sum(box.contains(x, y) for x, y in at if (x, y) != tuple(own))
            out = not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
            cost = 3.0 * hidden + 4.0 * out + 0.05 * dearer
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, note, box)
            else:
                note.remove()
        assert best is not None, "there are places"
        taken.append(best[2])
