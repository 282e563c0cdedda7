import numpy as np
import pytest

from streamlearn.core.judgement import Alarm
from streamlearn.core.reaction import Reaction
from tests.unit.core.judging import REACTION, through_json


def alarmed(cut: int = 1000) -> Reaction:
    reaction = Reaction(REACTION)
    reaction.alarm(Alarm(signal="live", chunk=cut + 50, cut=cut, rise=0.4))
    return reaction


def test_without_an_alarm_nothing_is_changed() -> None:
    reaction = Reaction(REACTION)

    assert not reaction.active
    assert (reaction.rate_factor, reaction.half_life_factor, reaction.may_promote) == (1.0, 1.0, True)
    assert reaction.weights(np.arange(5)).tolist() == [1.0] * 5
    assert not reaction.take_moment_restart()


def test_the_past_before_the_cut_is_replayed_less() -> None:
    """What the stream no longer says is rehearsed a tenth as often."""
    assert alarmed(cut=3).weights(np.arange(5)).tolist() == [0.1, 0.1, 0.1, 1.0, 1.0]


def test_the_rate_is_raised_for_a_hundred_steps() -> None:
    reaction = alarmed()
    rates = []
    for _ in range(102):
        rates.append(reaction.rate_factor)
        reaction.step_passed()

    assert rates == [3.0] * 100 + [1.0] * 2


def test_the_half_life_comes_back_by_doubling() -> None:
    reaction = alarmed()
    factors = []
    for _ in range(500):
        factors.append(reaction.half_life_factor)
        reaction.chunk_passed()

    assert factors == [0.25] * 200 + [0.5] * 200 + [1.0] * 100


def test_nobody_is_promoted_for_twenty_blocks() -> None:
    """Evidence from before the change is evidence about another stream."""
    reaction = alarmed()
    allowed = []
    for _ in range(22):
        allowed.append(reaction.may_promote)
        reaction.block_passed()

    assert allowed == [False] * 20 + [True] * 2


def test_the_first_moment_is_restarted_once() -> None:
    reaction = alarmed()

    assert [reaction.take_moment_restart() for _ in range(3)] == [True, False, False]


def test_a_second_alarm_begins_anew() -> None:
    """Factors do not multiply: three times three would be a blow, not a reaction."""
    reaction = alarmed(cut=10)
    for _ in range(60):
        reaction.step_passed()
        reaction.chunk_passed()
    reaction.alarm(Alarm(signal="base", chunk=300, cut=20, rise=0.2))

    assert (reaction.rate_factor, reaction.half_life_factor) == (3.0, 0.25)
    assert reaction.weights(np.array([5, 15, 25])).tolist() == [0.1, 0.1, 1.0]


@pytest.mark.parametrize("cut", [0, 1, 99, 250])
def test_a_restart_leaves_no_trace(cut: int) -> None:
    """Also not between an alarm and the step that acts on it."""
    whole, second = alarmed(), Reaction(REACTION)
    for _ in range(cut):
        whole.step_passed()
        whole.chunk_passed()
        whole.block_passed()
    second.restore(through_json(whole.document()))

    assert second.document() == whole.document()
    assert second.take_moment_restart() == whole.take_moment_restart()
    assert second.active == whole.active
