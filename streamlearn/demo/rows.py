"""A file of rows as a stream: one event a line, plain or gzip, JSON or text.

Decides what a row is, how its fields are named and over how long the stream
goes; knows no broker.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from streamlearn.demo import data

BUNDLED = f"{data.PREFIX}changelogs"
Part = Literal["all", "first-half", "second-half"]

_MAX_LINE = 16 * 2**20
"""A longer line is no event, and reading on for its end could fill the memory."""
_MAX_ROWS = 1_000_000
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A stretch of a stream."""

    title: str
    topic: str
    format: Literal["json", "text"]
    rows: tuple[bytes, ...]
    half_life: str
    """Event time, for `window.half_life`."""
    fields: dict[str, str]
    """For `[ingest.fields]`."""


def open_rows(name: str, part: Part) -> Rows:
    """Return `part` of the events of a bundled stream (`bundled:changelogs`) or of a file.

    Raises:
        ValueError: the file cannot be read, holds no line, or one that is too long.
    """
    path = data.resolve(name)
    try:
        with path.open("rb") as file:
            rows = list(islice(lines(path, file), _MAX_ROWS))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}; give another file with --stream") from None
    half = len(rows) // 2
    rows = {"all": rows, "first-half": rows[:half], "second-half": rows[half:]}[part]
    if not rows:
        raise ValueError(f"{path} holds no line to learn from; give JSONL or text, one event a line")
    found = documents(rows)
    return Rows(
        title=Path(name).name,
        topic=topic(name, rows),
        format="text" if found is None else "json",
        rows=tuple(rows),
        half_life=half_life(name),
        fields=fields(found or []),
    )


def half_life(name: str) -> str:
    """Return how fast a stream ages: that of release notes is told in years, of an unknown one in days."""
    return "2y" if name == BUNDLED else "1d"


def lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines that hold something, one at a time, without their ends."""
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    content = gzip.GzipFile(fileobj=file) if packed else file
    place = 0
    while line := content.readline(_MAX_LINE + 1):
        place += 1
        if len(line) > _MAX_LINE:
            raise ValueError(f"line {place:,} of {path} is over {_MAX_LINE:,} bytes; write one event a line")
        # A lone carriage return ends a line too.
        yield from (row for row in line.splitlines() if row.strip())


def document(row: bytes | str) -> dict[str, Any] | None:
    """Return the row as a JSON object, None when it is none."""
    try:
        parsed = json.loads(row)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def documents(rows: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """Return the rows as JSON objects, None when they are plain text."""
    found: list[dict[str, Any]] = []
    for row in rows:
        parsed = document(row)
        if parsed is not None:
            found.append(parsed)
        elif not found:
            return None
        # Else a broken row among JSON rows: the worker will say so.
    return found


def fields(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Map what every row has: a field that some lack would make dead letters of them."""
    wanted = {"ts": ("ts", "timestamp", "date"), "source": ("source", "topic")}
    found = {}
    for field, names in wanted.items():
        for name in names:
            if rows and all(name in row for row in rows):
                found[field] = name
                break
    return found


def topic(name: str, rows: Sequence[bytes]) -> str:
    """Return a topic's name that stands for these rows of this file."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name.removeprefix(data.PREFIX).rpartition("/")[2].partition(".")[0])
    digest = hashlib.sha256(b"\n".join(rows)).hexdigest()
    return f"{stem or 'stream'}-{digest[:8]}"
