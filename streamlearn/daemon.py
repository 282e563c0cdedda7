"""The loop: poll → admit → step → judge → checkpoint → publish.

Read this file first. The daemon orders the work and knows none of the parts:
it speaks to ports, `core.stream` decides what a step reads, and the publisher
makes state durable behind its back. It ends by an exception or by `stop`.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from streamlearn.core.arrays import from_bytes
from streamlearn.core.events import Outcome, Progress
from streamlearn.core.manifest import BaseModelCard, Draft
from streamlearn.core.schedule import Every, Mark, learning_rate
from streamlearn.core.stream import Batch, StreamState
from streamlearn.ports import Clock, DeadLetters, EventSource, Fatal, Health, Learner, Lineage, NotFound, Restored
from streamlearn.publisher import Parcel, Publisher
from streamlearn.reporter import Reporter, RunReport

_log = structlog.get_logger(__name__)

_POLL_S = 0.2
"""Longest wait for an event: how late a stop or a due checkpoint may be noticed."""
_CHECKPOINT_LINES = 10_000
"""Ledger lines after which a checkpoint is due whatever the clock says: a flood of duplicates or dead letters
must not pile up in memory."""
_MAX_LINES = 5 * _CHECKPOINT_LINES
"""Ledger lines in memory above which nothing is admitted until the store has taken a checkpoint (about 50 MB)."""
_LOOK_S = 1.0
"""Between two looks at which partitions there are."""
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
    checkpoint_every_s: float
    checkpoint_every_events: int | None
    publish_every: Every
    grace_s: float
    config_digest: str
    libraries: dict[str, str]


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
        self._reporter = reporter
        self._health = health
        self._clock = clock
        self._settings = settings
        self._stop = threading.Event()
        self._waiting_since = math.inf
        self._dropped_in_a_row = 0
        self._assigned = False
        self._looked_s = -math.inf
        self._begun_saved: set[tuple[str, int]] = set()
        self._published_at = clock.now()
        self._saved = self._published = self._mark()

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
            self._note_partitions()
            at_end = ends is not None and self._source.caught_up(ends)
            if self._stream.wants_events and not at_end:
                self._admit()
            if batch := self._stream.next_batch(flush=at_end or self._flush_due()):
                self._learn(batch)
            elif at_end:
                break
            self._checkpoint_if_due()
        return self._finish(publish=until_end or publish_last)

    def _admit(self) -> None:
        """Take the next event, if one comes within a moment."""
        if self._stream.ledger_lines >= _MAX_LINES:
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

    # --- checkpoints ------------------------------------------------------------

    def _checkpoint_if_due(self) -> None:
        now, settings = self._mark(), self._settings
        publish = settings.publish_every.due(self._published, now) and now.steps > self._published.steps
        counted = now.events - self._saved.events >= (settings.checkpoint_every_events or math.inf)
        due = self._stream.ledger_lines > 0 and (
            counted
            or now.monotonic_s - self._saved.monotonic_s >= settings.checkpoint_every_s
            or self._stream.ledger_lines >= _CHECKPOINT_LINES
        )
        # Counted checkpoints fall at the same events in every run, so they wait for the one before.
        while counted and self._publisher.busy and not self._stop.is_set():
            self._publisher.wait(_POLL_S)
            self._health.beat()
        if (publish or due) and not self._publisher.busy:
            self._checkpoint(publish=publish)

    def _checkpoint(self, *, publish: bool) -> None:
        """Hand a copy of everything to the publisher."""
        now = self._mark()
        if publish:
            self._published, self._published_at = now, self._clock.now()
        self._saved = now
        self._begun_saved = _partitions(self._source.begun())
        self._publisher.submit(
            Parcel(
                draft=self._draft(),
                learner=self._learner.snapshot(),
                arrays=self._stream.arrays(),
                ledger=self._stream.take_ledger(),
                adapter_config=self._learner.adapter_config() if publish else None,
            )
        )

    def _draft(self) -> Draft:
        return Draft(
            created_at=datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds"),
            progress=_merged(self._source.begun(), self._stream.progress),
            totals=self._stream.totals,
            scores=self._stream.scores,
            event_time=self._stream.event_time,
            base=self._learner.base,
            lora=self._learner.lora,
            config_digest=self._settings.config_digest,
            libraries=self._settings.libraries,
            stream=self._stream.document()
            | {
                "published": {
                    "steps": self._published.steps,
                    "events": self._published.events,
                    "at": self._published_at,
                }
            },
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
        self._saved = self._published = self._mark()
        if state is not None:
            earlier = state.stream["published"]
            self._published_at = earlier["at"]
            # However often it is restarted, a worker publishes when it is due.
            since_s = max(self._clock.now() - self._published_at, 0.0)
            self._published = Mark(
                steps=earlier["steps"], events=earlier["events"], monotonic_s=self._saved.monotonic_s - since_s
            )
        # What an earlier run left in the queue must not wait for another event.
        self._waiting_since = self._saved.monotonic_s if self._stream.waiting else math.inf
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

    def _note_partitions(self) -> None:
        """Ready is who reads the topics, and where reading began is kept before anything comes."""
        if self._assigned and self._clock.monotonic() - self._looked_s < _LOOK_S:
            return
        self._looked_s = self._clock.monotonic()
        if not self._assigned and self._source.status().assigned:
            self._assigned = True
            self._health.ready()
        begun = _partitions(self._source.begun()) - _partitions(self._stream.progress)
        if not begun <= self._begun_saved and not self._publisher.busy:
            self._checkpoint(publish=False)

    def _finish(self, *, publish: bool) -> RunReport:
        """Make the last state durable within the grace time."""
        self._health.not_ready("shutting down")
        publish = publish and self._stream.totals.steps > self._published.steps
        unsaved = self._stream.ledger_lines > 0
        # Only someone who waits for our end hurries us; at the end of a backfill nobody does.
        grace_s = self._settings.grace_s if self._stop.is_set() else _UNHURRIED_S
        deadline = self._clock.monotonic() + grace_s
        done = self._publisher.wait(grace_s)
        if done and (publish or unsaved):
            self._checkpoint(publish=publish)
            done = self._publisher.wait(max(deadline - self._clock.monotonic(), 0.0))
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
            self._checkpoint_if_due()
            self._health.ready()

    def _flush_due(self) -> bool:
        return self._clock.monotonic() - self._waiting_since >= self._settings.flush_s

    def _patience(self) -> float:
        waited = self._clock.monotonic() - self._waiting_since
        return min(_POLL_S, max(self._settings.flush_s - waited, 0.0))

    def _mark(self) -> Mark:
        totals = self._stream.totals
        return Mark(steps=totals.steps, events=totals.events, monotonic_s=self._clock.monotonic())


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


def _partitions(progress: Progress) -> set[tuple[str, int]]:
    return {(topic, partition) for topic, offsets in progress.items() for partition in offsets}


def _merged(begun: Progress, progress: Progress) -> Progress:
    """Return a copy of `progress` that also names partitions of which nothing was read yet."""
    return {topic: begun.get(topic, {}) | progress.get(topic, {}) for topic in sorted(begun.keys() | progress.keys())}
