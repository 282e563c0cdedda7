"""The loop, on fakes: what is learnt, made durable, and given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from streamlearn.checkpointer import Checkpointer, CheckpointSettings
from streamlearn.core.events import Arrival, Outcome
from streamlearn.core.manifest import EventLine, ScoreLine
from streamlearn.core.schedule import Every
from streamlearn.core.stream import StreamState
from streamlearn.daemon import Daemon, DaemonSettings
from streamlearn.ports import Fatal, Fenced, StoreUnavailable
from streamlearn.publisher import Publisher
from streamlearn.reporter import Reporter
from tests.fakes.daemon import (
    DIGEST,
    ListDeadLetters,
    ListSource,
    ManualClock,
    MemoryLineage,
    NumberLearner,
    RecordingHealth,
    SilentTelemetry,
)
from tests.unit.core.making import arrival, settings


class Rig:
    """A daemon and its fakes."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        lineage: MemoryLineage | None = None,
        *,
        every: int = 10**9,
        flush_s: float = 1e9,
        publish_every_s: float = 1e12,
    ) -> None:
        self.lineage = lineage or MemoryLineage()
        self.source = ListSource(arrivals)
        self.letters = ListDeadLetters()
        self.learner = NumberLearner()
        self.health = RecordingHealth()
        self.clock = ManualClock(tick_s=0.001)
        self.stream = StreamState(settings())
        telemetry = SilentTelemetry()
        self.reporter = Reporter(telemetry, self.clock, group="group")
        self.publisher = Publisher(
            lineage=self.lineage,
            dead_letters=self.letters,
            mirror=self.source.mirror,
            telemetry=telemetry,
            clock=self.clock,
            lease_ttl_s=60.0,
            flush_timeout_s=1.0,
            on_committed=self.reporter.committed,
        )
        self.daemon = Daemon(
            source=self.source,
            dead_letters=self.letters,
            learner=self.learner,
            stream=self.stream,
            lineage=self.lineage,
            publisher=self.publisher,
            checkpointer=Checkpointer(
                source=self.source,
                learner=self.learner,
                stream=self.stream,
                publisher=self.publisher,
                clock=self.clock,
                settings=CheckpointSettings(
                    every_s=1e9,
                    every_events=every,
                    publish_every=Every(unit="seconds", amount=publish_every_s),
                    config_digest=DIGEST,
                    libraries={},
                ),
            ),
            reporter=self.reporter,
            health=self.health,
            clock=self.clock,
            settings=DaemonSettings(learning_rate=0.1, warmup_steps=2, flush_s=flush_s, grace_s=10.0),
        )

    def stop_when(self, condition: Callable[[], bool]) -> Callable[[], None]:
        """Return what stops the daemon once `condition` holds, or after far too long."""

        def look() -> None:
            if condition() or self.clock.time > 10_000.0:
                self.daemon.stop()

        return look

    def run_to_the_end(self) -> None:
        try:
            self.report = self.daemon.run(until_end=True)
        finally:
            self.publisher.close()


def test_a_run_to_the_end_learns_everything_and_publishes_it() -> None:
    """A backfill leaves a version behind that says what it has seen."""
    rig = Rig([arrival(offset) for offset in range(11)])

    rig.run_to_the_end()

    draft, _, _, version = rig.lineage.commits[-1]
    assert version == rig.report.newest_version == 1
    assert draft.progress == rig.source.mirrored == {"news": {0: 11}}
    assert [line.offset for line in rig.lineage.ledger if isinstance(line, EventLine)] == list(range(11))
    assert sum(isinstance(line, ScoreLine) for line in rig.lineage.ledger) == 11


@pytest.mark.parametrize("kill_after", range(1, 5))
def test_a_crash_changes_nothing_but_the_time(kill_after: int) -> None:
    """Ledger and weights after a crash and a restart are those of an undisturbed run."""
    events = [arrival(offset, chunks=1 + offset % 3) for offset in range(24)]
    undisturbed = Rig(events, every=5)
    undisturbed.run_to_the_end()
    lineage = MemoryLineage()
    crashing = Rig(events, lineage, every=5)

    def crash() -> None:
        if len(lineage.commits) == kill_after:
            raise Fatal("crash")

    lineage.on_commit = crash
    with pytest.raises(Fatal, match="crash"):
        crashing.run_to_the_end()
    lineage.on_commit = lambda: None
    restarted = Rig(events, lineage, every=5)
    restarted.run_to_the_end()

    assert lineage.ledger == undisturbed.lineage.ledger
    assert restarted.learner.weight == undisturbed.learner.weight
    assert restarted.stream.scores == undisturbed.stream.scores


def test_dead_letters_are_flushed_before_the_head_moves() -> None:
    """A bad record is never counted as passed before it is safe elsewhere."""
    rig = Rig([arrival(0), arrival(1, outcome=Outcome.DEAD_LETTER), arrival(2)])
    flushed: list[int] = []
    rig.lineage.on_commit = lambda: flushed.append(rig.letters.flushed)

    rig.run_to_the_end()

    assert flushed == [1]
    assert [letter.offset for letter in rig.letters.sent] == [1]


def test_nothing_is_committed_when_the_upload_fails() -> None:
    """Events are learnt again rather than lost."""
    rig = Rig([arrival(0), arrival(1)])
    rig.lineage.fail = StoreUnavailable("the store is away")

    with pytest.raises(StoreUnavailable):
        rig.run_to_the_end()

    assert rig.lineage.commits == []
    assert rig.source.mirrored == {}


def test_a_fenced_writer_ends() -> None:
    """Two writers never extend one lineage."""
    rig = Rig([arrival(offset) for offset in range(50)], every=3)
    rig.lineage.fail = Fenced("epoch 2 has taken over")

    with pytest.raises(Fenced):
        rig.run_to_the_end()


def test_a_stop_checkpoints_what_was_learnt() -> None:
    """SIGTERM costs nothing."""
    rig = Rig([arrival(offset) for offset in range(4)])
    rig.source._on_empty = rig.daemon.stop

    rig.daemon.run()
    rig.publisher.close()

    assert rig.lineage.commits[-1][0].totals.events == 4
    assert rig.health.states[-1] == "shutting down"


def test_an_event_that_waits_is_carried_over_a_restart() -> None:
    """What was admitted but not yet learnt is learnt by the next run, once."""
    rig = Rig([arrival(offset) for offset in range(3)])
    rig.source._on_empty = rig.daemon.stop
    rig.daemon.run()
    rig.publisher.close()

    again = Rig([arrival(offset) for offset in range(4)], rig.lineage)
    again.run_to_the_end()

    visits = [line.id for line in rig.lineage.ledger if isinstance(line, ScoreLine)]
    assert visits == [f"news:0:{offset}" for offset in range(4)]


def test_a_quiet_stream_is_learnt_when_the_flush_timer_says_so() -> None:
    """The last event of an hour does not wait for the next one, and the ledger says that the clock decided."""
    rig = Rig([arrival(0)], flush_s=0.01)
    rig.source._on_empty = rig.stop_when(lambda: bool(rig.learner.batches))

    rig.daemon.run()
    rig.publisher.close()

    assert [line.flushed for line in rig.lineage.ledger if isinstance(line, ScoreLine)] == [True]


def test_what_waited_at_a_restart_is_flushed_without_another_event() -> None:
    """A restart does not leave an event behind."""
    rig = Rig([arrival(0)])
    rig.source._on_empty = rig.daemon.stop
    rig.daemon.run()
    rig.publisher.close()

    again = Rig([arrival(0)], rig.lineage, flush_s=0.01)
    again.source._on_empty = again.stop_when(lambda: bool(again.learner.batches))
    again.daemon.run()
    again.publisher.close()

    assert [line.id for line in rig.lineage.ledger if isinstance(line, ScoreLine)] == ["news:0:0"]


def test_a_run_to_the_end_ends_although_events_go_on_coming() -> None:
    """A backfill of a busy topic comes to an end."""
    rig = Rig([arrival(offset) for offset in range(50)])
    rig.source.end = 10

    rig.run_to_the_end()

    assert rig.lineage.commits[-1][0].progress == {"news": {0: 10}}


def test_a_lineage_is_not_continued_on_another_base() -> None:
    """An adapter means nothing on other weights, even where it fits."""
    rig = Rig([arrival(0), arrival(1)])
    rig.run_to_the_end()
    again = Rig([arrival(0), arrival(1)], rig.lineage)
    again.learner.weights_digest = "f" * 64

    with pytest.raises(Fatal, match=r"give the model it began with, or begin a new stream\.name"):
        again.run_to_the_end()


def test_where_a_new_lineage_begins_is_kept_before_anything_comes() -> None:
    """With `kafka.start = "latest"`, a restart would skip what came to a quiet partition meanwhile."""
    rig = Rig([])
    rig.source.began_at = {"news": {0: 70, 1: 5}}
    rig.source._on_empty = rig.daemon.stop

    rig.daemon.run()
    rig.publisher.close()

    assert rig.lineage.commits[0][0].progress == {"news": {0: 70, 1: 5}}


def test_where_a_partition_found_later_begins_is_kept_too() -> None:
    """A topic that joins a lineage is not read from its end after a restart."""
    rig = Rig([arrival(0), arrival(1)])
    rig.run_to_the_end()
    again = Rig([arrival(0), arrival(1)], rig.lineage)
    again.source.began_at = {"news": {0: 2}, "other": {0: 5}}
    again.source._on_empty = again.daemon.stop

    again.daemon.run()
    again.publisher.close()

    assert rig.lineage.commits[-1][0].progress == {"news": {0: 2}, "other": {0: 5}}


def test_a_worker_that_is_restarted_often_publishes_all_the_same() -> None:
    """What is due every hour comes although no process lives for one."""
    rig = Rig([arrival(offset) for offset in range(4)], publish_every_s=3600.0)
    rig.source._on_empty = rig.daemon.stop
    rig.daemon.run()
    rig.publisher.close()
    assert rig.lineage.versions == 0

    again = Rig([arrival(offset) for offset in range(8)], rig.lineage, publish_every_s=3600.0)
    again.clock.time += 3601.0
    again.source._on_empty = again.daemon.stop
    again.daemon.run()
    again.publisher.close()

    assert rig.lineage.versions == 1


def test_ready_is_who_reads_the_topics() -> None:
    """A worker whose brokers are away is alive, and says what it waits for."""
    rig = Rig([arrival(offset) for offset in range(4)])
    rig.source.looks_until_assigned = 2

    rig.run_to_the_end()

    assert rig.health.states == [
        "waiting for the lease of the lineage",
        "waiting for the brokers to assign the topics",
        "ready",
        "shutting down",
    ]


def test_a_learner_that_has_broken_down_ends_the_process() -> None:
    """The stream is not burnt on a model that is no more."""
    rig = Rig([arrival(offset) for offset in range(50)])
    rig.learner.finite = False

    with pytest.raises(Fatal, match=r"learner\.learning_rate"):
        rig.run_to_the_end()

    assert len(rig.learner.batches) == 3
