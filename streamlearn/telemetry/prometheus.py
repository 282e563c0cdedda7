"""Numbers for Prometheus, by the catalogue of `core/metrics.py`.

Owns its registry, so that two workers in one process never meet. A name or a
label that is not in the catalogue is our own mistake and is raised at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    Metric,
    PlatformCollector,
    ProcessCollector,
)

from streamlearn.core import metrics
from streamlearn.core.metrics import CATALOGUE, Kind

Series: TypeAlias = Counter | Gauge | Histogram | Info


class LeanRegistry(CollectorRegistry):
    """A registry without `_created` time stamps: Prometheus ignores them in text, and they double the series."""

    def collect(self) -> Iterable[Metric]:
        """Yield every metric with its samples."""
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class PrometheusTelemetry:
    """A `Telemetry` that Prometheus can scrape; safe from any thread."""

    def __init__(self) -> None:
        self.registry = LeanRegistry()
        self._series = {name: _series(metric) for name, metric in CATALOGUE.items()}
        self._lock = threading.Lock()
        self._shown: set[str] = set()
        for name, metric in CATALOGUE.items():
            # What was never set is not shown: a zero would claim a version from 1970, or a lag that nobody measured.
            if metric.kind in (Kind.COUNTER, Kind.HISTOGRAM):
                self._show(name)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add `amount`, which must not be negative, to a counter."""
        series = self._find(name, Kind.COUNTER, labels)
        assert isinstance(series, Counter)
        (series.labels(**labels) if labels else series).inc(amount)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        series = self._find(name, Kind.GAUGE, labels)
        assert isinstance(series, Gauge)
        (series.labels(**labels) if labels else series).set(value)
        self._show(name)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram."""
        series = self._find(name, Kind.HISTOGRAM, labels)
        assert isinstance(series, Histogram)
        (series.labels(**labels) if labels else series).observe(value)

    def info(self, name: str, **labels: str) -> None:
        """Set an info metric; what it said before is forgotten."""
        series = self._find(name, Kind.INFO, labels)
        assert isinstance(series, Info)
        series.info(labels)
        self._show(name)

    def _find(self, name: str, kind: Kind, labels: dict[str, str]) -> Series:
        metric = CATALOGUE.get(name)
        assert metric is not None, f"{name} is not in the catalogue: add it to core/metrics.py"
        assert metric.kind is kind, f"{name} is a {metric.kind}, not a {kind}"
        assert labels.keys() == set(metric.labels), f"{name} has labels {metric.labels}, not {tuple(labels)}"
        return self._series[name]

    def _show(self, name: str) -> None:
        if name not in self._shown:
            with self._lock:
                if name not in self._shown:
                    self.registry.register(self._series[name])
                    self._shown.add(name)


def _series(metric: metrics.Metric) -> Series:
    """Build the series of `metric`, in no registry yet."""
    match metric.kind:
        case Kind.COUNTER:
            counter = Counter(metric.name, metric.help, metric.labels, registry=None)
            for value in metric.known:
                counter.labels(value)
            return counter
        case Kind.GAUGE:
            return Gauge(metric.name, metric.help, metric.labels, registry=None)
        case Kind.HISTOGRAM:
            return Histogram(metric.name, metric.help, metric.labels, registry=None, buckets=metric.buckets)
        case Kind.INFO:
            # The client appends the suffix itself.
            return Info(metric.name.removesuffix("_info"), metric.help, registry=None)
