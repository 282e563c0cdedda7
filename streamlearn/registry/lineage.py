"""The chain of checkpoints of one stream on an object store, and our right to extend it.

Order of a commit: upload immutable objects, let the caller flush, swap the
head, then write the version and move `latest`. A crash before the swap
leaves garbage; after it, the next writer finishes what is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypedDict

import structlog

from streamlearn.core.manifest import CheckpointState, Draft, EventLine, Head, Manifest, ScoreLine
from streamlearn.ports import (
    Clock,
    Committed,
    Fatal,
    Fault,
    NotFound,
    ObjectStore,
    Restored,
    StreamlearnError,
    Telemetry,
    no_fault,
)
from streamlearn.registry import ledger as ledger_format
from streamlearn.registry.aliases import CHAMPION, LATEST, carry_out, move_alias, touch_aliases
from streamlearn.registry.checkpoints import (
    Checkpoint,
    parent_of,
    read_checkpoint,
    read_state,
    read_whole,
    write_checkpoint,
)
from streamlearn.registry.documents import Damaged, digest_of
from streamlearn.registry.hold import HeadHolder
from streamlearn.registry.keys import MANIFEST, Keys
from streamlearn.registry.versions import ADAPTER_MODEL, read_manifest, write_version

_log = structlog.get_logger(__name__)

_RELEASE_S = 5.0
"""Longest wait for a store to take our lease back: past it, a standby waits for the lease's end as after a crash."""


class Signature(TypedDict):
    """Who moves an alias, and when."""

    epoch: int
    by: str
    at: str


class StoreLineage:
    """A `Lineage` on an `ObjectStore`."""

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        *,
        ttl_s: float,
        clock: Clock,
        telemetry: Telemetry,
        fault: Fault = no_fault,
        owner: str | None = None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._store = store
        self._keys = Keys(name)
        self._clock = clock
        self._telemetry = telemetry
        self._fault = fault
        self._hold = HeadHolder(store, self._keys, ttl_s=ttl_s, clock=clock, owner=owner, wait=wait)
        self._commits = threading.Lock()
        self._parent: tuple[str | None, int] = (None, 0)
        self._version: int | None = None
        """Newest version among our checkpoint and those before it: the parent of the next."""
        self._unfinished: int | None = None

    def acquire(self, should_stop: Callable[[], bool]) -> Restored | None:
        """Become the writer, waiting as hot standby while another holds the lease.

        Raises:
            Damaged, Fatal: no checkpoint of the lineage can be continued from.
            Fenced: another writer has taken over while we were reading.
        """
        if (head := self._hold.acquire(should_stop)) is None:
            return None
        if head.epoch > 1:
            self._telemetry.count("streamlearn_takeovers_total")
        self._parent, self._version, self._unfinished = (None, 0), None, None
        # Also those that may be on their way: their writer must not be the one to make them.
        touch_aliases(self._store, self._keys, head.epoch, also=(LATEST, CHAMPION) if head.version else ())
        if head.checkpoint is None:
            return Restored(epoch=head.epoch, state=None, files={}, newest_version=0)
        # Reading may take longer than the lease: two that stand by would take it from each other for ever.
        with self._hold.kept():
            found = self._newest_good(head.checkpoint)
            # Who was stopped meanwhile, and has lost the lease, must hear so before it writes.
            self._hold.renew()
            self._parent = (found.id, found.state.seq)
            self._version = found.state.version or found.state.parent_version
            newest = self._settle(head, found) if head.version > 0 else 0
            self._carry_out(found.state)
        return Restored(epoch=head.epoch, state=found.state, files=found.files, newest_version=newest)

    def commit(
        self,
        draft: Draft,
        files: Mapping[str, bytes],
        ledger: Sequence[EventLine | ScoreLine],
        *,
        adapter_config: bytes | None,
        before_swap: Callable[[], None],
    ) -> Committed:
        """Make a checkpoint, and a version where `adapter_config` is given; raises Fenced."""
        with self._commits:
            if self._unfinished is not None:
                raise Fatal(f"version {self._unfinished} was left unfinished; acquire the lineage again to finish it")
            head, lines = self._hold.head, ledger_format.pack(ledger)
            parent, seq = self._parent
            version = head.version + 1 if adapter_config is not None else None
            state = CheckpointState(
                **{name: getattr(draft, name) for name in Draft.model_fields},
                lineage=self._keys.lineage,
                epoch=head.epoch,
                seq=seq + 1,
                parent=parent,
                files={name: digest_of(body) for name, body in files.items()},
                ledger=digest_of(lines),
                version=version,
                parent_version=self._version,
                adapter_config=adapter_config.decode() if adapter_config is not None else None,
            )
            name, size = write_checkpoint(self._store, self._keys, state, files, lines)
            self._fault("uploaded")
            before_swap()
            self._hold.move(checkpoint=name, version=version or head.version)
            self._parent, self._unfinished = (name, state.seq), version
            self._fault("swapped")
            began, published = self._clock.monotonic(), 0
            if version is not None:
                published = self._publish(name, state, files["adapter.safetensors"])
                self._version = version
            self._carry_out(state)
            self._unfinished = None
            return Committed(
                checkpoint=name,
                seq=state.seq,
                version=version,
                bytes_written=size,
                publish_bytes=published,
                publish_seconds=self._clock.monotonic() - began,
            )

    def renew(self) -> None:
        """Extend the lease; raises Fenced."""
        self._hold.renew()

    def release(self) -> None:
        """Give the lease up so that a standby need not wait; never raises, and never waits long."""
        # Aside, as a store that does not answer is asked for minutes, and a checkpoint in flight has the same lock.
        aside = threading.Thread(target=self._give_up_lease, name="registry-release", daemon=True)
        aside.start()
        aside.join(_RELEASE_S)
        if aside.is_alive():
            _log.info("the lease was not given up in time; a standby waits until it runs out", waited_s=_RELEASE_S)

    @property
    def next_version(self) -> int:
        """Number of the version that the next publishing commit makes."""
        return self._hold.head.version + 1

    def manifest(self, version: int) -> Manifest:
        """Return the manifest of a published version; raises NotFound."""
        return read_manifest(self._store, self._keys, version)

    def adapter(self, version: int) -> bytes:
        """Return the published adapter of a version; raises NotFound, Damaged."""
        key = self._keys.version(version, ADAPTER_MODEL)
        if (expected := self.manifest(version).files.get(ADAPTER_MODEL)) is None:
            raise Damaged(f"{self._keys.version(version, MANIFEST)} is damaged: it names no {ADAPTER_MODEL}")
        return read_whole(self._store, key, expected)

    def learner_files(self, version: int) -> Mapping[str, bytes]:
        """Return the learner's state as it was when a version was published; raises NotFound, Damaged."""
        # Not the whole checkpoint: neither its window nor its ledger is gone back to.
        name = self.manifest(version).checkpoint
        state = read_state(self._store, self._keys, name)
        return {
            file: read_whole(self._store, self._keys.checkpoint(name, file), expected)
            for file, expected in state.files.items()
            if file != "window.safetensors"
        }

    def _give_up_lease(self) -> None:
        try:
            self._hold.release()
        except StreamlearnError as error:
            _log.info("the lease was not given up; a standby waits until it runs out", why=str(error))

    def _publish(self, checkpoint: str, state: CheckpointState, adapter: bytes) -> int:
        assert state.version is not None, "only what was allocated is published"
        size = write_version(
            self._store, self._keys, checkpoint=checkpoint, state=state, adapter=adapter, fault=self._fault
        )
        self._point_latest_at(state.version)
        return size

    def _point_latest_at(self, version: int) -> None:
        move_alias(self._store, self._keys, LATEST, version, reason="published", **self._signed())

    def _carry_out(self, state: CheckpointState) -> None:
        """Move `champion` as the checkpoint says, which is committed; its writer may have died before it did."""
        carry_out(self._store, self._keys, state.judgement.rulings, **self._signed())

    def _signed(self) -> Signature:
        # When it moved, not when the version was made: whoever finishes it may come hours later.
        at = datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds")
        return {"epoch": self._hold.head.epoch, "by": self._hold.owner, "at": at}

    def _settle(self, head: Head, found: Checkpoint) -> int:
        """Finish the newest allocated version where its writer died first; return the newest complete one.

        Only the head's own checkpoint can have been left so: nothing is
        committed behind a version that is not complete.
        """
        try:
            read_manifest(self._store, self._keys, head.version)
        except NotFound:
            if found.state.version != head.version:
                _log.error(
                    "A VERSION CANNOT BE FINISHED: its checkpoint is damaged; its number stays unused",
                    version=head.version,
                )
                return self._version or 0
            _log.warning("finishing a version that its writer did not", version=head.version)
            self._publish(found.id, found.state, found.files["adapter.safetensors"])
        except Damaged as damage:
            _log.error("THE MANIFEST OF THE NEWEST VERSION IS DAMAGED; learning goes on", why=str(damage))
        else:
            # Its writer may have died between the manifest and the alias.
            self._point_latest_at(head.version)
        return head.version

    def _newest_good(self, newest: str) -> Checkpoint:
        """Return the newest checkpoint of the chain that is whole, loudly where that is not the head's."""
        name = newest
        while True:
            try:
                found = read_checkpoint(self._store, self._keys, name)
            except Damaged as damage:
                self._telemetry.count("streamlearn_checkpoints_damaged_total")
                _log.error("CHECKPOINT DAMAGED: falling back to the one before", checkpoint=name, why=str(damage))
                if (before := parent_of(self._store, self._keys, name)) is None:
                    raise Fatal(
                        f"{damage}; no checkpoint before it can be used. Restore the object from a backup of the "
                        "bucket, or begin a new lineage under another stream.name"
                    ) from damage
                name = before
                continue
            if found.id != newest:
                _log.error(
                    "CONTINUING FROM AN OLDER CHECKPOINT; its successors' events are learnt again",
                    instead_of=newest,
                    continuing_from=found.id,
                    progress=found.state.progress,
                )
            return found
