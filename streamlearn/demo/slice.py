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
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from streamlearn.demo import data

BUNDLED = f"{data.PREFIX}changelogs"

_MAX_BYTES = 4 * 2**20
_MAX_ROWS = 50_000
"""librdkafka's built-in broker forgets a partition's oldest records above 5 MB or 100,000 records."""
_MAX_LINE = 16 * 2**20
"""A longer line is no event, and reading on for its end could fill the memory."""
_MAX_COUNTED = 256 * 2**20
"""Bytes of rows left out after which the rest of the file is not even counted: that would take minutes."""
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The rows of one demo stream."""

    title: str
    topic: str
    format: Literal["json", "text"]
    rows: tuple[bytes, ...]
    left_out: int
    """Rows that did not fit the built-in broker."""
    counted_all: bool
    """False where the file was too long to count; then there are more of them."""
    half_life: str
    """Event time, for `window.half_life`."""
    fields: dict[str, str]
    """For `[ingest.fields]`."""

    def text(self, row: int) -> str:
        """Return the text of a row, as far as it is a plain one."""
        value = self.rows[row].decode("utf-8", "replace")
        if self.format == "text":
            return value
        document = _document(value)
        text = str(document.get("text", "")) if document is not None else ""
        # An escaped half of a surrogate pair is valid JSON, yet no text that can be printed or tokenised.
        return text.encode("utf-8", "replace").decode()


def open_slice(name: str) -> Slice:
    """Return the rows of `bundled:changelogs` or of a file of lines, plain or gzip, JSON or text.

    Of the bundled stream it is the first half, 2006 to 2018: the defaults of
    the learner were found on the second half, so the gain shown is not one
    that they were tuned for.

    Raises:
        ValueError: the file cannot be read, holds no line, or one that is too long.
    """
    path = data.resolve(name)
    try:
        with path.open("rb") as file:
            rows, left_out, counted_all = _fitting(_lines(path, file))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}; give another file with --stream") from None
    title, half_life = Path(name).name, "1d"
    if name == BUNDLED:
        half = (len(rows) + left_out) // 2
        rows, left_out = rows[:half], max(half - len(rows), 0)
        title, half_life = "release notes of six Python projects, 2006 to 2018", "2y"
    elif not rows:
        raise ValueError(_nothing_to_learn(path, left_out))
    documents = _documents(rows)
    return Slice(
        title=title,
        topic=_topic(name, rows),
        format="text" if documents is None else "json",
        rows=tuple(rows),
        left_out=left_out,
        counted_all=counted_all,
        half_life=half_life,
        fields=_fields(documents or []),
    )


def _lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
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


def _fitting(rows: Iterable[bytes]) -> tuple[list[bytes], int, bool]:
    """Return the rows up to the first that the broker has no room for, the number of others, whether that is all."""
    kept: list[bytes] = []
    size = left_out = left_out_bytes = 0
    for row in rows:
        if left_out == 0 and len(kept) < _MAX_ROWS and size + len(row) <= _MAX_BYTES:
            kept.append(row)
            size += len(row)
            continue
        left_out += 1
        left_out_bytes += len(row)
        if left_out_bytes > _MAX_COUNTED:
            return kept, left_out, False
    return kept, left_out, True


def _nothing_to_learn(path: Path, left_out: int) -> str:
    if left_out:
        return f"the first event of {path} is over {_MAX_BYTES:,} bytes, more than the demo's built-in broker keeps"
    return f"{path} holds no line to learn from; give JSONL or text, one event a line"


def _document(row: bytes | str) -> dict[str, Any] | None:
    """Return the row as a JSON object, None when it is none."""
    try:
        document = json.loads(row)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _documents(rows: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """Return the rows as JSON objects, None when they are plain text."""
    documents: list[dict[str, Any]] = []
    for row in rows:
        document = _document(row)
        if document is not None:
            documents.append(document)
        elif not documents:
            return None
        # Else a broken row among JSON rows: the worker will say so.
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
