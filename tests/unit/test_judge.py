"""Versions change places as gate and watch say, and learner and stream follow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamlearn.core.batches import Draw, Role, StepPlan
from streamlearn.core.events import Chunk
from streamlearn.core.judgement import Alarm, Decision, Judgement, Ruling
from streamlearn.core.mix import Shares
from streamlearn.core.reaction import ReactionSettings
from streamlearn.core.stream import Batch, Fresh, StreamState
from streamlearn.core.vigilance import VigilanceSettings
from streamlearn.judge import Judge, JudgeSettings
from streamlearn.lessons import Lesson
from streamlearn.ports import Fatal, NotFound
from tests.fakes.daemon import MemoryLineage, NumberLearner
from tests.unit.core.judging import GATE, WATCH
from tests.unit.core.making import arrival, chunk, result_of, settings

QUICK = replace(GATE, min_blocks=3, max_blocks=6)
HASTY = replace(WATCH, min_blocks=3, max_blocks=6)
TOKENS = 8


class Voices(NumberLearner):
    """Each adapter is its loss in nats per token; on held-out text (number 777) it is what `held_out` says."""

    def __init__(self) -> None:
        super().__init__()
        self.held_out: dict[float, float] = {}
        self.base_loss = 2.0

    def nll(self, chunk: Chunk) -> float:
        loss = self.held_out.get(self.weight, 2.0) if chunk.ids[0] == 777 else self.weight
        # Neighbours differ, or no bound would ever be one.
        return chunk.scored_tokens * (loss + 0.01 * float(chunk.ids[0] % 7))

    def base_nll(self, chunks: Any) -> NDArray[np.float64]:
        return np.array([self._as(self.base_loss, each) for each in chunks])

    def _as(self, weight: float, chunk: Chunk) -> float:
        own, self.weight = self.weight, weight
        nll = self.nll(chunk)
        self.weight = own
        return nll


@dataclass
class Court:
    """A judge and what it works with; versions are published with the loss they will have."""

    learner: Voices = field(default_factory=Voices)
    lineage: MemoryLineage = field(default_factory=MemoryLineage)
    judge_settings: JudgeSettings = field(default_factory=lambda: JudgeSettings(gate=QUICK, watch=HASTY))
    held_out: tuple[Chunk, ...] = (chunk(777),)
    offset: int = 0

    def __post_init__(self) -> None:
        reaction = ReactionSettings(
            past_weight=0.1, half_life=0.25, doubling_chunks=10, rate=3.0, rate_steps=5, hold_blocks=5
        )
        vigilance = VigilanceSettings(junk=None, drift=None, reaction=reaction)
        shares = Shares(window=0.2, reservoir=0.2, anchor=0.0)
        self.stream = StreamState(
            replace(settings(), step_chunks=1, base_sample=1.0, shares=shares, vigilance=vigilance)
        )
        self.judge = self._judge()

    def _judge(self) -> Judge:
        return Judge(
            learner=self.learner,
            guests=self.learner,
            stream=self.stream,
            lineage=self.lineage,
            held_out=self.held_out,
            settings=self.judge_settings,
        )

    def publish(self, loss: float) -> str:
        """Make a version of the learner as it would be with `loss`, as the checkpointer does it."""
        self.learner.weight = loss
        files = self.learner.snapshot().files()
        self.judge.published(files["adapter.safetensors"])
        version = self.lineage.next_version
        self.lineage.commits.append((None, files, [], version))  # type: ignore[arg-type]
        self.judge.handed_over(published=True)
        return f"v{version:06d}"

    def learn(self, chunks: int, *, until: bool = True) -> Ruling | None:
        """Take steps of one chunk each; return the first ruling, or None after `chunks` steps."""
        for _ in range(chunks):
            self.stream.admit(arrival(self.offset))
            self.offset += 1
            batch = self.stream.next_batch(flush=False)
            assert batch is not None
            texts = [draw.chunk for draw in batch.draws]
            result = result_of([self.learner.nll(each) for each in texts])
            base = tuple(self.learner.base_nll([batch.fresh[place].chunk for place in batch.sampled]).tolist())
            plan = StepPlan(learning_rate=1.0)
            self.stream.record(batch, plan, result, base)
            lesson = Lesson(plan=plan, result=result, base_nll=base, alarms=())
            if (ruling := self.judge.observe(batch, lesson)) is not None and until:
                return ruling
        return None

    def reborn(self) -> None:
        """Kill the worker behind a checkpoint, and begin where it stood."""
        document = json.loads(json.dumps(self.judge.document(), allow_nan=False))
        judgement = Judgement.model_validate_json(self.judge.judgement.model_dump_json())
        self.learner.guests.clear()
        self.judge = self._judge()
        self.judge.restore(document, judgement, published=False)


def test_a_better_version_becomes_champion() -> None:
    """With its evidence, and the base is scored beside it from then on."""
    court = Court()
    court.publish(1.8)

    ruling = court.learn(200)

    assert ruling is not None
    assert (ruling.decision, ruling.champion, ruling.number) == (Decision.PROMOTE, "v000001", 1)
    assert ruling.chunk == 3 * 16
    assert ruling.evidence.against is None
    assert ruling.evidence.mean == pytest.approx(0.2)
    assert court.judge.judgement.champion == "v000001"
    assert court.judge.judgement.watched is not None
    assert court.judge.urgent, "nobody else knows yet"
    court.judge.handed_over(published=False)
    assert not court.judge.urgent


def test_versions_are_compared_one_at_a_time_and_the_next_one_follows() -> None:
    """A candidate that is no better is held after its time; the next version published is the next candidate."""
    court = Court()
    court.publish(2.0)
    court.publish(1.0)

    ruling = court.learn(200)

    assert ruling is not None
    assert (ruling.decision, ruling.evidence.subject) == (Decision.HOLD, "v000001")
    assert ruling.chunk == 6 * 16
    assert court.judge.judgement.candidate is None
    assert not court.judge.urgent, "no alias moves"
    third = court.publish(1.5)
    candidate = court.judge.judgement.candidate
    assert candidate is not None
    assert candidate.subject == third
    assert set(court.learner.guests) == {third}, "nobody else is kept in memory"


def test_a_version_that_has_forgotten_is_refused_at_once() -> None:
    """However good it is on the stream."""
    court = Court()
    heard: list[Ruling] = []
    court.judge._on_ruling = heard.append
    court.learner.held_out = {1.0: 2.031}
    court.learner.weight = 1.0
    court.judge.published(court.learner.snapshot().files()["adapter.safetensors"])

    told = court.judge.judgement.rulings
    (ruling,) = told
    assert ruling.decision is Decision.REFUSE
    assert heard == [ruling], "and somebody hears of it"
    assert ruling.evidence.held_out_rise == pytest.approx(0.031)
    assert court.judge.judgement.candidate is None
    assert court.learner.guests == {}


def test_the_base_is_asked_anew_in_every_life() -> None:
    """The held-out text, or the number format, may be others than before the restart."""
    court = Court()
    court.learner.held_out = {2.0: 2.0, 1.0: 2.031, 1.9: 1.9}
    court.publish(2.0)
    assert court.learn(200) is not None, "held after its time"

    court.reborn()
    court.learner.base_loss = 1.9
    court.learner.weight = 1.0
    court.judge.published(court.learner.snapshot().files()["adapter.safetensors"])

    (ruling,) = court.judge.judgement.rulings[-1:]
    assert ruling.evidence.held_out_rise == pytest.approx(0.131)


def test_a_champion_that_turns_out_worse_is_taken_back() -> None:
    """To the version before it: alias, learner and replay; what only the fallen one had seen is named."""
    court = Court()
    court.learn(10)
    first = court.publish(1.8)
    promoted = court.learn(200)
    assert promoted is not None
    court.learn(100)
    seen_by_first, seen_by_second = 10, court.offset
    second = court.publish(1.7)
    assert (made := court.learn(200)) is not None
    assert (made.decision, made.champion) == (Decision.PROMOTE, second)
    court.learner.weight = 1.6
    # The stream turns, and what was better is worse.
    court.learner.guests[second] = 1.9

    fallen = court.learn(200)

    assert fallen is not None
    assert (fallen.decision, fallen.champion) == (Decision.ROLL_BACK, first)
    assert fallen.distrusted == {"news": {0: (seen_by_first, seen_by_second)}}
    assert court.learner.weight == 1.8, "the learner is as it was when the first was published"
    assert court.judge.judgement.champion == first
    numbers = court.stream.arrays()["window.number"]
    assert not ((numbers >= seen_by_first) & (numbers < seen_by_second)).any()
    assert (numbers >= seen_by_second).any(), "what came later is not distrusted"
    assert court.learner.guests == {}


def test_the_first_champion_is_taken_back_to_the_base() -> None:
    """All it had learnt is forgotten, and everything it had seen is distrusted."""
    court = Court()
    court.learn(7)
    court.publish(1.8)
    assert court.learn(200) is not None
    court.learner.guests["v000001"] = 2.5

    fallen = court.learn(200)

    assert fallen is not None
    assert (fallen.decision, fallen.champion) == (Decision.ROLL_BACK, None)
    assert fallen.distrusted == {"news": {0: (0, 7)}}
    assert court.learner.weight == 0.0


def test_a_candidate_that_waits_is_withdrawn_when_the_champion_falls() -> None:
    """It has learnt from the same events."""
    court = Court()
    court.publish(1.8)
    assert court.learn(200) is not None
    court.publish(1.79)
    court.learner.guests["v000001"] = 2.5

    fallen = court.learn(200)

    assert fallen is not None
    assert fallen.decision is Decision.ROLL_BACK
    assert court.judge.judgement.candidate is None


def test_a_champion_that_proves_itself_is_watched_no_longer() -> None:
    """And costs nothing more, until somebody would take its place."""
    court = Court()
    first = court.publish(1.8)
    assert court.learn(200) is not None

    kept = court.learn(200)

    assert kept is not None
    assert kept.decision is Decision.KEEP
    assert court.learner.guests == {}
    second = court.publish(1.5)
    assert set(court.learner.guests) == {first, second}


def test_nobody_is_promoted_soon_after_a_drift_alarm() -> None:
    """Evidence from before the change says nothing about now; blocks count whether or not there is a candidate."""
    court = Court()
    reaction = court.stream.vigilance.reaction
    assert reaction is not None
    reaction.alarm(Alarm(signal="live", chunk=1, cut=0, rise=1.0))
    assert court.learn(2 * 16) is None
    court.publish(1.0)

    ruling = court.learn(200)

    assert ruling is not None
    assert ruling.decision is Decision.PROMOTE
    assert ruling.chunk == (2 + 3) * 16


def test_evidence_from_before_a_drift_alarm_counts_no_more() -> None:
    """A candidate that was better in the old stream has to show it in the new one."""
    court = Court()
    court.publish(1.8)
    assert court.learn(2 * 16) is None
    before = court.judge.judgement.candidate
    assert before is not None
    assert before.blocks == 2
    fresh = Fresh(chunk=chunk(1), event_id="e", index=0, ts=1.0, source="s")
    batch = Batch(fresh=(fresh,), draws=(Draw(chunk=fresh.chunk, role=Role.FRESH),), sampled=(), flushed=False)
    alarm = Alarm(signal="live", chunk=1, cut=0, rise=1.0)

    court.judge.observe(
        batch, Lesson(plan=StepPlan(learning_rate=1.0), result=result_of([1.0]), base_nll=(), alarms=(alarm,))
    )

    after = court.judge.judgement.candidate
    assert after is not None
    assert (after.subject, after.blocks, after.held_out_rise) == (before.subject, 0, before.held_out_rise)


def test_junk_bears_no_witness() -> None:
    """What is not learnt from decides nothing either."""
    court = Court()
    court.publish(1.8)
    fresh = Fresh(chunk=chunk(1), event_id="e", index=0, ts=1.0, source="s")
    batch = Batch(fresh=(fresh,), draws=(Draw(chunk=fresh.chunk, role=Role.FRESH),), sampled=(0,), flushed=False)
    junk = Lesson(
        plan=StepPlan(learning_rate=1.0), result=result_of([99.0], passed_over=(0,)), base_nll=(9.0,), alarms=()
    )

    court.judge.observe(batch, junk)

    candidate = court.judge.judgement.candidate
    assert candidate is not None
    assert candidate.chunks == 0


def test_a_judge_that_died_goes_on_as_if_nothing_had_happened() -> None:
    """At every step of a life with promotion, watch and rollback, and with guests read back from the store."""
    lives = []
    for dies_every in (10**9, 5):
        court = Court()
        court.learn(10)
        court.publish(1.8)
        rulings = []
        for step in range(400):
            if step == 150:
                court.publish(1.75)
            # The stream turns against the second version, for whoever seats it anew as well.
            if (ruling := court.learn(1)) is not None:
                rulings.append(ruling)
            if step % dies_every == dies_every - 1:
                court.judge.handed_over(published=False)
                court.reborn()
        lives.append(rulings)

    assert [each.decision for each in lives[0]] == [Decision.PROMOTE, Decision.KEEP, Decision.PROMOTE, Decision.KEEP]
    assert lives[1] == lives[0]


def test_a_version_that_the_store_has_lost_stops_the_judge_with_a_way_out() -> None:
    """It could not tell a good version from a bad one any more, and says so."""
    court = Court()
    court.publish(1.8)
    court.lineage.commits.clear()

    with pytest.raises(Fatal, match=r"version v000001 .* cannot be read: .*gate.enabled = false") as told:
        court.reborn()

    assert isinstance(told.value.__cause__, NotFound)


def test_a_judge_without_a_gate_compares_nobody() -> None:
    """`gate.enabled = false`: no forward is spent."""
    court = Court(judge_settings=JudgeSettings(gate=None, watch=HASTY))
    court.publish(1.0)

    assert court.learn(100) is None
    assert court.learner.guests == {}
    assert court.judge.judgement == Judgement()
    court.reborn()
