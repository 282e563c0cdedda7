"""What the reporter says of a run, when, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from streamlearn.core.batches import Draw, Role, StepPlan, StepResult
from streamlearn.core.events import Arrival, Outcome
from streamlearn.core.judgement import Alarm
from streamlearn.core.junk import Accepted, Junk
from streamlearn.core.manifest import Scores
from streamlearn.core.reaction import Reaction
from streamlearn.core.stream import Batch, StreamState
from streamlearn.ports import Committed, IntakeStatus
from streamlearn.reporter import Progressed, Reporter
from streamlearn.telemetry.prometheus import PrometheusTelemetry
from tests.fakes.daemon import ManualClock, NumberLearner
from tests.unit.core.judging import REACTION
from tests.unit.core.making import arrival, chunk, result_of, settings

NOW = 1_800_000_000.0
BEHIND = {("news", 0): 3, ("news", 1): 4}
CAUGHT_UP = {("news", 0): 0, ("news", 1): 0}


class CountingStream(StreamState):
    """Knows how often its scores were computed."""

    computed = 0

    @property
    def scores(self) -> Scores:
        self.computed += 1
        return super().scores


def status(lag: Mapping[tuple[str, int], int], *, assigned: bool = True, buffered: int = 0) -> IntakeStatus:
    return IntakeStatus(
        assigned=assigned,
        buffered_records=buffered,
        buffered_bytes=0,
        paused=False,
        lag_records=lag,
        last_poll_age_s=0.0,
    )


class Rig:
    """A reporter, a stream to report of, and a scrape."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.clock.time = NOW
        self.telemetry = PrometheusTelemetry()
        self.reporter = Reporter(self.telemetry, self.clock, group="streamlearn-news")
        self.learner = NumberLearner()
        self.stream = CountingStream(settings(base_sample=1.0))
        self._offset = 0

    def began(self, newest_version: int = 0, newest_created_s: float | None = None) -> None:
        self.reporter.began(
            epoch=2,
            newest_version=newest_version,
            base=self.learner.base,
            lora=self.learner.lora,
            newest_created_s=newest_created_s,
        )

    def step(self, lag: Mapping[tuple[str, int], int] = BEHIND) -> tuple[Batch, StepResult]:
        """Admit two events and learn them."""
        while self.stream.wants_events:
            event = arrival(self._offset)
            self._offset += 1
            self.reporter.admitted(event, self.stream.admit(event))
        batch = self.stream.next_batch(flush=False)
        assert batch is not None
        plan = StepPlan(learning_rate=0.1, accepted=self.stream.accepted)
        result = self.learner.step(batch.draws, plan)
        base = [float(nll) for nll in self.learner.base_nll([batch.fresh[place].chunk for place in batch.sampled])]
        alarms = self.stream.record(batch, plan, result, base)
        self.reporter.learnt(batch, plan, result, base, alarms, self.stream, status(lag))
        return batch, result

    def read(self, name: str, **labels: str) -> float | None:
        return self.telemetry.registry.get_sample_value(name, labels)

    def lag(self) -> float | None:
        return self.read("streamlearn_event_time_lag_seconds")

    def pass_event(self, ts: float, outcome: Outcome = Outcome.ADMITTED) -> None:
        self.reporter.admitted(_at(ts), outcome)


def _at(ts: float) -> Arrival:
    return arrival(0, ts=ts)


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- a step ---------------------------------------------------------------------


def test_counters_are_exact_after_every_step(rig: Rig) -> None:
    """A rate over them is the truth at any moment."""
    draws = [draw for _ in range(5) for draw in rig.step()[0].draws]

    assert rig.read("streamlearn_steps_total") == 5
    assert rig.read("streamlearn_events_total", outcome="admitted") == 10
    assert rig.read("streamlearn_tokens_learnt_total") == rig.stream.totals.tokens == 80
    for role in Role:
        expected = sum(draw.chunk.scored_tokens for draw in draws if draw.role is role)
        assert rig.read("streamlearn_tokens_trained_total", role=role.value) == expected
    assert rig.read("streamlearn_tokens_trained_total", role="window") != 0
    assert rig.read("streamlearn_step_seconds_count") == 5
    assert rig.read("streamlearn_learning_rate") == 0.1


def test_a_dropped_step_is_counted(rig: Rig) -> None:
    rig.learner.finite = False
    rig.step()

    assert rig.read("streamlearn_steps_dropped_total") == 1


def test_what_is_passed_over_is_counted_by_its_reason(rig: Rig) -> None:
    """One nat a token is known by heart here, and three are far out."""
    accepted = Accepted(low=1.5, high=2.5)
    batch, _ = rig.step()
    result = result_of([8.0, 24.0, *(16.0 for _ in batch.draws[2:])], passed_over=(0, 1))
    plan = StepPlan(learning_rate=0.1, accepted=accepted)

    rig.reporter.learnt(batch, plan, result, [], (), rig.stream, status(BEHIND))

    for reason in Junk:
        assert rig.read("streamlearn_chunks_passed_over_total", reason=reason.value) == 1


def test_clipping_drift_and_distance_from_the_base_are_shown(rig: Rig) -> None:
    batch, _ = rig.step()
    anchored = replace(batch, draws=(*batch.draws, Draw(chunk=chunk(9, tokens=4), role=Role.ANCHOR)))
    nll = [16.0 for _ in batch.draws]
    alarms = [Alarm(signal="live", chunk=7, cut=3, rise=0.5)]
    plan = StepPlan(learning_rate=0.3)
    assert rig.read("streamlearn_drift_alarms_total", signal="live") == 0
    assert rig.read("streamlearn_anchor_kl_nats_per_token") is None

    rig.reporter.learnt(anchored, plan, result_of([*nll, 2.0], scaled=0.5), [], alarms, rig.stream, status(BEHIND))
    rig.reporter.learnt(batch, plan, result_of(nll), [], (), rig.stream, status(BEHIND))

    assert rig.read("streamlearn_steps_clipped_total") == 1
    assert rig.read("streamlearn_drift_alarms_total", signal="live") == 1
    assert rig.read("streamlearn_drift_alarms_total", signal="base") == 0
    assert rig.read("streamlearn_anchor_kl_nats_per_token") == 0.5
    assert rig.read("streamlearn_learning_rate") == 0.3


def test_the_rate_factor_is_that_of_the_reaction(rig: Rig) -> None:
    rig.step()
    assert rig.read("streamlearn_learning_rate_factor") == 1.0
    rig.stream.vigilance.reaction = Reaction(REACTION)
    rig.stream.vigilance.reaction.alarm(Alarm(signal="base", chunk=7, cut=3, rise=0.5))

    rig.clock.time += 1.0
    rig.step()

    assert rig.read("streamlearn_learning_rate_factor") == 3.0


def test_scores_are_computed_once_a_second_however_fast_the_steps(rig: Rig) -> None:
    """On a GPU there are dozens of steps a second, and a mean for every model and source."""
    for _ in range(40):
        rig.step()
        rig.clock.time += 0.1

    assert rig.stream.computed in (4, 5)


def test_scores_are_computed_at_most_once_a_step_when_somebody_watches(rig: Rig) -> None:
    seen: list[Progressed] = []
    rig.reporter.on_step = seen.append

    for _ in range(5):
        rig.step()
        rig.clock.time += 2.0

    assert rig.stream.computed == 5
    assert seen[-1].scores == StreamState.scores.fget(rig.stream)  # type: ignore[attr-defined]


def test_scores_are_shown_by_model_and_source(rig: Rig) -> None:
    rig.step()
    scores = rig.stream.scores
    assert scores.live is not None
    assert scores.base is not None

    for model, score in (("live", scores.live), ("base", scores.base)):
        assert rig.read("streamlearn_nats_per_token", model=model, source="all") == score.nats_per_token
        assert rig.read("streamlearn_bits_per_byte", model=model, source="all") == score.bits_per_byte
        for source in ("even", "odd"):
            own = score.by_source[source]
            assert rig.read("streamlearn_nats_per_token", model=model, source=source) == own.nats_per_token
            assert (
                rig.read("streamlearn_nats_per_token_fading", model=model, source=source, alpha="0.99")
                == own.fading["0.99"]
            )
            for alpha in ("0.99", "0.999"):
                assert (
                    rig.read("streamlearn_bits_per_byte_fading", model=model, source=source, alpha=alpha)
                    == own.fading_bits_per_byte[alpha]
                )
    assert rig.read("streamlearn_gain_nats_per_token") == scores.base.nats_per_token - scores.live.nats_per_token


def test_a_source_named_all_does_not_hide_the_whole(rig: Rig) -> None:
    """A topic may have any name."""
    rig.stream._prequential.add("all", tokens=1, text_bytes=1, live=99.0, base=99.0)
    rig.step()
    scores = rig.stream.scores
    assert scores.live is not None

    assert scores.live.by_source["all"].nats_per_token == 99.0
    assert rig.read("streamlearn_nats_per_token", model="live", source="all") == scores.live.nats_per_token


def test_gauges_follow_within_a_second_when_the_stream_goes_quiet(rig: Rig) -> None:
    """The last steps before a pause are not hidden until the next event."""
    rig.step()
    rig.step()
    assert rig.read("streamlearn_window_chunks") == 2

    rig.clock.time += 1.0
    rig.reporter.idle(status(CAUGHT_UP))

    assert rig.read("streamlearn_window_chunks") == 4
    computed = rig.stream.computed
    rig.clock.time += 1.0
    rig.reporter.idle(status(CAUGHT_UP))
    assert rig.stream.computed == computed


def test_the_end_shows_the_last_step(rig: Rig) -> None:
    """What the last scrape reads is what the report says."""
    rig.began()
    rig.step()
    rig.step()
    rig.clock.time += 0.5

    report = rig.reporter.finished(rig.stream)

    assert report.scores.live is not None
    assert report.seconds == 0.5
    assert report.tokens_trained == rig.stream.totals.tokens_trained
    assert rig.read("streamlearn_window_chunks") == 4
    assert rig.read("streamlearn_nats_per_token", model="live", source="all") == report.scores.live.nats_per_token


# --- lag ------------------------------------------------------------------------


def test_lag_is_shown_by_partition(rig: Rig) -> None:
    rig.reporter.idle(status(BEHIND))

    labels = {"consumergroup": "streamlearn-news", "topic": "news"}
    assert rig.read("kafka_consumergroup_lag", partition="0", **labels) == 3
    assert rig.read("kafka_consumergroup_lag", partition="1", **labels) == 4


def test_event_time_lag_is_the_age_of_the_last_event(rig: Rig) -> None:
    """And it grows while brokers or learner stand still."""
    rig.pass_event(NOW - 3600.0)
    rig.reporter.idle(status(BEHIND))
    assert rig.lag() == 3600.0

    rig.clock.time += 60.0
    rig.reporter.idle(status(BEHIND))
    assert rig.lag() == 3660.0


def test_a_replay_of_the_past_ends_without_lag(rig: Rig) -> None:
    """Twenty years of release notes, all learnt, are not twenty years behind."""
    twenty_years = 20 * 365 * 86_400.0
    rig.pass_event(NOW - twenty_years)
    rig.reporter.idle(status(BEHIND))
    assert rig.lag() == twenty_years

    rig.reporter.idle(status(CAUGHT_UP, buffered=1))
    assert rig.lag() == twenty_years

    rig.reporter.idle(status(CAUGHT_UP))
    assert rig.lag() == 0.0


@pytest.mark.parametrize("unknown", [status({}), status({}, assigned=False), status(CAUGHT_UP, assigned=False)])
def test_no_lag_is_claimed_before_the_ends_are_known(rig: Rig, unknown: IntakeStatus) -> None:
    """Nothing to count is not the same as nothing left."""
    rig.reporter.idle(unknown)

    assert rig.lag() is None


def test_a_producer_ahead_of_us_is_no_negative_lag(rig: Rig) -> None:
    rig.pass_event(NOW + 5.0)
    rig.reporter.idle(status(BEHIND))

    assert rig.lag() == 0.0


def test_one_event_from_the_future_does_not_hide_a_lag(rig: Rig) -> None:
    """The next event tells the truth again."""
    rig.pass_event(NOW + 1e9)
    rig.pass_event(NOW - 60.0)
    rig.reporter.idle(status(BEHIND))

    assert rig.lag() == 60.0


def test_what_has_no_event_time_is_left_out(rig: Rig) -> None:
    """A record without a time stamp is not from 1970, and a dead letter's may be anything."""
    rig.pass_event(NOW - 60.0)
    rig.pass_event(0.0)
    rig.pass_event(NOW - 1e9, Outcome.DEAD_LETTER)
    rig.reporter.idle(status(BEHIND))

    assert rig.lag() == 60.0


def test_a_flood_of_repeats_does_not_freeze_the_lag(rig: Rig) -> None:
    """Hours of duplicates bring neither a step nor a pause; the source is still asked but once a second."""
    asked = 0

    def ask() -> IntakeStatus:
        nonlocal asked
        asked += 1
        return status(BEHIND)

    for second in range(10):
        for _ in range(100):
            rig.clock.time += 0.01
            rig.reporter.admitted(_at(NOW - 3600.0 + second), Outcome.DUPLICATE, ask)

    assert asked in (9, 10)
    assert rig.lag() == pytest.approx(3600.0, abs=2.0)


def test_offsets_that_retention_took_are_counted(rig: Rig) -> None:
    event = Arrival(
        id="x", topic="news", partition=0, offset=9, ts=NOW, source="news", outcome=Outcome.FILTERED, skipped=7
    )
    rig.reporter.admitted(event, Outcome.FILTERED)

    assert rig.read("streamlearn_offsets_lost_total") == 7
    assert rig.read("streamlearn_events_total", outcome="filtered") == 1


# --- versions -------------------------------------------------------------------


def committed(version: int | None) -> Committed:
    return Committed(checkpoint="0000000001-000000000000", seq=1, version=version, bytes_written=1)


def test_a_published_version_becomes_the_newest(rig: Rig) -> None:
    """The next step's observer sees it."""
    seen: list[Progressed] = []
    rig.reporter.on_step = seen.append
    rig.began(newest_version=4)
    rig.step()
    rig.reporter.committed(committed(version=5))
    rig.reporter.committed(committed(version=None))
    rig.step()

    assert [progressed.newest_version for progressed in seen] == [4, 5]
    assert rig.reporter.finished(rig.stream).newest_version == 5


def test_a_restart_knows_the_age_of_the_newest_version(rig: Rig) -> None:
    """An alert on a stale version survives the restart."""
    rig.began(newest_version=4, newest_created_s=NOW - 60.0)

    assert rig.read("streamlearn_version") == 4
    assert rig.read("streamlearn_version_created_timestamp_seconds") == NOW - 60.0
    assert rig.read("streamlearn_epoch") == 2


def test_a_lineage_without_a_version_has_no_age(rig: Rig) -> None:
    rig.began()

    assert rig.read("streamlearn_version") == 0
    assert rig.read("streamlearn_version_created_timestamp_seconds") is None


# --- what an observer gets --------------------------------------------------------


def test_an_observer_learns_what_the_step_found(rig: Rig) -> None:
    seen: list[Progressed] = []
    rig.reporter.on_step = seen.append
    rig.began()
    rig.clock.time += 2.0

    _, result = rig.step()

    (at,) = seen
    assert at.lag_records == 7
    assert at.tokens_per_s == 16 / 2.0
    assert at.step_tokens_per_s == pytest.approx(16 / 0.01)
    assert [live for live, _, _ in at.nats] == list(result.nll[:2])
    assert all(base == 16.0 and tokens == 8 for _, base, tokens in at.nats)
    assert all(math.isfinite(live) for live, _, _ in at.nats)
