"""Pictures of the experiments: one look for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLOURS = ("#1565c0", "#c62828", "#2e7d32", "#ef6c00", "#6a1b9a", "#00838f", "#795548", "#8a8f98")
OURS, RIVAL, QUIET, DARK = "#1565c0", "#c62828", "#8a8f98", "#30343a"


@contextmanager
def canvas(path: Path, title: str, across: str, up: str, *, height: float = 5.0, pad: float = 6.0) -> Iterator[Any]:
    """Yield axes with their labels; write them to `path` at the end; `pad` is between them and the title, in points."""
    # Here: matplotlib takes half a second that other commands need not wait for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontweight="bold", pad=pad)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    handles, _ = axes.get_legend_handles_labels()
    if handles and axes.get_legend() is None:
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(path)


def zero(axes: Any) -> None:
    """Draw the line at which nothing is gained."""
    axes.axhline(0.0, color=DARK, lw=0.8)


def cumulated(tokens: NDArray[np.float64], nats: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return nats per token of everything up to each chunk, shape (C,)."""
    return np.asarray(np.cumsum(nats) / np.cumsum(tokens), dtype=np.float64)


def phases(axes: Any, edges: Sequence[float], names: Sequence[str]) -> None:
    """Shade every other stretch between `edges`, and name each at the top."""
    for place, name in enumerate(names):
        low, high = edges[place], edges[place + 1]
        if place % 2:
            axes.axvspan(low, high, color="#eceff1", zorder=0)
        axes.text(
            (low + high) / 2, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=9,
            color=DARK,
        )  # fmt: skip
