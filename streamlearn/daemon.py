"""The loop: poll → admit → step → judge → checkpoint → publish.

Read this file first. The daemon orders the work and knows none of the parts:
it speaks to ports, `core.stream` decides what a step reads, the checkpointer
when state is kept, and the publisher makes it durable behind the loop's back.
It ends by an exception or by `stop`.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from datetime import datetime

import structlog

from streamlearn.checkpointer import Checkpointer
from streamlearn.core.arrays import from_bytes
from streamlearn.core.events import Outcome
from streamlearn.core.manifest import BaseModelCard
from streamlearn.core.schedule import learning_rate
from streamlearn.core.stream import Batch, StreamState
from streamlearn.ports import Clock, DeadLetters, EventSource, Fatal, Health, Learner, Lineage, NotFound, Restored
from streamlearn.publisher import Publisher
from streamlearn.reporter import Reporter, RunReport

_log = structlog.get_logger(__name__)

_POLL_S = 0.2
"""Longest wait for an event: how late a stop or a due checkpoint may be noticed."""
_UNHURRIED_S = 3600.0
"""Wait for the last checkpoint of a run that ends by itself; the store's own retry budget is shorter."""
_MAX_DROPPED = 3
"""Steps in a row without finite loss and gradient after which going on would only burn the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    """The knobs of the loop; see the configuration for their reasons."""

    learning_rate: float
    warmup_steps: int
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
        self._lineage = lineage
        self._publisher = publisher
        self._checkpointer = checkpointer
        self._reporter = reporter
        self._health = health
        self._clock = clock
        self._settings = settings
        self._stop = threading.Event()
        self._waiting_since = math.inf
        self._dropped_in_a_row = 0
        self._assigned = False

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
        restored = self._lineage.acquire(self._stop.is_set)
        if restored is None:
            return self._reporter.finished(self._stream)
        self._begin(restored)
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
        """Take the next event, if one comes within a moment."""
        if not self._checkpointer.room:
            self._hold()
        elif (arrival := self._source.take(self._patience())) is None:
            self._reporter.idle(self._source.status())
        else:
            outcome = self._stream.admit(arrival)
            if outcome is Outcome.DEAD_LETTER:
                self._dead_letters.send(arrival)
            self._reporter.admitted(arrival, outcome, self._source.status)
            if self._stream.waiting and self._waiting_since == math.inf:
                self._waiting_since = self._clock.monotonic()

    def _learn(self, batch: Batch) -> None:
        """Score every chunk, then learn from it."""
        rate = learning_rate(
            self._stream.totals.steps, rate=self._settings.learning_rate, warmup_steps=self._settings.warmup_steps
        )
        result = self._learner.step(batch.draws, rate)
        sampled = [batch.fresh[place].chunk for place in batch.sampled]
        base_nll = [float(nll) for nll in self._learner.base_nll(sampled)] if sampled else []
        self._stream.record(batch, result, base_nll)
        self._waiting_since = self._clock.monotonic() if self._stream.waiting else math.inf
        self._reporter.learnt(batch, result, base_nll, self._stream, self._source.status(), rate)
        self._dropped_in_a_row = 0 if result.applied else self._dropped_in_a_row + 1
        if self._dropped_in_a_row >= _MAX_DROPPED:
            raise Fatal(
                f"{_MAX_DROPPED} steps in a row had a loss or gradient that was not finite; the lineage stays at its "
                'last checkpoint: lower learner.learning_rate, or set model.dtype = "fp32"'
            )

    # --- begin, end, wait ---------------------------------------------------------

    def _begin(self, restored: Restored) -> None:
        if (state := restored.state) is not None:
            _check_base(state.base, self._learner.base)
            self._learner.restore(restored.files)
            self._stream.restore(
                state.stream,
                from_bytes(restored.files["window.safetensors"]),
                progress=state.progress,
                totals=state.totals,
                event_time=state.event_time,
            )
            _log.info("continuing", checkpoint_seq=state.seq, epoch=restored.epoch, progress=state.progress)
        else:
            _log.info("a new lineage", epoch=restored.epoch)
        self._checkpointer.begin(state)
        # What an earlier run left in the queue must not wait for another event.
        self._waiting_since = self._clock.monotonic() if self._stream.waiting else math.inf
        self._publisher.start()
        self._source.start(self._stream.progress)
        self._reporter.began(
            epoch=restored.epoch,
            newest_version=restored.newest_version,
            base=self._learner.base,
            lora=self._learner.lora,
            newest_created_s=self._created_s(restored.newest_version),
        )
        self._health.not_ready("waiting for the brokers to assign the topics")

    def _created_s(self, version: int) -> float | None:
        """Return when `version` was published, seconds since 1970, where that is known."""
        try:
            return datetime.fromisoformat(self._lineage.manifest(version).created_at).timestamp() if version else None
        except NotFound:
            return None

    def _note_assignment(self) -> None:
        """Ready is who reads the topics; the brokers may be away for long after the start."""
        if not self._assigned and self._source.status().assigned:
            self._assigned = True
            self._health.ready()

    def _finish(self, *, publish: bool) -> RunReport:
        """Make the last state durable within the grace time."""
        self._health.not_ready("shutting down")
        # Only someone who waits for our end hurries us; at the end of a backfill nobody does.
        grace_s = self._settings.grace_s if self._stop.is_set() else _UNHURRIED_S
        done = self._checkpointer.finish(publish=publish, grace_s=grace_s)
        report = self._reporter.finished(self._stream)
        if not done:
            raise Fatal(
                f"the store did not take the last checkpoint within {grace_s:g} s (shutdown.grace_s); the "
                "lineage stays at the one before, and the next start learns the rest again"
            )
        return report

    def _hold(self) -> None:
        """Admit nothing until the store has taken what is in memory already."""
        self._health.not_ready("the store has not taken a checkpoint for too long; nothing is admitted meanwhile")
        if self._publisher.wait(_POLL_S):
            self._checkpointer.make_if_due(self._go_on)
            self._health.ready()

    def _go_on(self) -> bool:
        self._health.beat()
        return not self._stop.is_set()

    def _flush_due(self) -> bool:
        return self._clock.monotonic() - self._waiting_since >= self._settings.flush_s

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
