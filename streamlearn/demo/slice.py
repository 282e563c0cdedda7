"""Which rows the demo's topic holds, in which order, under which name.

The same file gives the same rows and the same topic name on every run, and
the rows go to one partition: so an offset means the same row although the
broker forgets everything between runs, and a lineage can be continued.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamlearn.demo import data
from streamlearn.demo.rows import BUNDLED, document, documents, fields, half_life, lines, topic

_MAX_BYTES = 4 * 2**20
_MAX_ROWS = 50_000
"""librdkafka's built-in broker forgets a partition's oldest records above 5 MB or 100,000 records."""
_MAX_COUNTED = 256 * 2**20
"""Bytes of rows left out after which the rest of the file is not even counted: that would take minutes."""


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
        parsed = document(value)
        text = str(parsed.get("text", "")) if parsed is not None else ""
        # An escaped half of a surrogate pair is valid JSON, yet no text that can be printed or tokenised.
        return text.encode("utf-8", "replace").decode()


def open_slice(name: str) -> Slice:
    """Return the rows of `bundled:changelogs` or of a file of lines, plain or gzip, JSON or text.

    Of the bundled stream it is the second half, 2018 to 2026: the defaults of
    the learner were found on the first half, so the gain shown is not one
    that they were tuned for.

    Raises:
        ValueError: the file cannot be read, holds no line, or one that is too long.
    """
    path = data.resolve(name)
    try:
        with path.open("rb") as file:
            every = lines(path, file)
            rows, left_out, counted_all = _fitting(_second_half(every) if name == BUNDLED else every)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}; give another file with --stream") from None
    title = Path(name).name
    if name == BUNDLED:
        title = "release notes of six Python projects, 2018 to 2026"
    elif not rows:
        raise ValueError(_nothing_to_learn(path, left_out))
    found = documents(rows)
    return Slice(
        title=title,
        topic=topic(name, rows),
        format="text" if found is None else "json",
        rows=tuple(rows),
        left_out=left_out,
        counted_all=counted_all,
        half_life=half_life(name),
        fields=fields(found or []),
    )


def _second_half(rows: Iterable[bytes]) -> Sequence[bytes]:
    every = list(rows)
    return every[len(every) // 2 :]


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
