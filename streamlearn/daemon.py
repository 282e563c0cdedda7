"""The loop: poll → admit → step → judge → checkpoint → publish.

Read this file first. The daemon orders the work and knows none of the parts:
it speaks to ports, `core.stream` decides what a step reads, the checkpointer
when state is kept, and the publisher makes it durable behind the loop's back.
It ends by an exception or by `stop`.

While the store is away, the checkpoint in flight waits and learning goes on:
the worker is ready, as it does its work, and tells of the outage by its log
and by `streamlearn_checkpoint_timestamp_seconds`. When memory has no room for
more it admits nothing, and is alive but not ready, with the reason, until the
store is back; likewise while the brokers are away.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from streamlearn.checkpointer import Checkpointer
from streamlearn.core.arrays import from_bytes
from streamlearn.core.events import Outcome
from streamlearn.core.manifest import BaseModelCard, CheckpointState
from streamlearn.core.stream import Batch, StreamState
from streamlearn.judge import Judge
from streamlearn.lessons import Lessons
from streamlearn.ports import (
    Anchor,
    Clock,
    DeadLetters,
    EventSource,
    Fatal,
    Health,
    Learner,
    Lineage,
    NotFound,
    Restored,
    Transient,
)
from streamlearn.publisher import Publisher
from streamlearn.reporter import Reporter, RunReport
from streamlearn.telemetry.health import Trouble

_log = structlog.get_logger(__name__)

_POLL_S = 0.2
"""Longest wait for an event: how late a stop or a due checkpoint may be noticed."""
_STORE_AWAY = "the store has not taken a checkpoint for too long; nothing is admitted meanwhile"


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """The knobs of the loop; see the configuration for their reasons."""

    flush_s: float
    grace_s: float


class Daemon:
    """One lineage's worker."""

    def __init__(
        self,
        *,
        source: EventSource,
        dead_letters: DeadLetters,
        learner: Learner,
        stream: StreamState,
        lessons: Lessons,
        judge: Judge,
        anchor: Anchor,
        lineage: Lineage,
        publisher: Publisher,
        checkpointer: Checkpointer,
        reporter: Reporter,
        health: Health,
        clock: Clock,
        settings: DaemonSettings,
    ) -> None:
        self._source = source
        self._dead_letters = dead_letters
        self._learner = learner
        self._stream = stream
        self._lessons = lessons
        self._judge = judge
        self._anchor = anchor
        self._lineage = lineage
        self._publisher = publisher
        self._checkpointer = checkpointer
        self._reporter = reporter
        self._health = health
        self._clock = clock
        self._settings = settings
        self._stop = threading.Event()
        self._waiting_since = math.inf
        self._quiet = False
        self._assigned = False
        self._trouble = Trouble(health, clock)
        self._nap = threading.Event()
        self._at_stake = False

    @property
    def at_stake(self) -> bool:
        """Whether the store is worth waiting for although we were told to stop: something learnt may be lost."""
        return self._at_stake

    def stop(self) -> None:
        """Finish the step, checkpoint, and return from `run`; safe from any thread and from a signal handler."""
        self._stop.set()

    # --- the loop -------------------------------------------------------------

    def run(self, *, until_end: bool = False, deadline_s: float = math.inf, publish_last: bool = False) -> RunReport:
        """Learn until stopped.

        Args:
            until_end: stop by itself at the high-water marks seen at the start.
            deadline_s: stop by itself after so many seconds.
            publish_last: publish what was learnt since the last version before returning; implied by `until_end`.

        Raises:
            Fenced: another writer took over. Nothing uncommitted is kept.
            Fatal, Transient: a part failed for good, or for longer than its budget.
        """
        self._health.not_ready("waiting for the lease of the lineage")
        if not self._has_begun():
            return self._reporter.finished(self._stream)
        deadline = self._clock.monotonic() + deadline_s
        ends = self._source.ends(self._stop.is_set) if until_end else None
        while not self._stop.is_set() and self._clock.monotonic() < deadline:
            self._publisher.check()
            self._health.beat()
            self._note_assignment()
            at_end = ends is not None and self._source.caught_up(ends)
            if self._stream.wants_events and not at_end:
                self._admit()
            if batch := self._stream.next_batch(flush=at_end or self._flush_due()):
                self._learn(batch)
            elif at_end:
                break
            self._checkpointer.make_if_due(self._go_on)
        return self._finish(publish=until_end or publish_last)

    def _admit(self) -> None:
        """Take the next event, if one comes within a moment and memory has room for what it leaves."""
        self._quiet = False
        if (full := self._full()) is not None:
            self._hold(full)
        elif (arrival := self._source.take(self._patience())) is None:
            status = self._source.status()
            # Who reads no partition yet, or hears no broker, cannot know.
            self._quiet = self._assigned and status.trouble is None
            self._reporter.idle(status)
            self._trouble.note(status.trouble if self._assigned else None)
        else:
            self._trouble.note(None)
            outcome = self._stream.admit(arrival)
            if outcome is Outcome.DEAD_LETTER:
                self._dead_letters.send(arrival)
            self._reporter.admitted(arrival, outcome, self._source.status)
            if self._stream.waiting and self._waiting_since == math.inf:
                self._waiting_since = self._clock.monotonic()

    def _learn(self, batch: Batch) -> None:
        """Score every chunk, then learn from it, and hear what versions make of it."""
        lesson = self._lessons.take(batch)
        for alarm in lesson.alarms:
            _log.warning("the stream has changed", **alarm.model_dump(mode="json"))
        self._judge.observe(batch, lesson)
        self._waiting_since = self._clock.monotonic() if self._stream.waiting else math.inf
        self._reporter.learnt(
            batch, lesson.plan, lesson.result, lesson.base_nll, lesson.alarms, self._stream, self._source.status()
        )
        self._reporter.judged(self._judge.judgement)

    # --- begin, end, wait ---------------------------------------------------------

    def _has_begun(self) -> bool:
        """Take the lineage over and begin where it stands; False when told to stop first."""
        try:
            restored = self._lineage.acquire(self._stop.is_set)
            begun = restored is not None and self._begin(restored)
        except Transient as absence:
            if not self._stop.is_set():
                raise
            _log.info(f"told to stop before anything began: {absence}")
            return False
        self._at_stake = begun
        return begun

    def _begin(self, restored: Restored) -> bool:
        """Begin where the lineage stands; False when told to stop before a new one had what it needs."""
        if (state := restored.state) is not None:
            _check_base(state.base, self._learner.base)
            self._continue_from(state, restored.files)
            _log.info("continuing", checkpoint_seq=state.seq, epoch=restored.epoch, progress=state.progress)
        else:
            self._checkpointer.begin(None)
            _log.info("a new lineage", epoch=restored.epoch)
        # What an earlier run left in the queue must not wait for another event.
        self._waiting_since = self._clock.monotonic() if self._stream.waiting else math.inf
        self._publisher.start()
        # Behind the publisher, which renews the lease: the base may write for minutes.
        if restored.state is None and not self._has_anchor():
            return False
        self._source.start(self._stream.progress)
        self._reporter.began(
            epoch=restored.epoch,
            newest_version=restored.newest_version,
            base=self._learner.base,
            lora=self._learner.lora,
            newest_created_s=self._created_s(restored.newest_version),
        )
        self._health.not_ready("waiting for the brokers to assign the topics")
        return True

    def _has_anchor(self) -> bool:
        """Give a new lineage the text that holds it close to the base; False when told to stop first."""

        def go_on(_done: int, _total: int) -> bool:
            self._publisher.check()
            self._health.beat()
            return not self._stop.is_set()

        self._health.not_ready("waiting for the base model to write the anchor")
        if (chunks := self._anchor(go_on)) is None:
            _log.info("told to stop before the anchor was whole; nothing was begun")
            return False
        self._stream.rehearse(chunks)
        return True

    def _continue_from(self, state: CheckpointState, files: Mapping[str, bytes]) -> None:
        self._learner.restore(files)
        try:
            self._stream.restore(
                state.stream,
                from_bytes(files["window.safetensors"]),
                progress=state.progress,
                totals=state.totals,
                event_time=state.event_time,
            )
            self._lessons.restore(state.stream["lessons"])
            self._judge.restore(state.stream["judge"], state.judgement, published=state.version is not None)
            self._checkpointer.begin(state)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Its digests are right, so it is no damage to fall back from: somebody else's work, or another release's.
            raise Fatal(
                f"checkpoint {state.seq} holds a state that this release does not write ({type(error).__name__}: "
                f"{error}): use the release that wrote it, or begin a new stream.name"
            ) from error

    def _created_s(self, version: int) -> float | None:
        """Return when `version` was published, seconds since 1970, where that is known."""
        try:
            return datetime.fromisoformat(self._lineage.manifest(version).created_at).timestamp() if version else None
        except (NotFound, Fatal):
            # A damaged manifest was told when the lineage was acquired; no gauge is worth a stop.
            return None

    def _note_assignment(self) -> None:
        """Ready is who reads the topics; the brokers may be away for long after the start."""
        if not self._assigned and self._source.status().assigned:
            self._assigned = True
            self._health.ready()

    def _finish(self, *, publish: bool) -> RunReport:
        """Make the last state durable; within the grace time, once we were told to stop."""
        self._health.not_ready("shutting down")
        deadline = math.inf
        # A moment at a time: a backfill waits for as long as the store is tried, until somebody waits for us.
        while not (done := self._checkpointer.finish(publish=publish, grace_s=_POLL_S)):
            if self._clock.monotonic() >= deadline:
                break
            if self._stop.is_set():
                deadline = min(deadline, self._clock.monotonic() + self._settings.grace_s)
        report = self._reporter.finished(self._stream)
        if not done:
            self._at_stake = False
            raise Fatal(
                f"the store did not take the last checkpoint within {self._settings.grace_s:g} s (shutdown.grace_s); "
                "the lineage stays at the one before, and the next start learns the rest again"
            )
        return report

    def _full(self) -> str | None:
        """Say what memory waits for, where it has no room for what another event would leave."""
        if not self._checkpointer.room:
            return self._dead_letters.trouble or _STORE_AWAY
        if not self._dead_letters.room():
            return self._dead_letters.trouble or "too many dead letters wait to be acknowledged"
        return None

    def _hold(self, why: str) -> None:
        """Admit nothing for a moment, but go on with checkpoints."""
        self._trouble.note(why)
        self._reporter.idle(self._source.status())
        if self._publisher.wait(_POLL_S):
            self._checkpointer.make_if_due(self._go_on)
            if self._full() is not None:
                self._nap.wait(_POLL_S)

    def _go_on(self) -> bool:
        """Say whether a checkpoint that waits for the one before is to wait on; nothing is admitted meanwhile."""
        self._health.beat()
        self._trouble.note(self._dead_letters.trouble or _STORE_AWAY)
        return not self._stop.is_set()

    def _flush_due(self) -> bool:
        """Say whether chunks have waited for long while nothing more was at hand.

        A store that held us up, or a start that took its time, must not show in the batches.
        """
        return self._quiet and self._clock.monotonic() - self._waiting_since >= self._settings.flush_s

    def _patience(self) -> float:
        waited = self._clock.monotonic() - self._waiting_since
        return min(_POLL_S, max(self._settings.flush_s - waited, 0.0))


def _check_base(theirs: BaseModelCard, ours: BaseModelCard) -> None:
    """An adapter means nothing on another base, even where it fits.

    In another number format it means nearly the same; the log says so.
    """
    if (theirs.weights_digest, theirs.tokenizer_digest) != (ours.weights_digest, ours.tokenizer_digest):
        raise Fatal(
            f"the lineage learns on {_known_by(theirs)}, but [model] is {_known_by(ours)}: give the model it began "
            "with, or begin a new stream.name"
        )
    if theirs.dtype != ours.dtype:
        _log.warning(
            "the lineage goes on in another number format, so its scores may jump a little; see model.dtype",
            before=theirs.dtype,
            now=ours.dtype,
        )


def _known_by(base: BaseModelCard) -> str:
    return f"{base.name} (weights {base.weights_digest[:12]}, tokenizer {base.tokenizer_digest[:12]})"
