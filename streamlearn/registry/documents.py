"""JSON documents of the store: canonical bytes, digests, and reading what may be damaged."""

from __future__ import annotations

import hashlib
import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from streamlearn.core.manifest import FileDigest
from streamlearn.ports import Fatal

Document = TypeVar("Document", bound=BaseModel)

_MAX_BYTES = 64 * 2**20
"""Of a document; the longest, a state with thousands of chunks that wait, has a few million. Parsed, bytes become
about thirty times as many."""
_MAX_FAULTS = 1_000
_MAX_SHOWN = 200
"""Characters that a message repeats of what somebody else has written."""


class Damaged(Fatal):
    """Stored bytes are not what they must be."""


def to_bytes(document: BaseModel) -> bytes:
    """Return the canonical form: equal documents, equal bytes."""
    plain = document.model_dump(mode="json")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def from_bytes(kind: type[Document], key: str, body: bytes) -> Document:
    """Return the document in `body`.

    Raises:
        Damaged: it is none; names the key and the first fault.
    """
    if len(body) > _MAX_BYTES:
        raise Damaged(f"{key} is damaged: it has {len(body):,} bytes, where {_MAX_BYTES:,} are the most that we write")
    try:
        # In two steps, as each error of `model_validate_json` holds a copy of all that it is about.
        return kind.model_validate(from_json(body, allow_inf_nan=False))
    except ValidationError as error:
        if (faults := error.error_count()) > _MAX_FAULTS:
            # Each would become an object of its own.
            raise Damaged(f"{key} is damaged or of another release: it has {faults:,} faults") from None
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise Damaged(f"{key} is damaged or of another release: {_shown(place)}: {_shown(first['msg'])}") from None
    except ValueError as error:
        raise Damaged(f"{key} is damaged or of another release: document: {_shown(str(error))}") from None


def _shown(text: str) -> str:
    """Return `text` as part of one short line that no terminal takes for anything else."""
    plain = ascii(text[:_MAX_SHOWN])[1:-1]
    return plain if len(plain) == len(text) else plain[:_MAX_SHOWN] + "…"


def digest_of(body: bytes) -> FileDigest:
    """Return what these bytes are known by."""
    return FileDigest(sha256=hashlib.sha256(body).hexdigest(), size=len(body))


def verified(key: str, body: bytes, expected: FileDigest) -> bytes:
    """Return `body` if it is what was written.

    Raises:
        Damaged: it is not; names the key, both digests and sizes.
    """
    if (actual := digest_of(body)) != expected:
        raise Damaged(
            f"{key} is damaged: expected sha256 {expected.sha256} ({expected.size} bytes), "
            f"found {actual.sha256} ({actual.size} bytes)"
        )
    return body
