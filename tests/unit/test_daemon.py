"""The loop, on fakes: what is learnt, made durable, and given up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from streamlearn.checkpointer import Checkpointer, CheckpointSettings
from streamlearn.core.batches import Draw, Role, StepPlan, StepResult
from streamlearn.core.events import Arrival, Chunk, Outcome
from streamlearn.core.gate import GateSettings
from streamlearn.core.manifest import EventLine, ScoreLine
from streamlearn.core.mix import Shares
from streamlearn.core.schedule import Every
from streamlearn.core.stream import StreamSettings, StreamState
from streamlearn.daemon import Daemon, DaemonSettings
from streamlearn.judge import Judge, JudgeSettings
from streamlearn.lessons import Lessons
from streamlearn.ports import Anchor, Fatal, Fenced, IntakeStatus, Restored, StoreUnavailable
from streamlearn.publisher import Publisher
from streamlearn.reporter import Reporter
from streamlearn.telemetry.health import Trouble
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
from tests.unit.core.judging import GATE, WATCH
from tests.unit.core.making import arrival, chunk, settings
from tests.unit.core.test_lives import LESSONS, TIGHT, Weight, a_stream_with_everything_in_it

ANCHOR = (chunk(901, 3), chunk(902, 5))


class Rig:
    """A daemon and its fakes."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        lineage: MemoryLineage | None = None,
        *,
        every: int = 10**9,
        every_s: float = 1e9,
        flush_s: float = 1e9,
        publish_every_s: float = 1e12,
        source: ListSource | None = None,
        stream: StreamSettings | None = None,
        anchor: Anchor = lambda _: ANCHOR,
        learner: NumberLearner | None = None,
        gate: GateSettings | None = None,
        catch_up_chunks: int | None = None,
    ) -> None:
        self.lineage = lineage or MemoryLineage()
        self.source = source or ListSource(arrivals)
        self.letters = ListDeadLetters()
        self.learner = learner or NumberLearner()
        self.health = RecordingHealth()
        self.clock = ManualClock(tick_s=0.001)
        self.stream = StreamState(stream or settings())
        self.lessons = Lessons(self.learner, self.stream, LESSONS)
        self.judge = Judge(
            learner=self.learner,
            guests=self.learner,
            stream=self.stream,
            lineage=self.lineage,
            held_out=(),
            settings=JudgeSettings(gate=gate, watch=WATCH),
        )
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
            lessons=self.lessons,
            judge=self.judge,
            anchor=anchor,
            lineage=self.lineage,
            publisher=self.publisher,
            checkpointer=Checkpointer(
                source=self.source,
                learner=self.learner,
                stream=self.stream,
                lessons=self.lessons,
                judge=self.judge,
                publisher=self.publisher,
                clock=self.clock,
                settings=CheckpointSettings(
                    every_s=every_s,
                    every_events=every,
                    publish_every=Every(unit="seconds", amount=publish_every_s),
                    step_chunks=self.stream.step_chunks,
                    catch_up_chunks=catch_up_chunks,
                    config_digest=DIGEST,
                    libraries={},
                ),
            ),
            reporter=self.reporter,
            health=self.health,
            clock=self.clock,
            settings=DaemonSettings(flush_s=flush_s, grace_s=10.0),
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


@pytest.mark.parametrize("kill_after", [2, 11, 17])
def test_a_crash_changes_nothing_where_junk_drift_and_clipping_strike(kill_after: int) -> None:
    """What was learnt, passed over and reacted to is the same, however often the worker began anew."""
    events = a_stream_with_everything_in_it()
    undisturbed = Rig(events, every=10, stream=TIGHT, learner=Weight())
    undisturbed.run_to_the_end()
    lineage = MemoryLineage()
    crashing = Rig(events, lineage, every=10, stream=TIGHT, learner=Weight())

    def crash() -> None:
        if len(lineage.commits) == kill_after:
            raise Fatal("crash")

    lineage.on_commit = crash
    with pytest.raises(Fatal, match="crash"):
        crashing.run_to_the_end()
    lineage.on_commit = lambda: None
    restarted = Rig(events, lineage, every=10, stream=TIGHT, learner=Weight(), anchor=never_asked)
    restarted.run_to_the_end()

    assert lineage.ledger == undisturbed.lineage.ledger
    assert restarted.learner.weight == undisturbed.learner.weight
    assert restarted.lessons.document() == undisturbed.lessons.document()
    assert restarted.stream.vigilance.document() == undisturbed.stream.vigilance.document()
    assert undisturbed.stream.totals.chunks_passed_over > 0
    assert undisturbed.stream.vigilance.alarms
    assert any(plan.turn for plan in undisturbed.learner.plans)
    assert undisturbed.lessons.document()["clip"]["clipped"] > 0


# --- the anchor ---------------------------------------------------------------------------


def never_asked(_: object) -> Sequence[Chunk]:
    raise AssertionError("a lineage that goes on has its anchor")


def rehearsed(rig: Rig) -> set[int]:
    return {int(draw.chunk.ids[0]) for draws in rig.learner.batches for draw in draws if draw.role is Role.ANCHOR}


def test_a_new_lineage_asks_for_its_anchor_once_and_keeps_it() -> None:
    """Whoever goes on rehearses the same text, without the cache, the file or the minutes that it took."""
    anchored = settings(shares=Shares(window=0.1, reservoir=0.1, anchor=0.3))
    rig = Rig([arrival(offset) for offset in range(20)], stream=anchored)
    rig.run_to_the_end()
    again = Rig([arrival(offset) for offset in range(40)], rig.lineage, stream=anchored, anchor=never_asked)
    again.run_to_the_end()

    assert rehearsed(rig) == rehearsed(again) == {901, 902}


def test_a_worker_whose_base_writes_the_anchor_is_alive_and_not_ready() -> None:
    """It takes minutes; no probe may end it meanwhile, and the lease is renewed."""
    beats: list[int] = []

    def slow(go_on: Callable[[int, int], bool]) -> Sequence[Chunk]:
        assert rig.health.states[-1] == "waiting for the base model to write the anchor"
        assert all(thread.is_alive() for thread in rig.publisher._threads)
        before = rig.health.beats
        assert go_on(1, 2)
        assert go_on(2, 2)
        beats.append(rig.health.beats - before)
        return ANCHOR

    rig = Rig([arrival(0), arrival(1)], anchor=slow)
    rig.run_to_the_end()

    assert beats == [2]


def test_a_worker_told_to_stop_does_not_wait_for_its_anchor() -> None:
    """Nothing was begun, so nothing is committed, and the next start makes it again."""
    told: list[bool] = []

    def stopped(go_on: Callable[[int, int], bool]) -> None:
        rig.daemon.stop()
        told.append(go_on(1, 2))

    rig = Rig([arrival(0), arrival(1)], anchor=stopped)
    rig.run_to_the_end()

    assert told == [False]
    assert rig.report.events == 0
    assert rig.lineage.commits == []
    assert not rig.daemon.at_stake


def test_a_step_is_flushed_when_the_stream_is_quiet_and_not_when_the_worker_was_busy() -> None:
    """Time that passed while events were at hand does not show in the batches."""
    passed = [arrival(offset, outcome=Outcome.FILTERED) for offset in range(1, 9)]
    # Each look at the clock costs more than the flush timer allows.
    busy = Rig([arrival(0), *passed, arrival(9), arrival(10)], flush_s=0.0005)
    busy.source._on_empty = busy.stop_when(lambda: busy.stream.waiting == 0)

    busy.daemon.run()
    busy.publisher.close()

    flushed = [(line.id, line.flushed) for line in busy.lineage.ledger if isinstance(line, ScoreLine)]
    assert flushed == [("news:0:0", False), ("news:0:9", False), ("news:0:10", True)]


def test_a_worker_that_reads_no_partition_yet_does_not_take_that_for_a_quiet_stream() -> None:
    """What waited at a crash is learnt together with what comes next, however long the brokers take to answer."""
    rig = Rig([arrival(0)])
    rig.source._on_empty = rig.daemon.stop
    rig.daemon.run()
    rig.publisher.close()
    again = Rig([arrival(0)], rig.lineage, flush_s=0.0005)
    again.source.looks_until_assigned = 10**9
    looks = iter(range(50))
    again.source._on_empty = again.stop_when(lambda: next(looks, None) is None)

    again.daemon.run()
    again.publisher.close()

    assert not any(isinstance(line, ScoreLine) for line in rig.lineage.ledger)
    assert again.stream.waiting == 1


def test_reading_goes_on_behind_a_gap_that_the_broker_left_at_the_end() -> None:
    """A marker behind the last record was no record: when retention removes it, nothing of ours is lost."""
    rig = Rig([arrival(0), arrival(1)])
    rig.source.passed = {"news": {0: 5}}
    rig.run_to_the_end()
    draft = rig.lineage.commits[-1][0]
    assert draft.progress == {"news": {0: 2}}, "progress speaks of records"

    assert draft.origin.passed == {"news": {0: 5}}

    again = Rig([arrival(0), arrival(1)], rig.lineage)
    again.source.passed = {"news": {0: 5}}
    again.run_to_the_end()

    assert again.source.recalled == draft.origin
    assert len(rig.lineage.commits) == 1, "nothing new was passed"
    another = Rig([arrival(0), arrival(1)], rig.lineage)
    another.source.passed = {"news": {0: 6}}
    another.run_to_the_end()
    assert rig.lineage.commits[-1][0].origin.passed == {"news": {0: 6}}, "a gap alone is worth a checkpoint"


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
        "waiting for the base model to write the anchor",
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


# --- a store or brokers that are away -----------------------------------------------------


class StalledLineage(MemoryLineage):
    """Takes no checkpoint until `back`."""

    def __init__(self) -> None:
        super().__init__()
        self.back = threading.Event()
        self.on_commit = self._wait

    def _wait(self) -> None:
        assert self.back.wait(60)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for twenty ledger lines, and a worker that tells of trouble at once."""
    monkeypatch.setattr("streamlearn.checkpointer._MAX_LINES", 20)
    monkeypatch.setattr("streamlearn.telemetry.health._TROUBLE_S", 0.0)


@pytest.mark.usefixtures("narrow")
def test_learning_goes_on_while_the_store_is_away_and_until_memory_is_full() -> None:
    """Then nothing is admitted, which is told, and goes on by itself."""
    lineage = StalledLineage()
    rig = Rig([arrival(offset) for offset in range(100)], lineage, every_s=0.001)
    admitted: list[int] = []

    def not_ready(reason: str) -> None:
        RecordingHealth.not_ready(rig.health, reason)
        if "the store has not taken a checkpoint" in reason:
            admitted.append(rig.stream.totals.events)
            if len(admitted) == 3:
                lineage.back.set()

    rig.health.not_ready = not_ready  # type: ignore[method-assign]
    rig.run_to_the_end()

    assert 0 < admitted[0] < 100, "it learnt on beyond the checkpoint in flight"
    assert admitted[0] == admitted[2], "and admitted nothing while memory was full"
    trouble = rig.health.states.index(STORE_AWAY)
    assert rig.health.states[trouble - 1] == "ready"
    assert "ready" in rig.health.states[trouble:]
    assert [line.offset for line in lineage.ledger if isinstance(line, EventLine)] == list(range(100))


STORE_AWAY = "the store has not taken a checkpoint for too long; nothing is admitted meanwhile"


@pytest.mark.usefixtures("narrow")
def test_a_counted_checkpoint_that_waits_for_the_one_before_is_told_too() -> None:
    """With `checkpoint.every_events` nothing is admitted in between, so the worker does not do its work."""
    lineage = StalledLineage()
    rig = Rig([arrival(offset) for offset in range(14)], lineage, every=4)

    def not_ready(reason: str) -> None:
        RecordingHealth.not_ready(rig.health, reason)
        if reason == STORE_AWAY:
            lineage.back.set()

    rig.health.not_ready = not_ready  # type: ignore[method-assign]
    rig.run_to_the_end()

    assert STORE_AWAY in rig.health.states
    assert rig.health.states[-2:] == ["ready", "shutting down"]


@pytest.mark.usefixtures("narrow")
def test_nothing_is_admitted_while_there_is_no_room_for_dead_letters() -> None:
    """What cannot be made safe elsewhere must not count as passed; the worker says what it waits for."""
    rig = Rig([arrival(0), arrival(1, outcome=Outcome.DEAD_LETTER)])
    rig.letters.full, rig.letters.trouble = True, "the brokers do not take dead letters"

    def not_ready(reason: str) -> None:
        RecordingHealth.not_ready(rig.health, reason)
        if reason == rig.letters.trouble:
            assert rig.stream.totals.events == 0
            rig.letters.full = False

    rig.health.not_ready = not_ready  # type: ignore[method-assign]
    rig.run_to_the_end()

    assert rig.letters.trouble in rig.health.states
    assert len(rig.letters.sent) == 1


class TroubledSource(ListSource):
    """Its brokers are away while `trouble` says so."""

    trouble: str | None = None

    def status(self) -> IntakeStatus:
        return replace(super().status(), trouble=self.trouble)


@pytest.mark.usefixtures("narrow")
def test_brokers_that_are_away_are_told_once_nothing_is_left_to_learn() -> None:
    """A worker that has nothing to do for an outage is not one that waits for events."""
    source = TroubledSource([arrival(0)])
    rig = Rig([arrival(0)], source=source)
    source.trouble = "the brokers do not answer"
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            source.trouble = None
        if looks == 6:
            rig.daemon.stop()

    source._on_empty = look
    rig.daemon.run()
    rig.publisher.close()

    assert rig.health.states[3:] == ["ready", *["the brokers do not answer"] * 2, "ready", "shutting down"]


class AwayLineage(MemoryLineage):
    """Its store is away when it is asked for the lease; `meanwhile` happens while it is waited for."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def acquire(self, should_stop: Callable[[], bool]) -> Restored | None:
        self.meanwhile()
        raise StoreUnavailable("the store is away")


def test_a_stop_before_anything_was_learnt_is_no_failure() -> None:
    """Who waits for a store to begin with has nothing to lose."""
    lineage = AwayLineage()
    rig = Rig([arrival(0)], lineage)
    lineage.meanwhile = rig.daemon.stop

    assert rig.daemon.run().events == 0
    assert not rig.daemon.at_stake
    with pytest.raises(StoreUnavailable):
        Rig([arrival(0)], AwayLineage()).daemon.run()


@pytest.mark.parametrize("until_end", [True, False])
def test_a_stop_gives_the_last_checkpoint_the_grace_time_and_no_more(until_end: bool) -> None:
    """Also where a backfill waits for its last checkpoint already, which nobody hurried until then."""
    lineage = StalledLineage()
    rig = Rig([arrival(offset) for offset in range(4)], lineage)
    at_stake: list[bool] = []

    def not_ready(reason: str) -> None:
        RecordingHealth.not_ready(rig.health, reason)
        if reason == "shutting down":
            at_stake.append(rig.daemon.at_stake)
            threading.Timer(0.5, rig.daemon.stop).start()

    rig.health.not_ready = not_ready  # type: ignore[method-assign]
    if not until_end:
        rig.source._on_empty = rig.daemon.stop
    rig.clock._tick_s = 1.0
    with pytest.raises(Fatal, match=r"within 10 s \(shutdown\.grace_s\)"):
        rig.daemon.run(until_end=until_end)

    assert at_stake == [True]
    assert not rig.daemon.at_stake, "nobody waits for the store any longer"
    lineage.back.set()
    rig.publisher.close()


def test_a_wait_at_the_store_s_ordinary_pace_is_no_trouble() -> None:
    """A probe that flaps with every checkpoint would be looked at by nobody."""
    health, clock = RecordingHealth(), ManualClock()
    trouble = Trouble(health, clock)
    for _ in range(3):
        trouble.note("away")
        clock.time += 4.9
        trouble.note("away")
        trouble.note(None)
    assert health.states == []

    trouble.note("away")
    clock.time += 5.0
    trouble.note("away")
    trouble.note("away for another reason")
    trouble.note(None)
    trouble.note(None)
    assert health.states == ["away", "away for another reason", "ready"]


# --- judging and pace ----------------------------------------------------------


def test_a_worker_that_is_behind_takes_larger_steps_until_it_has_caught_up() -> None:
    """And the pace goes with the checkpoint."""
    rig = Rig([arrival(n) for n in range(40)], every=8, catch_up_chunks=4, stream=settings(step_chunks=1))
    rig.daemon.run(until_end=True)

    fresh = [sum(draw.role is Role.FRESH for draw in batch) for batch in rig.learner.batches]
    # A checkpoint each 8 events: after the first, 32 wait; after the fourth, no more than came since the third.
    assert fresh == [1] * 8 + [4] * 6 + [1] * 8
    assert [draft.stream["step_chunks"] for draft, *_ in rig.lineage.commits][:4] == [4, 4, 4, 1]


def test_a_pace_goes_with_the_checkpoint() -> None:
    """Who is killed while it catches up steps on as before, whatever it hears of its lag in the next life."""
    events, stream = [arrival(n) for n in range(40)], settings(step_chunks=1)
    lineage = MemoryLineage()
    killed = Rig(events, lineage, every=8, catch_up_chunks=4, stream=stream)
    lineage.on_commit = killed.daemon.stop
    killed.daemon.run()
    lineage.on_commit = lambda: None
    assert lineage.commits[-1][0].stream["step_chunks"] == 4
    next_life = Rig(events, lineage, every=10**9, catch_up_chunks=4, stream=stream)

    next_life.daemon.run(until_end=True)

    assert {sum(draw.role is Role.FRESH for draw in batch) for batch in next_life.learner.batches[:-1]} == {4}


class Steady(NumberLearner):
    """Better than the base from the first step on, by as much as ever."""

    def step(self, batch: Sequence[Draw], plan: StepPlan) -> StepResult:
        result = super().step(batch, plan)
        self.weight = 0.5
        return result


def test_a_version_that_proves_itself_is_told_in_a_checkpoint_at_once() -> None:
    """No operator waits for the next due checkpoint to see who is champion."""
    rig = Rig(
        [arrival(n) for n in range(200)],
        gate=replace(GATE, min_blocks=2),
        learner=Steady(),
        stream=settings(step_chunks=1, base_sample=1.0),
        publish_every_s=0.5,
    )
    rig.daemon.run(until_end=True)

    told = [(draft.judgement, version) for draft, _, _, version in rig.lineage.commits]
    first = next(place for place, (judgement, _) in enumerate(told) if judgement.champion is not None)
    judgement, version = told[first]
    assert version is None, "a checkpoint for its sake, no version that happened to be due"
    assert (judgement.champion, [ruling.number for ruling in judgement.rulings]) == ("v000001", [1])
    assert judgement.rulings[0].chunk < 200 - 16
