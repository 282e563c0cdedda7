"""Which rows the demo's topic holds, in which order, under which name.

The same file gives the same rows and the same topic name on every run, and
the rows go to one partition: so an offset means the same row although the
broker forgets everything between runs, and a lineage can be continued.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from streamlearn.demo import data

BUNDLED = f"{data.PREFIX}changelogs"

_MAX_BYTES = 4 * 2**20
_MAX_ROWS = 50_000
"""librdkafka's built-in broker forgets a partition's oldest records above 5 MB or 100,000 records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The rows of one demo stream."""

    title: str
    topic: str
    format: Literal["json", "text"]
    rows: tuple[bytes, ...]
    left_out: int
    """Rows that did not fit the built-in broker."""
    half_life: str
    """Event time, for `window.half_life`."""
    fields: dict[str, str]
    """For `[ingest.fields]`."""

    def text(self, row: int) -> str:
        """Return the text of a row, as far as it is a plain one."""
        value = self.rows[row].decode("utf-8", "replace")
        if self.format == "text":
            return value
        document = json.loads(value)
        return str(document.get("text", "")) if isinstance(document, dict) else ""


def open_slice(name: str) -> Slice:
    """Return the rows of `bundled:changelogs` or of a file of lines, plain or gzip, JSON or text.

    Of the bundled stream it is the first half, 2006 to 2018: the defaults of
    the learner were found on the second half, so the gain shown is not one
    that they were tuned for.

    Raises:
        ValueError: the file cannot be read, or holds no line.
    """
    rows = _lines(data.resolve(name))
    if name == BUNDLED:
        rows = rows[: len(rows) // 2]
        title, half_life = "release notes of six Python projects, 2006 to 2018", "2y"
    else:
        title, half_life = Path(name).name, "1d"
    kept = _fitting(rows)
    documents = _documents(kept)
    return Slice(
        title=title,
        topic=_topic(name, kept),
        format="text" if documents is None else "json",
        rows=tuple(kept),
        left_out=len(rows) - len(kept),
        half_life=half_life,
        fields=_fields(documents or []),
    )


def _lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise ValueError(f"cannot read {path}: {error}; give another file with --stream") from None
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} holds no line to learn from; give JSONL or text, one event a line")
    return lines


def _fitting(rows: list[bytes]) -> list[bytes]:
    size = 0
    for place, row in enumerate(rows[:_MAX_ROWS]):
        size += len(row)
        if size > _MAX_BYTES:
            return rows[:place]
    return rows[:_MAX_ROWS]


def _documents(rows: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """Return the rows as JSON objects, None when they are plain text."""
    documents: list[dict[str, Any]] = []
    for row in rows:
        try:
            document = json.loads(row)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            if documents:
                continue  # a broken row among JSON rows: the worker will say so
            return None
        documents.append(document)
    return documents


def _fields(documents: list[dict[str, Any]]) -> dict[str, str]:
    """Map what every row has: a field that some lack would make dead letters of them."""
    wanted = {"ts": ("ts", "timestamp", "date"), "source": ("source", "topic")}
    found = {}
    for field, names in wanted.items():
        for name in names:
            if documents and all(name in document for document in documents):
                found[field] = name
                break
    return found


def _topic(name: str, rows: Sequence[bytes]) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name.removeprefix(data.PREFIX).rpartition("/")[2].partition(".")[0])
    digest = hashlib.sha256(b"\n".join(rows)).hexdigest()
    return f"{stem or 'stream'}-{digest[:8]}"
