import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.confidence import LowerConfidence, rho_for
from tests.unit.core.judging import series, through_json


def confidence(values: list[float], alpha: float = 0.05) -> LowerConfidence:
    made = LowerConfidence(alpha=alpha, rho=rho_for(40, alpha))
    for value in values:
        made.add(value)
    return made


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=50))
def test_mean_and_spread_are_those_of_the_whole_series(values: list[float]) -> None:
    """A running figure is no approximation."""
    made = confidence(values)

    assert made.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert made.sd == pytest.approx(np.std(values, ddof=1), abs=1e-7)
    assert made.lower <= made.mean


def test_the_radius_is_the_published_one() -> None:
    """A slip in the formula would pass as a little more or less power."""
    made = LowerConfidence(alpha=0.05, rho=0.5)
    for value in (1.0, 3.0):
        made.add(value)

    # t = 2, ρ² = 1/4: √(2 · 1.5 / (4 · 0.25) · ln(1 + √1.5 / 0.1)) with sd = √2.
    assert made.lower == pytest.approx(2.0 - 2**0.5 * (3.0 * np.log(1.0 + 1.5**0.5 / 0.1)) ** 0.5)


def test_one_observation_bounds_nothing() -> None:
    """Without a spread, whatever was seen first would be certain."""
    assert confidence([5.0]).lower == -np.inf


def test_the_true_mean_stays_above_the_bound_at_all_times() -> None:
    """One may look after every observation: at 5 %, at most 75 of 1,500 series ever cross."""
    crossed = 0
    for seed in range(1500):
        made = confidence([])
        for count, value in enumerate(series(seed, 200, sd=1.0), start=1):
            made.add(float(value))
            if count >= 20 and made.lower > 0.0:
                crossed += 1
                break

    assert crossed <= 75


def test_the_bound_closes_in_on_the_mean() -> None:
    """A real gain, however small, is found in time."""
    made = confidence((0.5 + series(0, 5000, sd=1.0)).tolist())

    assert 0.4 < made.lower < 0.5


def test_a_restored_bound_goes_on_as_if_nothing_had_been() -> None:
    values = series(1, 50, sd=1.0).tolist()
    whole, resumed = confidence(values), confidence([])
    resumed.restore(through_json(confidence(values[:20]).document()))
    for value in values[20:]:
        resumed.add(value)

    assert resumed.document() == whole.document()
    assert resumed.lower == whole.lower
