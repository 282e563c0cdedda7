"""When a record may go."""

from __future__ import annotations

import pytest

from streamlearn.cli.pacing import AtOnce, AtRate, OwnTime, pace, rate
from streamlearn.config_file import ConfigError


def test_a_rate_is_an_even_grid() -> None:
    even = AtRate(4.0)
    assert [even.due(None, 100.0) for _ in range(4)] == [100.0, 100.25, 100.5, 100.75]


def test_a_hold_up_is_made_up_for_by_a_second_at_most() -> None:
    """Brokers that come back are not met by a burst."""
    even = AtRate(10.0)
    even.due(None, 0.0)
    due = [even.due(None, 60.0) for _ in range(12)]
    assert due[0] == 59.0
    assert sum(moment < 60.05 for moment in due) == 11


def test_own_time_keeps_the_distances_sped_up() -> None:
    own = OwnTime(60.0)
    assert [own.due(ts, 10.0) for ts in (1000.0, 1060.0, 1030.0, 4600.0)] == [10.0, 11.0, 10.5, 70.0]


def test_an_event_older_than_the_first_goes_at_once() -> None:
    own = OwnTime(1.0)
    own.due(1000.0, 10.0)
    assert own.due(0.0, 10.0) < 10.0


def test_without_options_records_go_at_once() -> None:
    assert isinstance(pace(None, None, None), AtOnce)
    assert AtOnce().due(None, 5.0) == 5.0


@pytest.mark.parametrize(("text", "per_second"), [("50", 50.0), ("50/s", 50.0), ("0.5 / s", 0.5), ("36/h", 0.01)])
def test_rates_are_read_with_their_unit(text: str, per_second: float) -> None:
    assert rate(text) == pytest.approx(per_second)


@pytest.mark.parametrize("text", ["0", "-3", "fast", "3/d", "", "1e3"])
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 50/s"):
        rate(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("3/s", "ts", None), "both say how fast"),
        ((None, None, 5.0), "--speed-up goes with --pace"),
        ((None, "ts", 0.0), "would never get on"),
        ((None, "ts", float("nan")), "would never get on"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    arguments: tuple[str | None, str | None, float | None], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        pace(*arguments)
