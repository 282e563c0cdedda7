"""What an experiment is asked, what it answers, and the document that is kept of it."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from streamlearn.bench.make import config_of
from streamlearn.bench.run import Told, Wishes

_EFFECTIVE = {"learner", "mix", "anchor", "window", "lora", "drift", "hygiene", "evaluation"}
"""Sections of a configuration that decide how is learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call of an experiment."""

    experiment: str
    fast: bool
    seeds: tuple[int, ...]
    max_tokens: int
    """Of each run of an arm."""
    model: str
    settings: Mapping[str, Any]
    """Sections of a configuration, beyond the defaults."""
    folder: Path
    """For streams that are made for this call."""
    told: Told
    files: tuple[Path, ...] = ()
    """Documents of earlier runs, for `frontier`."""
    grid: tuple[str, ...] = ()
    """`section.key=value,value`, for `frontier`."""

    @property
    def seed(self) -> int:
        """The first of them."""
        return self.seeds[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came out."""

    stream: str
    tokens: int
    """Of the stream, in each run of an arm; 0 where there was no stream."""
    figures: Mapping[str, Any]
    table: RenderableType
    draw: Callable[[Path], None]
    """Writes the picture as PNG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A named run."""

    name: str
    shows: str
    """In one line."""
    run: Callable[[Ask], Outcome]
    tokens: int
    """Of each run of an arm in the full experiment, unless told otherwise."""
    fast_tokens: int
    seeds: int = 1
    """How many the full experiment takes, unless told otherwise; a fast one takes one."""


def document(ask: Ask, outcome: Outcome, shows: str, seconds: float) -> dict[str, Any]:
    """Return everything as JSON."""
    return {
        "experiment": ask.experiment,
        "shows": shows,
        "fast": ask.fast,
        "stream": outcome.stream,
        "model": "tiny" if ask.fast else ask.model,
        "seeds": list(ask.seeds),
        "tokens": outcome.tokens,
        "settings": effective(ask),
        "given": ask.settings,
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "memory_gb": _memory_gb()},
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(seconds, 1),
        "figures": _plain(outcome.figures),
    }


def effective(ask: Ask) -> dict[str, Any]:
    """Return how the arm `streamlearn` learns in this call, defaults included."""
    wishes = Wishes(stream="", model=ask.model, max_tokens=1, part="all", seed=ask.seed, settings=ask.settings)
    return config_of("streamlearn", wishes, "1d").model_dump(mode="json", include=_EFFECTIVE)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table for a terminal: words in the first column, figures in the others."""
    shown = Table(title=title)
    for place, name in enumerate(columns):
        shown.add_column(name, justify="right" if place else "left")
    for row in rows:
        shown.add_row(*row)
    return shown


def _plain(value: Any) -> Any:
    """Return `value` rounded, with what JSON has no number for as null."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write a document."""
    path.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
