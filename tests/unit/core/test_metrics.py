"""The catalogue and the code speak of the same metrics."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import streamlearn
from streamlearn.core.metrics import CATALOGUE, SECTIONS, Kind, Metric

PACKAGE = Path(streamlearn.__file__).parent
NAME = re.compile(r"streamlearn_[a-z0-9_]+|kafka_consumergroup_lag")
METHODS = {"count": Kind.COUNTER, "gauge": Kind.GAUGE, "observe": Kind.HISTOGRAM, "info": Kind.INFO}


@dataclass(frozen=True, kw_only=True)
class Use:
    """A metric's name in the source; `kind` and `labels` where it is a call of the telemetry port."""

    place: str
    name: str
    kind: Kind | None = None
    labels: frozenset[str] = frozenset()


def uses(source: str, place: str) -> Iterator[Use]:
    """Yield each string that is a metric's name, and what is called with it."""
    for node in ast.walk(ast.parse(source)):
        where = f"{place}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
            yield Use(place=where, name=node.value)
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in METHODS
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and NAME.fullmatch(str(node.args[0].value))
        ):
            given = {keyword.arg for keyword in node.keywords} - {"amount", "value"}
            if None not in given:
                yield Use(
                    place=where,
                    name=str(node.args[0].value),
                    kind=METHODS[node.func.attr],
                    labels=frozenset(label for label in given if label),
                )


def uses_in_package() -> list[Use]:
    return [
        use
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "core" / "metrics.py"
        for use in uses(path.read_text(encoding="utf-8"), str(path.relative_to(PACKAGE.parent)))
    ]


def faults(found: list[Use]) -> list[str]:
    """Say what the source and the catalogue do not agree on."""
    said = []
    for use in found:
        metric = CATALOGUE.get(use.name)
        if metric is None:
            said.append(f"{use.place}: {use.name} is not in the catalogue")
        elif use.kind is not None and (use.kind is not metric.kind or use.labels != set(metric.labels)):
            said.append(f"{use.place}: {use.name} is a {metric.kind} with labels {metric.labels}")
    return said


def test_every_metric_of_the_source_is_in_the_catalogue_as_it_is_used() -> None:
    """A wrong name or label ends the worker only when that line first runs; here it shows at once."""
    assert faults(uses_in_package()) == []


def test_every_metric_of_the_catalogue_is_set_somewhere() -> None:
    """The documentation promises no number that never comes."""
    assert CATALOGUE.keys() - {use.name for use in uses_in_package()} == set()


def test_the_scan_sees_what_it_is_meant_to_see() -> None:
    """A scan that finds nothing would agree with everything."""
    source = """
say.count("streamlearn_events_total")
say.gauge("streamlearn_no_such_thing", 1.0)
say.observe("streamlearn_epoch", 1.0)
say.count("streamlearn_kafka_errors_total", 2.0, code="x")
"""

    assert set(faults(list(uses(source, "example.py")))) == {
        "example.py:2: streamlearn_events_total is a counter with labels ('outcome',)",
        "example.py:3: streamlearn_no_such_thing is not in the catalogue",
        "example.py:4: streamlearn_epoch is a gauge with labels ()",
    }


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=list(CATALOGUE))
def test_a_metric_is_named_as_prometheus_wants(metric: Metric) -> None:
    """Dashboards and `promtool check metrics` know these habits."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.name.endswith("_info") == (metric.kind is Kind.INFO)
    assert metric.help.endswith(".")
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert not metric.known or len(metric.labels) == 1
    if metric.unit in {"seconds", "bytes"}:
        assert metric.name.removesuffix("_total").endswith(f"_{metric.unit}")


def test_no_name_is_in_the_catalogue_twice() -> None:
    """The second would silently hide the first."""
    assert sum(len(section) for section in SECTIONS.values()) == len(CATALOGUE)
