"""Checkpoints: immutable objects named after the digest of their `state.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from streamlearn.core.manifest import CheckpointState, FileDigest
from streamlearn.ports import Conflict, Fatal, NotFound, ObjectStore
from streamlearn.registry.documents import Damaged, digest_of, from_bytes, to_bytes, verified
from streamlearn.registry.keys import STATE, Keys
from streamlearn.registry.parallel import all_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint with its objects, digests verified."""

    id: str
    state: CheckpointState
    files: Mapping[str, bytes]


def checkpoint_id(state: CheckpointState) -> str:
    """Return the name that follows from `state`: its place in the chain and its digest."""
    return f"{state.seq:010d}-{digest_of(to_bytes(state)).sha256[:12]}"


def seq_of(name: str) -> int:
    """Return a checkpoint's place in the chain, the first being 1.

    >>> seq_of("0000000042-0123456789ab")
    42
    """
    return int(name.partition("-")[0])


def write_once(store: ObjectStore, key: str, body: bytes) -> None:
    """Create an immutable object; the same bytes there already are no conflict.

    Raises:
        Damaged: other bytes are there.
    """
    try:
        store.create(key, body)
    except Conflict:
        verified(key, store.get(key).body, digest_of(body))


def write_checkpoint(
    store: ObjectStore, keys: Keys, state: CheckpointState, files: Mapping[str, bytes], ledger: bytes
) -> tuple[str, int]:
    """Upload everything of a checkpoint, `state.json` last, and return its name and bytes."""
    name, body = checkpoint_id(state), to_bytes(state)
    parts = {keys.checkpoint(name, file): content for file, content in files.items()} | {keys.ledger(name): ledger}
    all_of([partial(write_once, store, key, content) for key, content in parts.items()])
    # Last, so that a readable state means that everything it names was there.
    write_once(store, keys.checkpoint(name, STATE), body)
    return name, len(body) + sum(map(len, parts.values()))


def read_state(store: ObjectStore, keys: Keys, name: str) -> CheckpointState:
    """Return a checkpoint's state.

    Raises:
        Damaged: it is missing, altered, or not the one its name promises.
        Fatal: it is what was written, by a release that this one does not understand.
    """
    key = keys.checkpoint(name, STATE)
    try:
        body = store.get(key).body
    except NotFound:
        raise Damaged(f"{key} is missing") from None
    if not name.endswith(digest_of(body).sha256[:12]):
        raise Damaged(f"{key} is damaged: its digest is not the one in its name")
    try:
        return from_bytes(CheckpointState, key, body)
    except Damaged as error:
        # No damage, so nothing to fall back from: an older checkpoint would throw learning away.
        raise Fatal(f"{error}; its digest is right, so another release of streamlearn wrote it: use that one") from None


def read_checkpoint(store: ObjectStore, keys: Keys, name: str) -> Checkpoint:
    """Return a checkpoint whole; its ledger is read and verified too, as a gap in it could never be filled.

    Raises:
        Damaged: anything of it is missing or altered.
        Fatal: see `read_state`.
    """
    state = read_state(store, keys, name)
    files = {file: read_whole(store, keys.checkpoint(name, file), expected) for file, expected in state.files.items()}
    read_whole(store, keys.ledger(name), state.ledger)
    return Checkpoint(id=name, state=state, files=files)


def read_whole(store: ObjectStore, key: str, expected: FileDigest) -> bytes:
    """Return an object that must be there as it was written; raises Damaged."""
    try:
        return verified(key, store.get(key).body, expected)
    except NotFound:
        raise Damaged(f"{key} is missing") from None


def parent_of(store: ObjectStore, keys: Keys, name: str) -> str | None:
    """Return the checkpoint before `name`, by its state or, where that is what is damaged, by elimination.

    None where there is none, or where it cannot be told which.
    """
    try:
        return read_state(store, keys, name).parent
    except Damaged:
        found = list(_readable(store, keys, seq_of(name) - 1))
    # Several at one place: all but one are leavings of writers that died or were fenced before their swap. Whoever
    # committed there came after them, and a writer after that one began behind it; so the highest epoch is the one.
    highest = max((state.epoch for _, state in found), default=0)
    names = [candidate for candidate, state in found if state.epoch == highest]
    return names[0] if len(names) == 1 else None


def _readable(store: ObjectStore, keys: Keys, seq: int) -> Iterator[tuple[str, CheckpointState]]:
    """Yield the checkpoints of place `seq` whose state is whole; an upload that was cut short has none."""
    listed = store.list(f"{keys.checkpoints}{seq:010d}-")
    for name in sorted({key.removeprefix(keys.checkpoints).split("/")[0] for key, _ in listed}):
        try:
            yield name, read_state(store, keys, name)
        except Damaged:
            continue
