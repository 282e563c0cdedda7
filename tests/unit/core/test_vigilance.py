"""Junk, drift and the reaction together, in the order of the stream."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamlearn.core.batches import Role, StepPlan
from streamlearn.core.judgement import Alarm
from streamlearn.core.junk import EVERYTHING, Junk
from streamlearn.core.proof import ProofSettings
from streamlearn.core.stream import StreamState
from streamlearn.core.vigilance import Vigilance, VigilanceSettings
from tests.unit.core.judging import DRIFT, JUNK, REACTION, through_json
from tests.unit.core.making import arrival, bounds, result_of, settings

TOKENS = 100
ALL = VigilanceSettings(junk=JUNK, drift=DRIFT, reaction=REACTION)
OFF = VigilanceSettings(junk=None, drift=None, reaction=None)


def losses(count: int, mean: float = 3.5, seed: int = 0) -> list[float]:
    return [float(loss) for loss in np.random.default_rng(seed).normal(mean, 0.5, size=count)]


def watched(vigilance: Vigilance, series: list[float], first: int = 0) -> list[Alarm]:
    """Feed nats per token; every second chunk is scored by the base too."""
    found = []
    for number, loss in enumerate(series, start=first):
        base = (loss + 0.2) * TOKENS if number % 2 else None
        if (alarm := vigilance.observe(number, loss * TOKENS, base, TOKENS, vigilance.accepted)) is not None:
            found.append(alarm)
    return found


def test_a_change_of_the_stream_alarms_and_sets_the_reaction_going() -> None:
    vigilance = Vigilance(ALL)
    assert vigilance.reaction is not None

    assert watched(vigilance, losses(400)) == []
    assert not vigilance.reaction.active
    (alarm,) = watched(vigilance, losses(150, mean=4.5, seed=1), first=400)

    assert 400 <= alarm.chunk < 500
    assert alarm.cut == pytest.approx(400, abs=10)
    assert vigilance.alarms == [alarm]
    assert vigilance.reaction.rate_factor == REACTION.rate
    assert vigilance.reaction.take_moment_restart()


def test_an_alarm_may_be_told_and_change_nothing() -> None:
    vigilance = Vigilance(VigilanceSettings(junk=None, drift=DRIFT, reaction=None))

    assert len(watched(vigilance, [*losses(400), *losses(150, mean=4.5, seed=1)])) == 1
    assert vigilance.reaction is None


def test_alarms_count_the_lineages_chunks_although_the_watch_began_late() -> None:
    """Or the past would be taken for the present, and replayed as before: the window counts from the beginning."""
    vigilance = Vigilance(ALL)

    (alarm,) = watched(vigilance, [*losses(400), *losses(150, mean=4.5, seed=1)], first=5_000)

    assert alarm.cut == pytest.approx(5_400, abs=10)
    assert vigilance.reaction is not None
    assert vigilance.reaction.weights(np.array([5_300, 5_450])).tolist() == [REACTION.past_weight, 1.0]


def test_alarms_count_chunks_without_a_finite_loss() -> None:
    """Which the watch itself never sees."""
    stream = [*losses(400), *losses(150, mean=4.5, seed=1)]
    for place in range(0, 390, 3):
        stream[place] = math.nan

    (alarm,) = watched(Vigilance(ALL), stream)

    assert alarm.cut == pytest.approx(400, abs=15)


def test_junk_is_counted_and_still_watched_for_drift() -> None:
    """A stream that turns into junk has changed."""
    vigilance = Vigilance(ALL)
    watched(vigilance, losses(400))
    assert vigilance.accepted.junk(9.0 * TOKENS, TOKENS) is Junk.FAR

    found = watched(vigilance, losses(100, mean=9.0, seed=2), first=400)

    assert vigilance.junk[Junk.FAR] > 0
    assert len(found) == 1


def test_what_is_not_watched_judges_nothing() -> None:
    vigilance = Vigilance(OFF)

    assert vigilance.accepted is EVERYTHING
    assert watched(vigilance, [*losses(400), *losses(150, mean=9.0)]) == []
    assert vigilance.junk == {}
    assert vigilance.document() == {"alarms": []}


def test_another_live_model_is_measured_by_its_own_losses() -> None:
    """Who was taken back is worse than who it replaced: neither all junk nor a change of the stream."""
    kept, back = Vigilance(ALL), Vigilance(ALL)
    for each in (kept, back):
        watched(each, losses(400))
    assert kept.accepted.junk(9.0 * TOKENS, TOKENS) is Junk.FAR

    back.set_back()

    assert back.accepted.junk(9.0 * TOKENS, TOKENS) is None, "nothing is far before there is a usual"
    worse = losses(150, mean=4.5, seed=1)
    for number, loss in enumerate(worse, start=400):
        kept.observe(number, loss * TOKENS, None, TOKENS, EVERYTHING)
        back.observe(number, loss * TOKENS, None, TOKENS, EVERYTHING)
    assert [alarm.signal for alarm in kept.alarms] == ["live"]
    assert back.alarms == []


def test_what_a_fallen_model_gained_proves_nothing_for_the_next() -> None:
    proof = ProofSettings(full_gain=0.05, least=0.1, fading=0.9)
    vigilance = Vigilance(VigilanceSettings(junk=None, drift=None, reaction=None, proof=proof))
    watched(vigilance, losses(40))
    assert vigilance.rate_factor == 1.0

    vigilance.set_back()

    assert vigilance.rate_factor == 0.1


@pytest.mark.parametrize("cut", [0, 90, 405, 480, 549])
def test_a_restart_leaves_no_trace(cut: int) -> None:
    stream = [*losses(400), *losses(150, mean=4.5, seed=1)]
    whole, first, second = Vigilance(ALL), Vigilance(ALL), Vigilance(ALL)
    expected = watched(whole, stream)
    before = watched(first, stream[:cut])
    second.restore(through_json(first.document()))

    assert before + watched(second, stream[cut:], first=cut) == expected
    assert second.document() == whole.document()


def test_what_was_not_watched_before_begins_now_and_what_is_not_any_more_ends() -> None:
    """A configuration may change between two starts."""
    off, full = Vigilance(OFF), Vigilance(ALL)
    watched(full, losses(300))
    fresh = Vigilance(ALL)
    fresh.restore(through_json(off.document()))
    off.restore(through_json(full.document()))

    assert fresh.document() == Vigilance(ALL).document()
    assert off.document() == {"alarms": []}


# --- in the state of a stream -----------------------------------------------------------------


def test_what_was_passed_over_is_never_replayed() -> None:
    """Noise that is not learnt when it is fresh must not come back through the window."""
    state = StreamState(settings(step_chunks=1, window=bounds(), vigilance=ALL))
    replayed: set[int] = set()
    for offset in range(60):
        state.admit(arrival(offset))
        batch = state.next_batch(flush=False)
        assert batch is not None
        replayed |= {int(draw.chunk.ids[0]) for draw in batch.draws if draw.role is not Role.FRESH}
        junk = (0,) if offset % 3 == 0 else ()
        plan = StepPlan(learning_rate=0.1, accepted=state.accepted)
        state.record(batch, plan, result_of([20.0] * len(batch.draws), passed_over=junk), [1.0] * len(batch.sampled))

    assert replayed
    assert not any(number % 3 == 0 for number in replayed)
    assert state.totals.chunks_passed_over == 20
    assert state.totals.chunks_learnt == 60
    assert len(state.window) == 40


def test_chunks_from_before_a_change_are_replayed_less() -> None:
    """As often as their weight says, whatever was passed over between."""
    state = StreamState(settings(window=bounds(half_life_s=1e9), vigilance=ALL))
    random = np.random.default_rng(0)
    for number in range(100):
        state.window.add(arrival(number).chunks[0], float(number), number)
    assert state.vigilance.reaction is not None
    state.vigilance.reaction.alarm(Alarm(signal="live", chunk=60, cut=50, rise=1.0))

    drawn = [state.window.draw(random, state.vigilance.reaction) for _ in range(4_000)]

    old = sum(int(chunk.ids[0]) < 50 for chunk in drawn if chunk is not None) / 4_000
    assert old == pytest.approx(0.1 / 1.1, abs=0.02)
