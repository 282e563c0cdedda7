"""One step: how it is planned, and what is remembered of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from streamlearn.core.clipping import ClipSettings
from streamlearn.core.judgement import Alarm
from streamlearn.core.junk import Junk
from streamlearn.core.stream import StreamState
from streamlearn.core.vigilance import VigilanceSettings
from streamlearn.lessons import Lesson, Lessons, LessonSettings
from streamlearn.ports import Fatal
from tests.fakes.daemon import NumberLearner
from tests.unit.core.judging import CLIP, JUNK, REACTION
from tests.unit.core.making import arrival, settings

USUAL = LessonSettings(learning_rate=0.1, warmup_steps=4, fade_half_life_s=None, clip=CLIP)
REACTS = VigilanceSettings(junk=None, drift=None, reaction=replace(REACTION, rate_steps=2))


class Rig:
    """Lessons on a learner of one number, one chunk a step."""

    def __init__(self, knobs: LessonSettings = USUAL, vigilance: VigilanceSettings | None = None) -> None:
        changes = {} if vigilance is None else {"vigilance": vigilance}
        self.stream = StreamState(settings(step_chunks=1, base_sample=1.0, **changes))
        self.learner = NumberLearner()
        self.lessons = Lessons(self.learner, self.stream, knobs)
        self._offset = 0

    def take(self, ts: float | None = None) -> Lesson:
        self.stream.admit(arrival(self._offset, ts=ts))
        self._offset += 1
        batch = self.stream.next_batch(flush=False)
        assert batch is not None
        return self.lessons.take(batch)


def test_the_rate_warms_up_and_stays() -> None:
    rig = Rig()

    rates = [rig.take().plan.learning_rate for _ in range(7)]

    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1])


def test_a_lesson_tells_what_was_found_and_the_stream_remembers_it() -> None:
    rig = Rig()

    lesson = rig.take()

    assert lesson.base_nll == (16.0,)
    assert lesson.result.nll == (8.0,)
    assert rig.stream.totals.steps == 1
    assert rig.stream.scores.live is not None
    assert rig.stream.scores.live.nats_per_token == 1.0


def test_without_a_half_life_the_adapter_does_not_fade() -> None:
    rig = Rig()

    assert [rig.take(ts=ts).plan.keep for ts in (0.0, 1e9)] == [1.0, 1.0]


def test_the_adapter_fades_by_the_event_time_that_passes() -> None:
    """Half of it in a half-life, nothing for what comes late, and never twice for the same time."""
    rig = Rig(replace(USUAL, fade_half_life_s=10.0))

    kept = [rig.take(ts=ts).plan.keep for ts in (100.0, 110.0, 105.0, 110.0, 130.0)]

    assert kept == pytest.approx([1.0, 0.5, 1.0, 1.0, 0.25])


def test_time_is_not_counted_twice_where_a_chunk_is_passed_over() -> None:
    """The window does not see it, but the adapter has faded with it."""
    junk = replace(JUNK, near_zero=1.5, min_tokens=1)
    rig = Rig(replace(USUAL, fade_half_life_s=10.0), VigilanceSettings(junk=junk, drift=None, reaction=None))

    kept = []
    for ts in (100.0, 110.0, 120.0, 130.0):
        lesson = rig.take(ts=ts)
        assert lesson.result.passed_over == (0,), "one nat a token is known by heart here"
        kept.append(lesson.plan.keep)

    assert kept == pytest.approx([1.0, 0.5, 0.5, 0.5])
    assert rig.stream.vigilance.junk[Junk.NEAR_ZERO] == 4


def test_drift_raises_the_rate_for_some_steps_and_turns_once() -> None:
    rig = Rig(replace(USUAL, warmup_steps=0), REACTS)
    rig.take()
    assert rig.stream.vigilance.reaction is not None
    rig.stream.vigilance.reaction.alarm(Alarm(signal="live", chunk=1, cut=0, rise=1.0))

    plans = [rig.take().plan for _ in range(4)]

    assert [plan.learning_rate for plan in plans] == pytest.approx([0.3, 0.3, 0.1, 0.1])
    assert [plan.turn for plan in plans] == [True, False, False, False]


def test_a_turn_is_not_lost_with_a_step_that_was_dropped() -> None:
    """Drift and losses that are not finite come together more often than by chance."""
    rig = Rig(replace(USUAL, warmup_steps=0), REACTS)
    assert rig.stream.vigilance.reaction is not None
    rig.stream.vigilance.reaction.alarm(Alarm(signal="live", chunk=1, cut=0, rise=1.0))

    turns = []
    for finite in (False, True, True):
        rig.learner.finite = finite
        turns.append(rig.take().plan.turn)

    assert turns == [True, True, False]


def test_gradients_are_clipped_by_those_before_them() -> None:
    rig = Rig(replace(USUAL, clip=ClipSettings(max_norm=0.5, z=2.5, fading=0.97, warmup_steps=25, recent=16)))

    results = [rig.take().result for _ in range(5)]

    assert all(result.scaled * result.gradient_norm <= 0.5 + 1e-9 for result in results)
    assert any(result.scaled < 1.0 for result in results)


def test_three_steps_in_a_row_that_are_not_finite_end_it() -> None:
    """The stream is not burnt on a model that is no more; a single one is dropped."""
    rig = Rig()
    rig.learner.finite = False
    rig.take()
    rig.take()
    rig.learner.finite = True
    assert rig.take().result.applied
    rig.learner.finite = False
    rig.take()
    rig.take()

    with pytest.raises(Fatal, match=r"3 steps in a row .* lower learner\.learning_rate"):
        rig.take()


def test_a_restart_does_not_begin_to_count_anew() -> None:
    """A model that is no more must not live for ever on restarts, nor norms and time be forgotten."""
    rig = Rig(replace(USUAL, fade_half_life_s=10.0))
    for ts in (100.0, 110.0):
        rig.take(ts=ts)
    rig.learner.finite = False
    rig.take(ts=111.0)
    rig.take(ts=112.0)
    again = Rig(replace(USUAL, fade_half_life_s=10.0))
    again.lessons.restore(json.loads(json.dumps(rig.lessons.document(), allow_nan=False)))

    assert again.lessons.document() == rig.lessons.document()
    assert again.take(ts=120.0).plan.keep == pytest.approx(0.5)
    rig.learner.finite = False
    third = Rig()
    third.lessons.restore(rig.lessons.document())
    third.learner.finite = False
    with pytest.raises(Fatal, match="3 steps in a row"):
        third.take()
