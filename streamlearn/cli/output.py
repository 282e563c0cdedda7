"""How data reach standard output: as JSON or as a table, for people or for a pipe."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_PIPE_WIDTH = 240
"""Columns of a table that no terminal bounds."""
_KILO = 1000
_TIME_WIDTH = len("2026-11-24T00:00:00Z")
_LEAST_WIDTH = 30
"""Columns of words beside a time, however narrow the terminal."""


def print_json(value: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_json_line(value: Any) -> None:
    """Print one JSON document on a line of its own."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table; columns named in `right` are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_CONTROL.sub(_escaped, cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table)


def print_dated(lines: Iterable[tuple[str, str]]) -> None:
    """Print (time, words) line by line; folded beside the time in a terminal, whole in a pipe, for grep."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for time, said in lines:
        plain = [_CONTROL.sub(_escaped, part) for part in (time, said)]
        indent = " " * (_TIME_WIDTH + 2)
        first = f"{plain[0]:{_TIME_WIDTH}}  "
        room = max(width, len(indent) + _LEAST_WIDTH)
        typer.echo(
            textwrap.fill(plain[1], room, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
        )


def _escaped(match: re.Match[str]) -> str:
    """An event's id comes from its producer, and a terminal does what control characters say."""
    return f"\\x{ord(match[0]):02x}"


def instant(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601, UTC; beyond the years 1 to 9999 as seconds.

    A dead letter's time may be anything, and must not end a listing.

    >>> instant(0.0)
    '1970-01-01T00:00:00Z'
    >>> instant(1.7e12)
    '1.7e+12 s'
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"


def nats(value: float | None) -> str:
    """Return a score as people read it."""
    return "–" if value is None else f"{value:.3f}"


def size(count: float) -> str:
    """Return bytes in words.

    >>> size(1_500_000)
    '1.5 MB'
    """
    if count < _KILO:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= _KILO
        if count < _KILO:
            return f"{count:.1f} {unit}"
    return f"{count / _KILO:.1f} GB"
