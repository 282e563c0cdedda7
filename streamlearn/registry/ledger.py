"""The audit trail: one gzipped JSON-lines object for each checkpoint.

Read line by line: whatever an object unpacks to, no more than a line of it is
in memory.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from streamlearn.core.manifest import LEDGER_LINE, EventLine, ScoreLine
from streamlearn.registry.documents import Damaged

_MAX_LINE = 64 * 2**10
"""Bytes; a line of ours has an id of 1,000 characters at most and is far shorter."""


def pack(lines: Sequence[EventLine | ScoreLine]) -> bytes:
    """Return the object's bytes; equal lines, equal bytes."""
    text = "".join(line.model_dump_json() + "\n" for line in lines)
    # No time stamp in the gzip header: the digest speaks of the lines alone.
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def unpack(key: str, body: bytes) -> Iterator[EventLine | ScoreLine]:
    """Yield the lines in stream order.

    Raises:
        Damaged: the object is not what `pack` writes.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as lines:
            while line := lines.readline(_MAX_LINE + 1):
                if len(line) > _MAX_LINE:
                    raise Damaged(f"{key} is no ledger: a line has more than {_MAX_LINE:,} bytes")
                yield LEDGER_LINE.validate_json(line)
    except (OSError, EOFError, zlib.error, ValidationError) as error:
        raise Damaged(f"{key} is no ledger: {type(error).__name__}") from error
