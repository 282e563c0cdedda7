"""Names of objects: what may be one, and what each is called.

A name from outside (an alias, a version, a lineage) is checked before it
becomes part of a key or a path, and stays one on any file system.
"""

from __future__ import annotations

import re

from streamlearn.core.manifest import version_name

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,198}[A-Za-z0-9_-])?")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
"""No file anywhere that Windows looks at, whatever comes after the dot; a bucket is copied to all sorts of disks."""
_MAX_KEY = 900
"""S3 allows 1,024 bytes; the store's own prefix needs room."""
_ALLOWED = (
    "use letters, digits, '.', '_', '-', at most 200 a part, none that begins with '.' or '-' or ends with '.', no "
    "'..', and no name of a device such as 'aux'"
)

CHECKPOINT_FILES = ("adapter.safetensors", "optimizer.safetensors", "window.safetensors")
STATE = "state.json"
MANIFEST = "manifest.json"


def is_key(key: str) -> bool:
    """Whether `key` is safe as an object's name; what else lies in a bucket or directory is not ours."""
    return len(key) <= _MAX_KEY and all(map(_is_part, key.split("/")))


def checked(key: str) -> str:
    """Return `key` if it is safe as an object's name.

    Raises:
        ValueError: it has an empty, hidden, over-long or strange part.
    """
    if len(key) > _MAX_KEY:
        raise ValueError(f"{key[:80]!a}… is no name for an object: longer than {_MAX_KEY} characters")
    if not is_key(key):
        raise ValueError(f"{key[:80]!a} is no name for an object: {_ALLOWED}")
    return key


def checked_prefix(prefix: str) -> str:
    """Return `prefix` if keys may begin with it: any number of safe parts, the last of which may be unfinished.

    Raises:
        ValueError: no key can.
    """
    whole, _, unfinished = prefix.rpartition("/")
    if whole:
        checked(whole)
    if unfinished:
        checked(unfinished)
    if prefix.startswith("/"):
        raise ValueError(f"{prefix[:80]!a} begins no name of an object: {_ALLOWED}")
    return prefix


def checked_part(name: str, what: str) -> str:
    """Return `name` if it is one safe part of a key; `what` says what it names.

    Raises:
        ValueError: it is not.
    """
    if not _is_part(name):
        raise ValueError(f"{name[:80]!a} is no name for {what}: {_ALLOWED}")
    return name


def _is_part(part: str) -> bool:
    return _PART.fullmatch(part) is not None and ".." not in part and _DEVICE.fullmatch(part) is None


class Keys:
    """Keys of one lineage's objects, relative to the store's root."""

    def __init__(self, lineage: str) -> None:
        self.lineage = checked_part(lineage, "a lineage")

    @property
    def head(self) -> str:
        """The single commit point."""
        return f"{self.lineage}/head.json"

    def checkpoint(self, checkpoint: str, file: str) -> str:
        """A file of a checkpoint."""
        return f"{self.lineage}/checkpoints/{checkpoint}/{file}"

    @property
    def checkpoints(self) -> str:
        """The prefix of all checkpoints."""
        return f"{self.lineage}/checkpoints/"

    def ledger(self, checkpoint: str) -> str:
        """What a checkpoint admitted and scored."""
        return f"{self.ledgers}{checkpoint}.jsonl.gz"

    @property
    def ledgers(self) -> str:
        """The prefix of all ledger objects."""
        return f"{self.lineage}/ledger/"

    def version(self, number: int, file: str) -> str:
        """A file of a version."""
        return f"{self.lineage}/versions/{version_name(number)}/{file}"

    @property
    def versions(self) -> str:
        """The prefix of all versions."""
        return f"{self.lineage}/versions/"

    def alias(self, name: str) -> str:
        """An alias."""
        return f"{self.lineage}/aliases/{checked_part(name, 'an alias')}.json"

    @property
    def aliases(self) -> str:
        """The prefix of all aliases."""
        return f"{self.lineage}/aliases/"
