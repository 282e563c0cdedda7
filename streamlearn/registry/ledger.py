"""The audit trail: one gzipped JSON-lines object for each checkpoint."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from streamlearn.core.manifest import LEDGER_LINE, EventLine, ScoreLine
from streamlearn.registry.documents import Damaged


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
        for line in gzip.decompress(body).splitlines():
            yield LEDGER_LINE.validate_json(line)
    except (OSError, EOFError, zlib.error, ValidationError) as error:
        raise Damaged(f"{key} is no ledger: {type(error).__name__}") from error
