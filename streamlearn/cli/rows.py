"""From a file of lines to records: what is a row, when it happened, what its key is.

Reads as it goes and keeps one line in memory. A line is sent as it stands,
whatever it holds: judging events is the worker's.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from streamlearn.demo import data
from streamlearn.ingest.fields import time_of
from streamlearn.ingest.produce import Outgoing
from streamlearn.ingest.rejecting import Rejected
from streamlearn.ports import Fatal

STANDARD_INPUT = "-"

_MAX_LINE = 16 * 2**20
"""Bytes; Kafka takes 1 MB unless told otherwise, so a longer line is a file that has no lines."""
_GZIP = b"\x1f\x8b"


@dataclass(slots=True)
class Lines:
    """The lines of an open file."""

    name: str
    size: int | None
    """Bytes on disk, compressed or not; None where it has no end to know of."""
    _file: Any
    """Buffered, so that its beginning can be looked at."""
    blank: int = 0
    """Lines passed that hold nothing."""
    _line: int = field(default=0, init=False)

    @property
    def position(self) -> int:
        """Bytes read of `size`."""
        return int(self._file.raw.tell()) if self.size is not None else 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield (line number, line without its end); blank ones are counted and left out.

        Raises:
            Fatal: what is read is damaged, or has no lines.
        """
        content: BinaryIO | None = None
        while True:
            self._line += 1
            try:
                # By content, not by name: standard input has none. Here, not at opening: it may have nothing yet.
                content = content or _unpacked(self._file)
                line = content.readline(_MAX_LINE + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise Fatal(f"{self.name} cannot be read on from line {self._line} ({error}); mend the file") from None
            if not line:
                return
            if len(line) > _MAX_LINE:
                raise Fatal(f"line {self._line} of {self.name} is over {_MAX_LINE:,} bytes; write one event a line")
            if line.isspace():
                self.blank += 1
            else:
                yield self._line, line.rstrip(b"\r\n")


@contextmanager
def opened(name: str) -> Iterator[Lines]:
    """Open a file of lines, plain or gzip; `-` is standard input, `bundled:…` a stream of the package.

    Raises:
        ValueError: it cannot be opened.
    """
    if name == STANDARD_INPUT:
        yield Lines("standard input", None, sys.stdin.buffer)
        return
    path = data.resolve(name)
    try:
        file = path.open("rb")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; name another file, or - for standard input") from None
    with file:
        size = path.stat().st_size if path.is_file() else None
        yield Lines(name, size, file)


def _unpacked(file: Any) -> Any:
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMap:
    """Which fields of a line become a record's time stamp and key, as dotted paths."""

    ts: str | None = None
    """Event time; a line without it gets the time of writing."""
    pace: str | None = None
    """Event time to keep pace with; a line without it is an error."""
    key: str | None = None

    def record(self, line: int, value: bytes) -> tuple[Outgoing, float | None]:
        """Return the record that a line becomes, and the event time to keep pace with.

        Raises:
            Fatal: it lacks a field that is needed; names the line and the mend.
        """
        document = _document(value) if (self.ts, self.pace, self.key) != (None, None, None) else None
        ts = event_time(document, self.ts) if self.ts is not None else None
        own_time = None
        if self.pace is not None and (own_time := event_time(document, self.pace)) is None:
            raise Fatal(
                f"line {line} has no time stamp to keep pace with: {_said(self.pace, _at(document, self.pace))}; "
                "name another field with --pace, mend the line, or send at a --rate"
            )
        return Outgoing(line=line, value=value, ts=ts, key=self._key(line, document)), own_time

    def _key(self, line: int, document: Any) -> bytes | None:
        if self.key is None:
            return None
        found = _at(document, self.key)
        if found is None:
            # Without its key a record would go to any partition, and out of its order.
            raise Fatal(
                f"line {line} has no key: {_said(self.key, None)}; name another field with --key, or mend the line"
            )
        return (found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)).encode()


def event_time(document: Any, path: str) -> float | None:
    """Return the event time that the worker would read at `path`, None where it would read none.

    >>> event_time({"meta": {"at": "1970-01-01T00:01:00Z"}}, "meta.at")
    60.0
    """
    if not isinstance(document, dict):
        return None
    try:
        return time_of(document, path)
    except (Rejected, OverflowError):
        return None


def _document(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _at(document: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(document, dict):
            return None
        document = document.get(part)
    return document


def _said(path: str, found: Any) -> str:
    return f"there is no field {path!r}" if found is None else f"{path!r} is {json.dumps(found)[:80]}"
