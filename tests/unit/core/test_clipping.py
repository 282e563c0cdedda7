import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.clipping import GradientClip
from tests.unit.core.judging import CLIP, through_json


def used(norms: list[float]) -> GradientClip:
    clip = GradientClip(CLIP)
    for norm in norms:
        clip.scale(norm)
    return clip


def usual(count: int = 60) -> list[float]:
    return [0.2 + 0.02 * float(noise) for noise in np.random.default_rng(0).normal(size=count)]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=80))
def test_no_gradient_is_lengthened_or_left_above_the_bound(norms: list[float]) -> None:
    """Whatever came before, a step is no longer than configured."""
    clip = GradientClip(CLIP)
    for norm in norms:
        factor = clip.scale(norm)
        assert 0.0 < factor <= 1.0
        assert norm * factor <= 1.0 + 1e-9


def test_an_ordinary_gradient_is_left_alone() -> None:
    assert used(usual()).scale(0.21) == 1.0


def test_a_spike_is_drawn_back_to_the_usual_the_further_the_higher_it_is() -> None:
    """A fixed bound of 1.0 would let through five times the usual step."""
    moderate, high = used(usual()).scale(0.4) * 0.4, used(usual()).scale(0.9) * 0.9

    assert 0.2 < high < moderate < 0.26


def test_a_spike_makes_no_room_for_the_next() -> None:
    """A run of hostile chunks cannot wear the bound down."""
    clip = used(usual())
    lengths = [clip.scale(0.9) * 0.9 for _ in range(5)]

    assert max(lengths) < 0.26
    assert clip.clipped >= 5


def test_a_lasting_change_is_followed() -> None:
    """Gradients that became longer for good are no outliers in the end."""
    clip = used(usual())

    factors = [clip.scale(0.4) for _ in range(150)]

    assert factors[0] < 0.6
    assert factors[9:] == [1.0] * 141


def test_while_warming_up_only_the_fixed_bound_holds() -> None:
    assert used(usual(20)).scale(0.9) == 1.0
    assert used(usual(20)).scale(4.0) == 0.25


def test_gradients_that_are_all_alike_know_no_outliers() -> None:
    """A spread of nothing divides by nothing."""
    assert used([0.5] * 40).scale(0.75) == 1.0


@pytest.mark.parametrize("norm", [math.nan, math.inf, 0.0])
def test_what_is_no_length_leaves_no_trace(norm: float) -> None:
    """One step without a number must not make all later ones unbounded."""
    clip, other = used(usual()), used(usual())

    assert clip.scale(norm) == 1.0
    assert clip.document() == other.document()


@pytest.mark.parametrize("cut", [0, 10, 25, 46])
def test_a_restart_leaves_no_trace(cut: int) -> None:
    norms = [*usual(40), *[0.4] * 12, *usual(20)]
    whole, second = used(norms), GradientClip(CLIP)
    second.restore(through_json(used(norms[:cut]).document()))
    for norm in norms[cut:]:
        second.scale(norm)

    assert second.document() == whole.document()
