import itertools

import numpy as np
import pytest

from streamlearn.core.drift import DriftWatch
from streamlearn.core.judgement import Alarm
from tests.unit.core.judging import DRIFT, series, through_json


def watched(watch: DriftWatch, live: np.ndarray, base: np.ndarray, *, every: int = 5, first: int = 0) -> list[Alarm]:
    """Show chunks of which the base scores one in `every`."""
    alarms = [
        watch.observe(float(live[i]), float(base[i]) if i % every == 0 else None) for i in range(first, len(live))
    ]
    return [alarm for alarm in alarms if alarm is not None]


def stretch(seed: int, *levels: tuple[int, float], sd: float = 0.5) -> np.ndarray:
    """Losses whose mean is `level` for `count` chunks, for each (count, level)."""
    means = np.concatenate([np.full(count, level) for count, level in levels])
    return means + series(seed, len(means), sd=sd)


def test_an_abrupt_change_alarms_once_and_says_where() -> None:
    """The base, scored on a fifth of the chunks, notices later, and that is the same change."""
    live, base = stretch(0, (1000, 3.0), (1500, 3.5)), stretch(1, (1000, 3.5), (1500, 4.0))

    [alarm] = watched(DriftWatch(DRIFT), live, base)

    assert alarm.signal == "live"
    assert 1000 <= alarm.chunk < 1100
    assert abs(alarm.cut - 1000) <= 20
    assert alarm.rise == pytest.approx(0.5, abs=0.2)
    assert through_json(alarm.model_dump())["cut"] == alarm.cut


def test_the_base_tells_of_an_input_that_the_live_model_hides() -> None:
    """A model that learns fast enough never looks worse; its stream has changed all the same."""
    live, base = stretch(2, (4000, 3.0)), stretch(3, (1500, 3.5), (2500, 4.5))

    [alarm] = watched(DriftWatch(DRIFT), live, base)

    assert alarm.signal == "base"
    assert 1500 <= alarm.chunk < 2000
    assert abs(alarm.cut - 1500) <= 60


def test_alarms_keep_their_distance() -> None:
    """A reaction has time to act before the next begins."""
    live = stretch(4, (600, 3.0), (120, 4.0), (80, 5.0), (120, 6.0), (600, 3.0), (300, 5.0))

    alarms = watched(DriftWatch(DRIFT), live, np.full(len(live), 3.0))

    assert len(alarms) >= 2
    assert all(later.chunk - earlier.chunk >= 200 for earlier, later in itertools.pairwise(alarms))
    assert 1520 <= alarms[-1].chunk < 1580


@pytest.mark.parametrize("cut", [0, 99, 1007, 1100, 1300])
def test_a_restart_leaves_no_trace(cut: int) -> None:
    """The same alarms, at the same chunks, whenever the worker was killed."""
    live, base = stretch(5, (1000, 3.0), (1000, 4.0)), stretch(6, (1000, 3.5), (1000, 4.5))
    whole, first, second = DriftWatch(DRIFT), DriftWatch(DRIFT), DriftWatch(DRIFT)
    expected = watched(whole, live, base)
    before = watched(first, live[:cut], base)
    second.restore(through_json(first.document()))

    assert before + watched(second, live, base, first=cut) == expected
    assert len(expected) == 1
    assert second.document() == whole.document()
