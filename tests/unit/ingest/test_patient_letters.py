"""Patience with brokers that do not take dead letters."""

from __future__ import annotations

import pytest

from streamlearn.ingest.patient_letters import PatientDeadLetters
from streamlearn.ports import SourceRefused, SourceUnavailable
from tests.fakes.daemon import ListDeadLetters, ManualClock, SilentTelemetry


class AwayLetters(ListDeadLetters):
    """Does not take anything for `away_s`, and each try takes as long as it may."""

    def __init__(self, clock: ManualClock, away_s: float, error: type[Exception] = SourceUnavailable) -> None:
        super().__init__()
        self._clock = clock
        self._back = clock.time + away_s
        self._error = error
        self.tries: list[float] = []

    def flush(self, timeout_s: float) -> None:
        self.tries.append(timeout_s)
        if self._clock.time < self._back:
            self._clock.time += timeout_s
            raise self._error("1 dead letters are not acknowledged")
        super().flush(timeout_s)


class Case:
    """A patient one around letters that are away for `away_s`."""

    def __init__(self, *, away_s: float, budget_s: float, error: type[Exception] = SourceUnavailable) -> None:
        self.clock = ManualClock()
        self.letters = AwayLetters(self.clock, away_s, error)
        self.telemetry = SilentTelemetry()
        self.seen: list[str | None] = []
        self.pauses: list[float] = []
        self.patient = PatientDeadLetters(
            self.letters,
            budget_s=budget_s,
            telemetry=self.telemetry,
            monotonic=self.clock.monotonic,
            wait=self._wait,
        )

    def _wait(self, seconds: float) -> None:
        self.seen.append(self.patient.trouble)
        self.pauses.append(seconds)
        self.clock.time += seconds


def test_an_outage_within_the_budget_is_waited_out_counted_and_told() -> None:
    case = Case(away_s=120.0, budget_s=300.0)

    case.patient.flush(60.0)

    assert case.telemetry.counts == {"streamlearn_kafka_retries_total": len(case.pauses)}
    assert set(case.seen) == {"1 dead letters are not acknowledged"}
    assert case.patient.trouble is None
    assert max(case.letters.tries) <= 5.0, "a long try would hide the outage"
    assert case.pauses[0] < 0.2
    assert 2.5 <= max(case.pauses) <= 5.0


def test_an_outage_beyond_the_budget_is_raised_and_names_the_knob() -> None:
    case = Case(away_s=1_000.0, budget_s=60.0)

    with pytest.raises(
        SourceUnavailable, match=r"not acknowledged \(tried \d+ times in \d\d s; kafka.retry_budget_s = 60\)"
    ):
        case.patient.flush(60.0)

    assert 50.0 <= case.clock.time - 1_000.0 <= 61.0


def test_a_refusal_is_not_tried_again() -> None:
    case = Case(away_s=1_000.0, budget_s=60.0, error=SourceRefused)

    with pytest.raises(SourceRefused):
        case.patient.flush(60.0)

    assert case.pauses == []


def test_closing_ends_the_patience() -> None:
    """A shutdown does not wait for brokers that may never come."""
    case = Case(away_s=1_000.0, budget_s=300.0)
    case.patient.close()

    with pytest.raises(SourceUnavailable):
        case.patient.flush(60.0)

    assert len(case.letters.tries) == 1
