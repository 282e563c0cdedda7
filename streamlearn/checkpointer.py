"""When a checkpoint is due, and what it holds.

Counts events, time and what waits in memory; gathers the state of all parts
into one parcel. Making it durable is the publisher's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from streamlearn.core.events import Progress
from streamlearn.core.manifest import CheckpointState, Draft, Origin
from streamlearn.core.schedule import Every, Mark
from streamlearn.core.stream import StreamState
from streamlearn.judge import Judge
from streamlearn.lessons import Lessons
from streamlearn.ports import ADAPTER, Clock, EventSource, Learner
from streamlearn.publisher import Parcel, Publisher

POLL_S = 0.2
"""Between two looks at a checkpoint in flight."""
_DUE_LINES = 10_000
"""Ledger lines after which a checkpoint is due whatever the clock says: a flood of duplicates or dead letters
must not pile up in memory."""
_MAX_LINES = 5 * _DUE_LINES
"""Ledger lines in memory above which there is no room for more (about 50 MB)."""
_LOOK_S = 1.0
"""Between two looks at which partitions there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """The knobs of checkpoints and versions; see the configuration for their reasons."""

    every_s: float
    every_events: int | None
    publish_every: Every
    step_chunks: int
    catch_up_chunks: int | None
    config_digest: str
    libraries: dict[str, str]


class Checkpointer:
    """Hands the state of a lineage to the publisher, in time and whole."""

    def __init__(
        self,
        *,
        source: EventSource,
        learner: Learner,
        stream: StreamState,
        lessons: Lessons,
        judge: Judge,
        publisher: Publisher,
        clock: Clock,
        settings: CheckpointSettings,
    ) -> None:
        self._source = source
        self._learner = learner
        self._stream = stream
        self._lessons = lessons
        self._judge = judge
        self._publisher = publisher
        self._clock = clock
        self._settings = settings
        self._looked_s = -math.inf
        self._begun_saved: set[tuple[str, int]] = set()
        self._passed_saved: Progress = {}
        self._published_at = clock.now()
        self._saved = self._published = self._mark()

    def begin(self, state: CheckpointState | None) -> None:
        """Count from `state`, which the stream was restored from, or from nothing."""
        self._saved = self._published = self._mark()
        if state is not None:
            self._source.recall(state.origin)
            self._passed_saved = state.origin.passed
            earlier = state.stream["published"]
            self._published_at = earlier["at"]
            # However often it is restarted, a worker publishes when it is due.
            since_s = max(self._clock.now() - self._published_at, 0.0)
            self._published = Mark(
                steps=earlier["steps"], events=earlier["events"], monotonic_s=self._saved.monotonic_s - since_s
            )

    @property
    def room(self) -> bool:
        """Whether memory has room for what more events would add before the next checkpoint."""
        return self._stream.ledger_lines < _MAX_LINES

    def make_if_due(self, go_on: Callable[[], bool]) -> None:
        """Make a checkpoint, and a version, where one is due and none is in flight.

        Args:
            go_on: asked while a checkpoint that must not be late waits for the one before.
        """
        now, settings = self._mark(), self._settings
        publish = self._unpublished(now) and settings.publish_every.due(self._published, now)
        counted = now.events - self._saved.events >= (settings.every_events or math.inf)
        waited = now.monotonic_s - self._saved.monotonic_s >= settings.every_s
        due = (self._stream.ledger_lines > 0 and (counted or waited or self._stream.ledger_lines >= _DUE_LINES)) or (
            waited and self._passed_more
        )
        # Counted checkpoints, and what is due among them, fall at the same events in every run, so they wait for the
        # one before; others go on learning.
        counted |= settings.every_events is not None and (
            self._judge.urgent or (publish and settings.publish_every.counted)
        )
        while counted and self._publisher.busy and go_on():
            self._publisher.wait(POLL_S)
        due |= publish or self._judge.urgent
        if (due or self._partitions_are_new(now)) and not self._publisher.busy:
            self._make(publish=publish)

    def finish(self, *, publish: bool, grace_s: float) -> bool:
        """Make the last state durable, as a version where `publish` says so; whether it was within `grace_s`."""
        publish = publish and self._unpublished(self._mark())
        deadline = self._clock.monotonic() + grace_s
        done = self._publisher.wait(grace_s)
        if done and (publish or self._stream.ledger_lines > 0 or self._passed_more or self._judge.urgent):
            self._make(publish=publish)
            done = self._publisher.wait(max(deadline - self._clock.monotonic(), 0.0))
        return done

    def _make(self, *, publish: bool) -> None:
        """Hand a copy of everything to the publisher."""
        self._pace()
        self._saved = self._mark()
        if publish:
            self._published, self._published_at = self._saved, self._clock.now()
        # In this order: a partition found in between is then one without an id, which does no harm.
        origin, begun = self._source.origin(), self._source.begun()
        self._begun_saved, self._passed_saved = _partitions(begun), origin.passed
        snapshot = self._learner.snapshot()
        if publish:
            # Before the draft, which tells of the new candidate.
            self._judge.published(snapshot.files()[ADAPTER])
        self._publisher.submit(
            Parcel(
                draft=self._draft(begun, origin),
                learner=snapshot,
                arrays=self._stream.arrays(),
                ledger=self._stream.take_ledger(),
                adapter_config=self._learner.adapter_config() if publish else None,
            )
        )
        self._judge.handed_over(published=publish)

    def _pace(self) -> None:
        """Let steps be larger for as long as more waits on the brokers than came since the last checkpoint.

        Here, as only what a checkpoint holds is the same after a crash.
        """
        behind = sum(self._source.status().lag_records.values())
        passed = self._stream.totals.events - self._saved.events
        larger = self._settings.catch_up_chunks
        self._stream.step_chunks = larger if larger is not None and behind > passed else self._settings.step_chunks

    def _draft(self, begun: Progress, origin: Origin) -> Draft:
        published = {"steps": self._published.steps, "events": self._published.events, "at": self._published_at}
        return Draft(
            created_at=datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds"),
            progress=_merged(begun, self._stream.progress),
            origin=origin,
            totals=self._stream.totals,
            scores=self._stream.scores,
            event_time=self._stream.event_time,
            base=self._learner.base,
            lora=self._learner.lora,
            config_digest=self._settings.config_digest,
            libraries=self._settings.libraries,
            judgement=self._judge.judgement,
            stream=self._stream.document()
            | {"lessons": self._lessons.document(), "judge": self._judge.document(), "published": published},
        )

    @property
    def _passed_more(self) -> bool:
        """Whether reading is behind gaps that no checkpoint knows; see `Origin.passed`."""
        passed = self._source.origin().passed
        return bool(passed) and passed != self._passed_saved

    def _unpublished(self, now: Mark) -> bool:
        return now.steps > self._published.steps

    def _partitions_are_new(self, now: Mark) -> bool:
        """Whether reading began somewhere that no checkpoint knows; see `EventSource.begun`."""
        if now.monotonic_s - self._looked_s < _LOOK_S:
            return False
        self._looked_s = now.monotonic_s
        begun = _partitions(self._source.begun()) - _partitions(self._stream.progress)
        return not begun <= self._begun_saved

    def _mark(self) -> Mark:
        totals = self._stream.totals
        return Mark(steps=totals.steps, events=totals.events, monotonic_s=self._clock.monotonic())


def _partitions(progress: Progress) -> set[tuple[str, int]]:
    return {(topic, partition) for topic, offsets in progress.items() for partition in offsets}


def _merged(begun: Progress, progress: Progress) -> Progress:
    """Return a copy of `progress` that also names partitions of which nothing was read yet."""
    return {topic: begun.get(topic, {}) | progress.get(topic, {}) for topic in sorted(begun.keys() | progress.keys())}
