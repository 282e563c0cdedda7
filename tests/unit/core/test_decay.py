import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamlearn.core.decay import HalfLife, effective_sample_size, lengthened

ages = hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(-1e6, 1e9))
half_lives = st.floats(1e-3, 1e9).map(lambda seconds: HalfLife(seconds=seconds))


@given(half_lives, ages)
def test_a_weight_lies_between_nothing_and_one_and_falls_with_age(half_life: HalfLife, ages_: np.ndarray) -> None:
    """Old events never count more than new ones."""
    weights = half_life.weights(np.sort(ages_))

    assert ((weights >= 0) & (weights <= 1)).all()
    assert (np.diff(weights) <= 0).all()


@given(half_lives, st.floats(0, 20))
def test_every_half_life_halves_the_weight(half_life: HalfLife, lives: float) -> None:
    """The knob means what its name says."""
    now, later = half_life.weights(np.array([lives, lives + 1]) * half_life.seconds)

    assert later == pytest.approx(now / 2, rel=1e-6)


@given(hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(1e-6, 1)))
def test_the_effective_size_is_between_one_and_the_number_of_samples(weights: np.ndarray) -> None:
    """It can be read as a count."""
    size = effective_sample_size(weights)

    assert 1 - 1e-9 <= size <= len(weights) + 1e-9


@given(half_lives, ages, st.integers(1, 100))
def test_lengthening_reaches_the_floor_and_never_shortens(half_life: HalfLife, ages_: np.ndarray, floor: int) -> None:
    """Replay never turns on a handful of chunks while more are there."""
    longer = lengthened(half_life, ages_, floor)

    assert longer.seconds >= half_life.seconds
    assert effective_sample_size(longer.weights(ages_)) >= min(floor, 0.9 * len(ages_)) - 1e-9
