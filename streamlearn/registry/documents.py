"""JSON documents of the store: canonical bytes, digests, and reading what may be damaged."""

from __future__ import annotations

import hashlib
import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from streamlearn.core.manifest import FileDigest
from streamlearn.ports import Fatal

Document = TypeVar("Document", bound=BaseModel)


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
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise Damaged(f"{key} is damaged or of another release: {place}: {first['msg']}") from None


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
