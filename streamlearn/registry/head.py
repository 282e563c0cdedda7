"""The single commit point of a lineage, and the right to move it.

Taking over raises the epoch; from then on every swap of the earlier writer
fails. Time decides only *when* a standby takes over, never whether two
writers can both commit.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable

import structlog

from streamlearn.core.manifest import Head, Lease
from streamlearn.ports import Clock, Conflict, Fenced, NotFound, ObjectStore, StreamlearnError
from streamlearn.registry.documents import from_bytes, to_bytes
from streamlearn.registry.keys import Keys

_log = structlog.get_logger(__name__)

_MAX_SKEW_S = 60.0
"""Beyond this much past its expiry by our wall clock, a lease is over without watching it."""
_POLL_S = 1.0


def new_owner() -> str:
    """Return a name for this process that no other has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def read_head(store: ObjectStore, keys: Keys) -> tuple[Head, str]:
    """Return the head and its etag; raises NotFound, Damaged."""
    stored = store.get(keys.head)
    return from_bytes(Head, keys.head, stored.body), stored.etag


class HeadHolder:
    """Our hold on `head.json`; safe from several threads."""

    def __init__(
        self,
        store: ObjectStore,
        keys: Keys,
        *,
        ttl_s: float,
        clock: Clock,
        owner: str | None = None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._ttl_s = ttl_s
        self._clock = clock
        self._wait = wait or threading.Event().wait
        self._lock = threading.Lock()
        self._head: Head | None = None
        self._etag = ""
        self.owner = owner or new_owner()

    @property
    def head(self) -> Head:
        """The head as we last wrote it."""
        assert self._head is not None, "acquire the lease first"
        return self._head

    def acquire(self, should_stop: Callable[[], bool]) -> Head | None:
        """Wait for the lease and take it; None when `should_stop()` turned true first."""
        watched, since, behind = "", self._clock.monotonic(), 0
        while not should_stop():
            try:
                head, etag = read_head(self._store, self._keys)
            except NotFound:
                head, etag = None, ""
            if etag != watched:
                watched, since = etag, self._clock.monotonic()
            if (head is None or self._is_over(head, since)) and self._take(head, etag):
                return self.head
            if head is not None and head.lease is not None and head.epoch != behind:
                behind = head.epoch
                _log.info("standing by", writer=head.lease.owner, epoch=head.epoch, ttl_s=self._ttl_s)
            self._wait(min(_POLL_S, self._ttl_s / 3.0))
        return None

    def move(self, *, checkpoint: str, version: int) -> None:
        """Commit `checkpoint` and the allocation of `version`; raises Fenced."""
        with self._lock:
            if self._head is None:
                raise Fenced(f"the lease of lineage {self._keys.lineage!r} was given up; nothing was committed")
            self._swap(self._head.model_copy(update={"checkpoint": checkpoint, "version": version}))

    def renew(self) -> None:
        """Extend the lease; raises Fenced."""
        with self._lock:
            if self._head is not None:
                self._swap(self._head)

    def release(self) -> None:
        """Give the lease up; raises Fenced, or what the store raises."""
        with self._lock:
            if self._head is not None:
                # Given up before the store says so: what is still in flight here must not commit any more.
                head, self._head = self._head, None
                self._store.swap(self._keys.head, to_bytes(head.model_copy(update={"lease": None})), self._etag)

    def _is_over(self, head: Head, watched_since: float) -> bool:
        if head.lease is None:
            return True
        unchanged_s = self._clock.monotonic() - watched_since
        return unchanged_s >= self._ttl_s or self._clock.now() > head.lease.expires_at + _MAX_SKEW_S

    def _take(self, seen: Head | None, etag: str) -> bool:
        lease = self._lease()
        try:
            if seen is None:
                head = Head(lineage=self._keys.lineage, epoch=1, lease=lease)
                self._etag = self._store.create(self._keys.head, to_bytes(head))
            else:
                head = seen.model_copy(update={"epoch": seen.epoch + 1, "lease": lease})
                self._etag = self._store.swap(self._keys.head, to_bytes(head), etag)
        except Conflict:
            return False
        self._head = head
        return True

    def _swap(self, head: Head) -> None:
        head = head.model_copy(update={"lease": self._lease()})
        try:
            self._etag = self._store.swap(self._keys.head, to_bytes(head), self._etag)
        except Conflict:
            raise Fenced(self._fenced_by()) from None
        self._head = head

    def _fenced_by(self) -> str:
        try:
            now, _ = read_head(self._store, self._keys)
        except NotFound:
            return f"{self._keys.head} is gone: somebody removed the lineage while we were writing to it"
        except StreamlearnError:
            # That we are fenced is certain; only the other's name is not to be had.
            return f"lineage {self._keys.lineage!r} was taken over by another writer; nothing uncommitted was kept"
        writer = now.lease.owner if now.lease is not None else "another writer"
        return (
            f"lineage {self._keys.lineage!r} was taken over by {writer} (epoch {now.epoch}, ours was "
            f"{self.head.epoch}); nothing uncommitted was kept"
        )

    def _lease(self) -> Lease:
        return Lease(owner=self.owner, expires_at=self._clock.now() + self._ttl_s)
