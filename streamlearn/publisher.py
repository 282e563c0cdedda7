"""Makes checkpoints durable behind the learner's back.

One thread uploads what the daemon hands over, another keeps the lease. The
daemon goes on learning meanwhile; a fault in either thread is raised at its
next `check()`. Knows nothing of learning.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from streamlearn.core.arrays import Arrays, to_bytes
from streamlearn.core.events import Progress
from streamlearn.core.manifest import Draft, EventLine, ScoreLine
from streamlearn.ports import Clock, Committed, DeadLetters, LearnerSnapshot, Lineage, Telemetry

_log = structlog.get_logger(__name__)

_CLOSE_S = 1.0
"""Seconds for each thread to notice that it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A checkpoint on its way to the store: copies that learning no longer moves."""

    draft: Draft
    learner: LearnerSnapshot
    arrays: Arrays
    ledger: list[EventLine | ScoreLine]
    adapter_config: bytes | None
    """Given when the checkpoint is also published as a version."""


class Publisher:
    """One checkpoint in flight at a time, in the order they were handed over."""

    def __init__(
        self,
        *,
        lineage: Lineage,
        dead_letters: DeadLetters,
        mirror: Callable[[Progress], None],
        telemetry: Telemetry,
        clock: Clock,
        lease_ttl_s: float,
        flush_timeout_s: float,
        on_committed: Callable[[Committed], None],
    ) -> None:
        self._lineage = lineage
        self._dead_letters = dead_letters
        self._mirror = mirror
        self._telemetry = telemetry
        self._clock = clock
        # A third: two renewals may fail before the lease runs out.
        self._renew_every_s = lease_ttl_s / 3.0
        self._flush_timeout_s = flush_timeout_s
        self._parcels: queue.Queue[Parcel | None] = queue.Queue(maxsize=1)
        self._idle = threading.Event()
        self._idle.set()
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"publisher-{work.__name__}", daemon=True)
            for work in (self._upload, self._keep_lease)
        ]
        self._on_committed = on_committed

    def start(self) -> None:
        """Begin; the lineage must be ours."""
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is in flight."""
        return not self._idle.is_set()

    def submit(self, parcel: Parcel) -> None:
        """Hand a checkpoint over; only when not `busy`."""
        assert not self.busy, "one checkpoint at a time"
        self._idle.clear()
        self._parcels.put(parcel)

    def wait(self, timeout_s: float) -> bool:
        """Return whether nothing is in flight any more, after at most `timeout_s`; raises as `check`."""
        done = self._idle.wait(timeout_s)
        self.check()
        return done

    def check(self) -> None:
        """Raise what ended one of the threads, if anything did."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop both threads; what is in flight is given up, which commits nothing half."""
        self._closing.set()
        if not self.busy:
            self._parcels.put(None)
            for thread in self._threads:
                if thread.is_alive():
                    # Not for ever: a store that is away may hold a renewal for minutes, and nothing hangs on that.
                    thread.join(_CLOSE_S)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - handed to the main thread, which ends the process
            self._failure = self._failure or failure
            self._idle.set()

    def _upload(self) -> None:
        while (parcel := self._parcels.get()) is not None:
            self._commit(parcel)
            self._idle.set()

    def _keep_lease(self) -> None:
        while not self._closing.wait(self._renew_every_s):
            self._lineage.renew()

    def _commit(self, parcel: Parcel) -> None:
        began = self._clock.monotonic()
        committed = self._lineage.commit(
            parcel.draft,
            {**parcel.learner.files(), "window.safetensors": to_bytes(parcel.arrays)},
            parcel.ledger,
            adapter_config=parcel.adapter_config,
            before_swap=lambda: self._dead_letters.flush(self._flush_timeout_s),
        )
        self._mirror(parcel.draft.progress)
        self._report(committed, self._clock.monotonic() - began)
        self._on_committed(committed)

    def _report(self, committed: Committed, seconds: float) -> None:
        say = self._telemetry
        say.observe("streamlearn_checkpoint_seconds", seconds)
        say.count("streamlearn_checkpoint_bytes_total", committed.bytes_written)
        say.gauge("streamlearn_checkpoint_timestamp_seconds", self._clock.now())
        if committed.version is not None:
            say.gauge("streamlearn_version", committed.version)
            say.gauge("streamlearn_version_created_timestamp_seconds", self._clock.now())
            say.observe("streamlearn_publish_seconds", committed.publish_seconds)
            say.count("streamlearn_publish_bytes_total", committed.publish_bytes)
        _log.info(
            "checkpoint committed",
            checkpoint=committed.checkpoint,
            version=committed.version,
            seconds=round(seconds, 3),
            bytes=committed.bytes_written,
        )
