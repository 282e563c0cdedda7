"""Our hold on a lineage: the right to move its head.

Taking over raises the epoch; from then on every swap of the earlier writer
fails. Time decides only *when* a standby takes over, never whether two
writers can both commit.

A lease is over when it was given up, or when the head has not changed for
`ttl_s` on the watcher's own monotonic clock. Nobody's wall clock is compared
with another's: a clock that is ahead would rob a writer that lives, and a
writer whose renewals the store has held up has `ttl_s` to renew once the store
is back. The price is that a start after a crash waits for `ttl_s`, however
long ago the crash was.

No two heads of a lineage have the same bytes: epochs only grow, within one
`expires_at` only grows, and a release is the last word of its epoch. So an
etag names one moment, also where it is a digest of the bytes, as on S3.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from streamlearn.core.manifest import Head, Lease
from streamlearn.ports import Clock, Conflict, Fenced, NotFound, ObjectStore, StreamlearnError
from streamlearn.registry.documents import to_bytes
from streamlearn.registry.head import read_head, refuse_lost_head
from streamlearn.registry.keys import Keys

_log = structlog.get_logger(__name__)

_POLL_S = 1.0
"""Between two looks of a standby at the head."""
_STOP_S = 0.1
"""Between two looks at whether to stop standing by."""


def new_owner() -> str:
    """Return a name for this process that no other has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


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
        self._fenced: str | None = None
        """Why we are, once we know."""
        self.owner = owner or new_owner()

    @property
    def head(self) -> Head:
        """The head as we last wrote it; raises Fenced where it is ours no longer."""
        assert self._etag, "acquire the lease first"
        if self._fenced is not None:
            raise Fenced(self._fenced)
        if (head := self._head) is None:
            raise Fenced(f"the lease of lineage {self._keys.lineage!r} was given up; nothing was committed")
        return head

    def acquire(self, should_stop: Callable[[], bool]) -> Head | None:
        """Wait for the lease and take it; None when `should_stop()` turned true first.

        Raises:
            Damaged, Fatal: see `read_head` and `refuse_lost_head`.
        """
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
            self._pause(should_stop)
        return None

    def move(self, *, checkpoint: str, version: int) -> None:
        """Commit `checkpoint` and the allocation of `version`; raises Fenced."""
        with self._lock:
            self._swap(self.head.model_copy(update={"checkpoint": checkpoint, "version": version}))

    def renew(self) -> None:
        """Extend the lease, unless it was given up; raises Fenced."""
        with self._lock:
            if self._head is not None:
                self._swap(self.head)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease for as long as the block takes; raises Fenced at its end where it was lost meanwhile."""
        over = threading.Event()
        # Aside, as a renewal may wait for a store that does not answer, and the block's end must not.
        threading.Thread(target=self._renew_until, args=(over,), name="registry-lease", daemon=True).start()
        try:
            yield
        finally:
            over.set()
        self.renew()

    def release(self) -> None:
        """Give the lease up where it is still ours; raises what the store raises."""
        with self._lock:
            if self._head is None or self._fenced is not None:
                return
            # Given up before the store says so: what is still in flight here must not commit any more.
            head, self._head = self._head, None
            try:
                self._store.swap(self._keys.head, to_bytes(head.model_copy(update={"lease": None})), self._etag)
            except Conflict:
                _log.debug("another writer has the lease already")

    def _is_over(self, head: Head, watched_since: float) -> bool:
        return head.lease is None or self._clock.monotonic() - watched_since >= self._ttl_s

    def _pause(self, should_stop: Callable[[], bool]) -> None:
        """Wait until the next look at the head is due, or until told to stop."""
        pause = min(_POLL_S, self._ttl_s / 3.0)
        looks = math.ceil(pause / _STOP_S)
        for _ in range(looks):
            if should_stop():
                return
            self._wait(pause / looks)

    def _renew_until(self, over: threading.Event) -> None:
        try:
            while not over.wait(self._ttl_s / 3.0):
                self.renew()
        except StreamlearnError as error:
            _log.info("the lease was not renewed", why=str(error))

    def _take(self, seen: Head | None, etag: str) -> bool:
        refuse_lost_head(self._store, self._keys, seen, etag)
        lease = Lease(owner=self.owner, expires_at=self._clock.now() + self._ttl_s)
        try:
            if seen is None:
                head = Head(lineage=self._keys.lineage, epoch=1, lease=lease)
                self._etag = self._store.create(self._keys.head, to_bytes(head))
            else:
                head = seen.model_copy(update={"epoch": seen.epoch + 1, "lease": lease})
                self._etag = self._store.swap(self._keys.head, to_bytes(head), etag)
        except Conflict:
            return False
        self._head, self._fenced = head, None
        if seen is not None and seen.lease is not None:
            _log.warning("taking over", writer=seen.lease.owner, epoch=head.epoch, unchanged_s=self._ttl_s)
        return True

    def _swap(self, head: Head) -> None:
        assert self._head is not None, "only a held head is moved"
        expires_at = self._clock.now() + self._ttl_s
        if (lease := self._head.lease) is not None:
            # Also where the clock stands or was set back: a renewal that changes nothing would not be seen as one,
            # and a swap that an earlier writing of ours still had under way might find its etag again.
            expires_at = max(expires_at, math.nextafter(lease.expires_at, math.inf))
        head = head.model_copy(update={"lease": Lease(owner=self.owner, expires_at=expires_at)})
        try:
            self._etag = self._store.swap(self._keys.head, to_bytes(head), self._etag)
        except Conflict:
            self._fenced = self._fenced_by(self._head.epoch)
            raise Fenced(self._fenced) from None
        self._head = head

    def _fenced_by(self, ours: int) -> str:
        try:
            now, _ = read_head(self._store, self._keys)
        except NotFound:
            return f"{self._keys.head} is gone: somebody removed the lineage while we were writing to it"
        except StreamlearnError:
            # That we are fenced is certain; only the other's name is not to be had.
            return f"lineage {self._keys.lineage!r} was taken over by another writer; nothing uncommitted was kept"
        if now.epoch <= ours:
            return (
                f"{self._keys.head} was changed while we were writing to it, and by no writer: its epoch is "
                f"{now.epoch}, ours was {ours}; nothing uncommitted was kept"
            )
        writer = now.lease.owner if now.lease is not None else "another writer"
        return (
            f"lineage {self._keys.lineage!r} was taken over by {writer} (epoch {now.epoch}, ours was "
            f"{ours}); nothing uncommitted was kept"
        )
