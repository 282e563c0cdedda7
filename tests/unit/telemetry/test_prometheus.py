"""What Prometheus gets to see."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamlearn.core.metrics import CATALOGUE, Kind
from streamlearn.telemetry.prometheus import PrometheusTelemetry


@pytest.fixture
def telemetry() -> PrometheusTelemetry:
    return PrometheusTelemetry()


def test_what_was_reported_can_be_read(telemetry: PrometheusTelemetry) -> None:
    telemetry.count("streamlearn_events_total", 3.0, outcome="admitted")
    telemetry.gauge("streamlearn_learning_rate", 0.002)
    telemetry.observe("streamlearn_step_seconds", 0.3)
    telemetry.info("streamlearn_build_info", version="1.2.3", python="3.11")

    read = telemetry.registry.get_sample_value
    assert read("streamlearn_events_total", {"outcome": "admitted"}) == 3.0
    assert read("streamlearn_learning_rate") == 0.002
    assert read("streamlearn_step_seconds_count") == 1.0
    assert read("streamlearn_step_seconds_bucket", {"le": "0.25"}) == 0.0
    assert read("streamlearn_step_seconds_bucket", {"le": "0.5"}) == 1.0
    assert read("streamlearn_build_info", {"version": "1.2.3", "python": "3.11"}) == 1.0


def test_a_gauge_is_absent_until_it_is_known(telemetry: PrometheusTelemetry) -> None:
    """A fresh worker does not claim a version from 1970, nor that there is no lag."""
    gauges = {name for name, metric in CATALOGUE.items() if metric.kind in (Kind.GAUGE, Kind.INFO)}
    shown = {sample.name for family in telemetry.registry.collect() for sample in family.samples}

    assert gauges & shown == set()


def test_a_counter_with_known_labels_begins_at_zero(telemetry: PrometheusTelemetry) -> None:
    """`increase()` over the first dead letter is 1, not nothing."""
    assert telemetry.registry.get_sample_value("streamlearn_events_total", {"outcome": "dead_letter"}) == 0.0
    assert telemetry.registry.get_sample_value("streamlearn_tokens_trained_total", {"role": "window"}) == 0.0
    assert telemetry.registry.get_sample_value("streamlearn_steps_total") == 0.0


def test_an_info_that_changes_says_only_the_new(telemetry: PrometheusTelemetry) -> None:
    """One worker runs one model."""
    for rank in ("8", "16"):
        telemetry.info("streamlearn_model_info", base="b", revision="", weights="w", rank=rank)

    (info,) = [family for family in telemetry.registry.collect() if family.name == "streamlearn_model"]
    assert [sample.labels["rank"] for sample in info.samples] == ["16"]


def test_the_exposition_is_what_prometheus_parses(telemetry: PrometheusTelemetry) -> None:
    """Also with labels that come from a stream."""
    telemetry.gauge("streamlearn_nats_per_token", 3.5, model="live", source='news "a"\n\\')

    text = generate_latest(telemetry.registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}

    (sample,) = families["streamlearn_nats_per_token"].samples
    assert sample.labels == {"model": "live", "source": 'news "a"\n\\'}
    assert "_created" not in text.replace("streamlearn_version_created_timestamp_seconds", "")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_finds_no_fault_with_the_names(telemetry: PrometheusTelemetry) -> None:
    """Its linter knows what dashboards expect."""
    for name, metric in CATALOGUE.items():
        if metric.kind is Kind.GAUGE:
            telemetry.gauge(name, 1.0, **dict.fromkeys(metric.labels, "x"))
    text = "\n".join(
        line
        for line in generate_latest(telemetry.registry).decode().splitlines()
        if re.search("streamlearn_|kafka_", line)
    )

    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text + "\n", capture_output=True, text=True, check=False, timeout=60
    )

    # Bits per byte is a ratio of its own, and no count of bits.
    ratios = ("streamlearn_bits_per_byte ", "streamlearn_bits_per_byte_fading ")
    faults = [line for line in done.stderr.splitlines() if not line.startswith(ratios)]
    assert (faults, done.stdout) == ([], "")


def test_the_process_shows_itself(telemetry: PrometheusTelemetry) -> None:
    """Memory and processor time come without a node exporter."""
    assert telemetry.registry.get_sample_value("process_resident_memory_bytes")
    assert any(family.name == "python_info" for family in telemetry.registry.collect())


def test_two_workers_in_one_process_do_not_meet(telemetry: PrometheusTelemetry) -> None:
    """No module-global registry: tests and embedders run several."""
    other = PrometheusTelemetry()
    telemetry.count("streamlearn_steps_total")

    assert other.registry.get_sample_value("streamlearn_steps_total") == 0.0


def test_a_mistake_is_named(telemetry: PrometheusTelemetry) -> None:
    """A typo fails in the first test that runs the line, not on a dashboard."""
    with pytest.raises(AssertionError, match="streamlearn_stepz_total is not in the catalogue"):
        telemetry.count("streamlearn_stepz_total")
    with pytest.raises(AssertionError, match=r"has labels \('outcome',\), not \(\)"):
        telemetry.count("streamlearn_events_total")
    with pytest.raises(AssertionError, match=r"has labels \(\), not \('source',\)"):
        telemetry.gauge("streamlearn_epoch", 1.0, source="x")
    with pytest.raises(AssertionError, match="is a gauge, not a counter"):
        telemetry.count("streamlearn_epoch")
