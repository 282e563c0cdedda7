"""What every `Telemetry` does: the fake that tests use, and the one that Prometheus scrapes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from streamlearn.core.metrics import CATALOGUE, Kind, Metric
from streamlearn.ports import Telemetry
from streamlearn.telemetry.prometheus import PrometheusTelemetry
from tests.fakes.daemon import SilentTelemetry


@dataclass(frozen=True)
class Subject:
    """An implementation, and a way to read a counter back, summed over its labels."""

    telemetry: Telemetry
    counted: Callable[[str], float]


def _silent() -> Subject:
    telemetry = SilentTelemetry()
    return Subject(telemetry, lambda name: telemetry.counts.get(name, 0.0))


def _prometheus() -> Subject:
    telemetry = PrometheusTelemetry()

    def counted(name: str) -> float:
        return sum(
            sample.value for family in telemetry.registry.collect() for sample in family.samples if sample.name == name
        )

    return Subject(telemetry, counted)


@pytest.fixture(params=[_silent, _prometheus], ids=["silent", "prometheus"])
def subject(request: pytest.FixtureRequest) -> Subject:
    made: Subject = request.param()
    return made


def report(telemetry: Telemetry, metric: Metric) -> None:
    """Report once, in the way of the metric's kind."""
    labels = dict.fromkeys(metric.labels, "x")
    match metric.kind:
        case Kind.COUNTER:
            telemetry.count(metric.name, 1.0, **labels)
        case Kind.GAUGE:
            telemetry.gauge(metric.name, 1.0, **labels)
        case Kind.HISTOGRAM:
            telemetry.observe(metric.name, 1.0, **labels)
        case Kind.INFO:
            telemetry.info(metric.name, **labels)


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=list(CATALOGUE))
def test_every_metric_of_the_catalogue_can_be_reported(subject: Subject, metric: Metric) -> None:
    """What is documented works."""
    report(subject.telemetry, metric)
    report(subject.telemetry, metric)

    if metric.kind is Kind.COUNTER:
        assert subject.counted(metric.name) == 2.0


def test_counts_add_up(subject: Subject) -> None:
    """Each event counts, by however many it came."""
    subject.telemetry.count("streamlearn_steps_total")
    subject.telemetry.count("streamlearn_steps_total", 41.0)

    assert subject.counted("streamlearn_steps_total") == 42.0


def test_no_count_is_lost_between_threads() -> None:
    """Ingest, publisher and learner report at the same time."""
    subject = _prometheus()

    def work() -> None:
        for _ in range(2_000):
            subject.telemetry.count("streamlearn_events_total", outcome="admitted")
            subject.telemetry.gauge("streamlearn_epoch", 1.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert subject.counted("streamlearn_events_total") == 16_000.0
