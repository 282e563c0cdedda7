import numpy as np
import pytest

from streamlearn.core.rises import CALIBRATION, HORIZON, Rise, RiseDetector
from tests.unit.core.judging import series, through_json

BLIND_TO = 0.1
"""Standard deviation in nats; so small that ADWIN on the losses as they are would see nothing."""


def detected(values: np.ndarray, detector: RiseDetector | None = None) -> list[tuple[int, Rise]]:
    detector = detector or RiseDetector(0.002)
    found = ((place, detector.add(float(value))) for place, value in enumerate(values))
    return [(place, rise) for place, rise in found if rise is not None]


def shifted(seed: int, shift: float, *, sd: float = BLIND_TO, at: int = 600, count: int = 800) -> np.ndarray:
    return 3.0 + series(seed, count, sd=sd) + np.where(np.arange(count) >= at, shift * sd, 0.0)


def test_a_stationary_series_alarms_nobody() -> None:
    """Ten times 1,500 chunks without one false alarm, heavy tails included."""
    heavy = np.random.default_rng(0).standard_t(4, size=(5, 1500))
    for seed in range(5):
        assert detected(3.0 + series(seed, 1500, sd=0.6, correlation=0.3)) == []
        assert detected(3.0 + 0.4 * heavy[seed]) == []


@pytest.mark.parametrize(("shift", "delay"), [(2.0, 40), (1.0, 90), (0.6, 190)])
def test_a_rise_is_noticed_soon_and_placed_well(shift: float, delay: int) -> None:
    """The reaction tells chunks before the change from those after it.

    Medians of 40 runs: 23 values late at two standard deviations, 55 at one, 87 at 0.6.
    """
    for seed in range(5):
        (place, rise), *more = detected(shifted(seed, shift))

        assert more == []
        assert 600 <= place < 600 + delay
        assert abs(place + 1 - rise.values - 600) <= 40
        assert rise.amount == pytest.approx(shift * BLIND_TO, rel=0.6)


def test_a_fall_is_no_alarm_and_hides_no_later_rise() -> None:
    """To become better is what learning is for."""
    values = shifted(1, -2.0, count=1200) + np.where(np.arange(1200) >= 900, 2.0 * BLIND_TO, 0.0)

    [(place, _)] = detected(values)

    assert 900 <= place < 950


def test_a_slow_rise_is_noticed_too() -> None:
    """Centre and spread do not creep along with the series."""
    ramp = np.clip((np.arange(2000) - 600) / 600, 0.0, 1.0)

    found = detected(3.0 + series(2, 2000, sd=BLIND_TO) + 1.5 * BLIND_TO * ramp)

    assert found
    assert 600 < found[0][0] < 1200


def test_memory_is_bounded_and_the_detector_still_sees() -> None:
    """A checkpoint does not grow with the stream."""
    detector = RiseDetector(0.002)
    detected(3.0 + series(3, 5 * HORIZON, sd=BLIND_TO), detector)

    assert HORIZON <= len(detector.document()["values"]) < 2 * HORIZON
    assert detected(3.0 + 2.0 * BLIND_TO + series(4, 100, sd=BLIND_TO), detector)


def test_what_is_no_number_is_passed_over() -> None:
    detector = RiseDetector(0.002)

    assert detected(np.array([np.nan, np.inf, -np.inf]), detector) == []
    assert detector.document()["values"] == []


def test_losses_that_are_all_the_same_are_no_division_by_nothing() -> None:
    assert detected(np.full(500, 2.5)) == []


@pytest.mark.parametrize("cut", [0, CALIBRATION - 1, CALIBRATION, 333, 620, 660, HORIZON * 2 + 5])
def test_a_restart_leaves_no_trace(cut: int) -> None:
    """What river's detector holds follows from the values that are kept."""
    values = np.concatenate([shifted(5, 1.0), 3.1 + series(6, 2 * HORIZON, sd=BLIND_TO), shifted(7, 2.0) + 0.1])
    whole, first, second = RiseDetector(0.002), RiseDetector(0.002), RiseDetector(0.002)
    expected = detected(values, whole)
    before = detected(values[:cut], first)
    second.restore(through_json(first.document()))
    after = [(place + cut, rise) for place, rise in detected(values[cut:], second)]

    assert len(expected) >= 2
    assert before + after == expected
    assert second.document() == whole.document()
