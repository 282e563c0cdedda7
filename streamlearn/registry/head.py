"""The single commit point of a lineage: reading it, and telling a lost one.

A head precedes all that is written under it. So whatever is on the store and
unknown to the head tells of a head that was removed, or of an old one that was
put back; to write under that would be to write over what is there.
"""

from __future__ import annotations

import re

from streamlearn.core.manifest import SCHEMA_NUMBER, Head
from streamlearn.ports import Fatal, NotFound, ObjectStore
from streamlearn.registry.aliases import alias_names, read_alias
from streamlearn.registry.documents import Damaged, from_bytes
from streamlearn.registry.keys import MANIFEST, Keys

_SCHEMA = re.compile(rb'"schema_number" ?: ?([0-9]{1,9})\b')
_LONGEST = 10_000
"""Bytes in which a head says of which form it is; ours have some hundred."""
_MEND = "restore the newest head.json from the bucket's versions or a backup, or begin another stream.name"


def read_head(store: ObjectStore, keys: Keys) -> tuple[Head, str]:
    """Return the head and its etag.

    Raises:
        NotFound: there is none.
        Damaged: it is none, or another lineage's; says how to mend that.
        Fatal: a newer release wrote it.
    """
    stored = store.get(keys.head)
    try:
        head = from_bytes(Head, keys.head, stored.body)
    except Damaged as damage:
        if (number := _schema_number(stored.body)) > SCHEMA_NUMBER:
            raise Fatal(
                f"{keys.head} was written by a newer release of streamlearn (schema {number}, this one knows "
                f"{SCHEMA_NUMBER}): use that release"
            ) from None
        raise Damaged(f"{damage}; {_MEND}") from None
    if head.lineage != keys.lineage:
        raise Damaged(f"{keys.head} belongs to another lineage, {head.lineage[:80]!a}; {_MEND}")
    return head, stored.etag


def refuse_lost_head(store: ObjectStore, keys: Keys, head: Head | None, etag: str) -> None:
    """Return where `head`, as just read (None: there is none), can be the newest there was.

    Raises:
        Fatal: it cannot; says what was found and how to mend it.
    """
    if (found := _unknown_to(store, keys, head)) is None:
        return
    try:
        if read_head(store, keys)[1] != etag:
            # Another writer has moved it meanwhile, and what was found is that one's.
            return
    except NotFound:
        if head is not None:
            return
    wrong = "is gone" if head is None else "is an older one that was put back"
    raise Fatal(f"{keys.head} {wrong}: it does not know of {found}, which is there; {_MEND}")


def _unknown_to(store: ObjectStore, keys: Keys, head: Head | None) -> str | None:
    """Return the key of something that was written under a later head, if there is any."""
    if head is None:
        traces = (keys.checkpoints, keys.ledgers, keys.versions, keys.aliases)
        return next((key for prefix in traces for key, _ in store.list(prefix)), None)
    for name in alias_names(store, keys):
        if read_alias(store, keys, name)[0].epoch > head.epoch:
            return keys.alias(name)
    later = keys.version(head.version + 1, MANIFEST)
    return next((key for key, _ in store.list(later)), None)


def _schema_number(body: bytes) -> int:
    """Return what even a document that we cannot read says of its form; 0 where it says nothing."""
    found = _SCHEMA.search(body, 0, _LONGEST)
    return int(found[1]) if found else 0
