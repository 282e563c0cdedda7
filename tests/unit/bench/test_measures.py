"""Figures are of the tokens they say, and an interval holds the truth as often as it says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamlearn.bench.measures import ArmResult, figures, interval, paired
from streamlearn.bench.sample import Sample
from tests.unit.core.judging import series
from tests.unit.core.making import arrival, chunk


def sample(tokens: list[int]) -> Sample:
    """One event for each chunk; sources take turns."""
    made = [dataclasses.replace(arrival(place), chunks=(chunk(place, count),)) for place, count in enumerate(tokens)]
    return Sample(name="made up", arrivals=tuple(made))


def result(nll: list[float], **probes: tuple[float, ...]) -> ArmResult:
    told = {name.replace("_", " "): values for name, values in probes.items()}
    return ArmResult(arm="one", nll=np.array(nll), probes=told, seconds=2.0, peak_rss_mb=7)


def test_figures_are_over_tokens_not_over_chunks() -> None:
    found = figures(sample([10, 30]), result([40.0, 30.0]), anchor_base=None)

    assert found.nats_per_token == pytest.approx(70.0 / 40)
    assert found.bits_per_byte == pytest.approx(70.0 / (120 * math.log(2)))
    assert found.by_topic["even"] == pytest.approx((4.0, 40.0 / (30 * math.log(2))))
    assert found.by_topic["odd"] == pytest.approx((1.0, 30.0 / (90 * math.log(2))))
    assert found.tokens_per_s == 20.0
    assert (found.seconds, found.peak_rss_mb) == (2.0, 7)


def test_the_last_fifth_is_a_fifth_of_the_tokens() -> None:
    found = figures(sample([80, 10, 10]), result([800.0, 10.0, 30.0]), anchor_base=None)

    assert found.nats_per_token_last_fifth == pytest.approx(2.0)


def test_forgetting_is_against_the_best_that_was() -> None:
    """Not against the start: what was learnt and lost again counts."""
    probes = {"first_tenth": (3.0, 2.5, 2.8), "early_half": (2.0, 1.9), "held-out": (3.6, 3.7)}
    found = figures(sample([5]), result([1.0], **probes), anchor_base=3.65)

    assert found.forgetting == pytest.approx(0.3)
    assert found.forgetting_early_half == 0.0
    assert found.anchor_nats == 3.7
    assert found.anchor_loss == pytest.approx(0.05)


def test_what_was_not_probed_has_no_figure() -> None:
    found = figures(sample([5]), result([1.0]), anchor_base=None)

    assert found.forgetting is found.forgetting_early_half is found.anchor_nats is found.anchor_loss is None


def noisy(seed: int, gain: float, correlation: float) -> NDArray[np.float64]:
    return np.asarray(20 * (gain + series(seed, 300, sd=0.3, correlation=correlation)), dtype=np.float64)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_interval_covers_the_truth_nearly_as_often_as_it_says(correlation: float) -> None:
    """Also where neighbours are alike, which blocks are for; 95 % of 100, less what a bootstrap is known to lack."""
    arms = sample([20] * 300)
    ours = np.full(300, 60.0)
    covered = 0
    for seed in range(100):
        interval = paired(arms, ours, ours + noisy(seed, 0.1, correlation))
        assert interval.low < interval.mean < interval.high
        covered += interval.low <= 0.1 <= interval.high

    assert 85 <= covered <= 100


def test_chunks_in_blocks_tell_less_than_as_many_that_are_independent() -> None:
    """Where neighbours are alike the interval is wider than a naive one would be."""
    arms, ours = sample([20] * 300), np.full(300, 60.0)

    def width(correlation: float) -> float:
        found = [paired(arms, ours, ours + noisy(seed, 0.1, correlation)) for seed in range(10)]
        return float(np.mean([interval.high - interval.low for interval in found]))

    assert width(0.5) > 1.3 * width(0.0)


def test_an_arm_against_itself_gains_nothing() -> None:
    nll = np.array([3.0, 5.0, 4.0])

    interval = paired(sample([2, 3, 2]), nll, nll)

    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_the_gain_is_in_nats_a_token_and_positive_where_ours_is_lower() -> None:
    interval = paired(sample([10] * 40), np.full(40, 20.0), np.full(40, 25.0))

    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.5, 0.5, 0.5))


def test_runs_are_joined_by_their_tokens_and_no_block_lies_across_two() -> None:
    """Two seeds of one experiment are one figure; where one run knows no spread, neither do its blocks."""
    short, long = (np.full(16, 10.0), np.full(16, 10.0)), (np.full(64, 10.0), np.full(64, -5.0))

    joined = interval([short, long])

    assert joined.mean == pytest.approx((16 * 10 - 64 * 5) / (80 * 10))
    # Means of five whole blocks, each of one run: multiples of 0.3 above -0.5.
    for edge in (joined.low, joined.high):
        assert (edge + 0.5) / 0.3 == pytest.approx(round((edge + 0.5) / 0.3))
    assert interval([long]).document() == {"mean": -0.5, "low": -0.5, "high": -0.5}
