import math

import numpy as np
import pytest

from streamlearn.core.junk import Junk, JunkFilter
from tests.unit.core.judging import JUNK, through_json

TOKENS = 100


def losses(count: int, *, mean: float = 3.5, sd: float = 0.5, seed: int = 0) -> list[float]:
    return [float(loss) for loss in np.random.default_rng(seed).normal(mean, sd, size=count)]


def judged(junk: JunkFilter, losses: list[float]) -> list[Junk | None]:
    return [judge(junk, loss * TOKENS, TOKENS) for loss in losses]


def judge(junk: JunkFilter, nll: float, tokens: int) -> Junk | None:
    """As in a step that reads one chunk."""
    return junk.observe(nll, tokens, junk.accepted)


def test_an_ordinary_stream_is_learnt_whole() -> None:
    """One chunk in some thousands may be taken for junk, not more."""
    assert sum(found is not None for found in judged(JunkFilter(JUNK), losses(5000))) <= 3


def test_noise_is_left_out_and_does_not_become_ordinary_by_insisting() -> None:
    """One scrambled chunk in twenty is as far out after a thousand as at first."""
    junk = JunkFilter(JUNK)
    judged(junk, losses(200))
    stream = losses(2000, seed=1)
    stream[::20] = losses(100, mean=6.5, sd=0.2, seed=2)

    found = judged(junk, stream)

    assert found[::20] == [Junk.FAR] * 100
    assert sum(reason is not None for reason in found) <= 103
    assert junk.counts[Junk.FAR] >= 100


def test_what_the_model_knows_by_heart_is_left_out() -> None:
    """A banner repeated under every text would be learnt at the cost of the rest."""
    junk = JunkFilter(JUNK)

    assert judged(junk, [0.01]) == [Junk.NEAR_ZERO]
    assert junk.counts == {Junk.FAR: 0, Junk.NEAR_ZERO: 1}


def test_a_stream_that_changed_for_good_is_no_junk() -> None:
    """Nine chunks are lost to a change of five standard deviations: more than half of the last 16."""
    junk = JunkFilter(JUNK)
    judged(junk, losses(500))

    found = judged(junk, losses(300, mean=6.5, seed=3))

    assert sum(reason is not None for reason in found) <= 9
    assert found[16:] == [None] * 284


def test_a_short_chunk_is_never_junk() -> None:
    """The mean of five tokens says little about a text."""
    junk = JunkFilter(JUNK)
    judged(junk, losses(200))

    assert judge(junk, 5 * 12.0, 5) is None
    assert judge(junk, 0.0, 5) is None


def test_nothing_is_far_before_there_is_a_usual() -> None:
    junk = JunkFilter(JUNK)

    assert judged(junk, [*losses(50), 9.0])[-1] is None


@pytest.mark.parametrize("nll", [math.nan, math.inf])
def test_what_is_no_number_leaves_no_trace(nll: float) -> None:
    """Such a step is dropped; the filter must not go blind on top."""
    junk, other = JunkFilter(JUNK), JunkFilter(JUNK)
    judged(junk, losses(150))
    judged(other, losses(150))

    assert judge(junk, nll, TOKENS) is None
    assert junk.document() == other.document()


@pytest.mark.parametrize("cut", [0, 60, 150, 205])
def test_a_restart_leaves_no_trace(cut: int) -> None:
    stream = [*losses(200), *losses(30, mean=6.5), 0.0]
    whole, first, second = JunkFilter(JUNK), JunkFilter(JUNK), JunkFilter(JUNK)
    expected = judged(whole, stream)
    before = judged(first, stream[:cut])
    second.restore(through_json(first.document()))

    assert before + judged(second, stream[cut:]) == expected
    assert second.document() == whole.document()
