"""What librdkafka is told, what it says, and what its words mean."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from streamlearn.ingest.kafka_client import LibrdkafkaLog, open_consumer, open_producer
from streamlearn.ingest.kafka_errors import name_of, refusal
from streamlearn.ingest.kafka_stats import KafkaStatistics
from streamlearn.ports import SourceRefused
from tests.unit.ingest.making import configured


def open_with(**client: Any) -> None:
    config = configured(kafka={"client": client})
    consumer = open_consumer(
        config,
        on_error=lambda error: None,
        on_commit=lambda error, partitions: None,
        on_statistics=lambda document: None,
        monotonic=lambda: 0.0,
    )
    consumer.close()
    open_producer(config, on_error=lambda error: None, monotonic=lambda: 0.0)


def test_any_property_of_librdkafka_passes_in_any_toml_type() -> None:
    open_with(**{"fetch.min.bytes": 10, "socket.keepalive.enable": False, "linger.ms": 2.5, "sasl.username": "me"})


def test_an_unknown_property_is_refused_by_name_without_secrets() -> None:
    with pytest.raises(SourceRefused, match=r"does not take \[kafka.client\].*fetch.min.bites"):
        open_with(**{"fetch.min.bites": 1})
    with pytest.raises(SourceRefused) as caught:
        open_with(**{"security.protocol": "hunter2", "sasl.password": "hunter2"})
    assert "***" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_its_log_is_ours_without_secrets_and_at_a_limited_rate() -> None:
    now = [0.0]
    log = LibrdkafkaLog({"hunter2", "hunter2-longer"}, lambda: now[0])
    with capture_logs() as lines:
        for _ in range(5):
            log.log(logging.ERROR, "%s [%s] %s", "FAIL", "rdkafka#1", "no login with hunter2-longer or hunter2")
        log.log(logging.WARNING, "%s [%s] %s", "CONFWARN", "rdkafka#1", "a producer property")
        now[0] = 10.0
        log.log(logging.ERROR, "%s [%s] %s", "FAIL", "rdkafka#1", "again")

    assert [(line["event"], line["log_level"], line["held_back"]) for line in lines] == [
        ("no login with *** or ***", "warning", 0),
        ("again", "warning", 4),
    ]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (KafkaError._AUTHENTICATION, "refuse our credentials.*sasl.password"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "refuse our credentials"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "no permission for topic 'news'"),
        (KafkaError.TOPIC_EXCEPTION, "'news' is no topic name"),
    ],
)
def test_what_waiting_does_not_mend_is_refused_with_the_mend(code: int, words: str) -> None:
    refused = refusal(KafkaError(code), topic="news")

    with pytest.raises(SourceRefused, match=words):
        raise refused or AssertionError


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError.GROUP_AUTHORIZATION_FAILED,  # only the mirror needs the group
        KafkaError.NOT_LEADER_FOR_PARTITION,
    ],
)
def test_what_may_pass_is_waited_out(code: int) -> None:
    assert refusal(KafkaError(code)) is None


def test_a_fatal_error_of_the_client_ends_the_worker() -> None:
    assert refusal(KafkaError(KafkaError._FATAL, "fenced", fatal=True)) is not None
    assert name_of(KafkaError(KafkaError._FATAL)) == "FATAL"


def test_statistics_become_metrics() -> None:
    """Totals of the client become increments of a counter; a bootstrap address is no broker."""
    said: list[tuple[str, float, dict[str, str]]] = []

    class Telemetry:
        def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
            said.append((name, amount, labels))

        def gauge(self, name: str, value: float, **labels: str) -> None:
            said.append((name, value, labels))

        def observe(self, name: str, value: float, **labels: str) -> None: ...

        def info(self, name: str, **labels: str) -> None: ...

    def document(received: int) -> str:
        brokers = {
            "a:1/bootstrap": {"nodeid": -1, "state": "UP", "nodename": "a:1", "rtt": {"avg": 1, "cnt": 1}},
            "a:1/1": {"nodeid": 1, "state": "UP", "nodename": "a:1", "rtt": {"avg": 1500, "cnt": 3}},
            "b:1/2": {"nodeid": 2, "state": "DOWN", "nodename": "b:1", "rtt": {"avg": 0, "cnt": 0}},
            "GroupCoordinator": {"nodeid": 1, "state": "UP", "source": "logical", "nodename": "a:1", "rtt": {"cnt": 0}},
        }
        return json.dumps({"rx_bytes": received, "brokers": brokers})

    statistics = KafkaStatistics(Telemetry())
    statistics(document(100))
    first = list(said)
    said.clear()
    statistics(document(150))

    assert first == [
        ("streamlearn_kafka_received_bytes_total", 100, {}),
        ("streamlearn_kafka_broker_rtt_seconds", 0.0015, {"broker": "a:1"}),
        ("streamlearn_kafka_connected_brokers", 1, {}),
    ]
    assert said[0] == ("streamlearn_kafka_received_bytes_total", 50, {})
