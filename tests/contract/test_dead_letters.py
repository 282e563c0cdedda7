"""One suite for every `DeadLetters`: a list, the log, a topic on librdkafka's mock cluster and on Apache Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from structlog.testing import capture_logs

from streamlearn.config import Config
from streamlearn.core.events import Arrival, Outcome, Record, Rejection
from streamlearn.ingest.dead_letters import KafkaDeadLetters, LoggedDeadLetters
from streamlearn.ports import DeadLetters, SourceRefused, SourceUnavailable
from tests.fakes.daemon import ListDeadLetters, SilentTelemetry
from tests.services.kafka import KafkaService, OwnedKafka, quiet_logger

DEADLINE_S = 30.0
HEADERS: tuple[tuple[str, bytes | None], ...] = (
    ("trace", b"1"),
    ("__connect.errors.stage", b"earlier"),
    ("none", None),
)


def letter(offset: int = 7, value: bytes | None = b"\xff broken") -> Arrival:
    record = Record(
        topic="news",
        partition=2,
        offset=offset,
        key=b"k%d" % offset,
        value=value,
        timestamp=1_700_000_000.123 + offset,
        headers=HEADERS,
    )
    return Arrival(
        id=f"news:2:{offset}",
        topic="news",
        partition=2,
        offset=offset,
        ts=record.timestamp,
        source="news",
        outcome=Outcome.DEAD_LETTER,
        rejection=Rejection(stage="decode", error="NotUtf8", message="byte 0 is not UTF-8: mend"),
        record=record,
    )


def configured(address: str, topic: str, **client: Any) -> Config:
    kafka = {"bootstrap_servers": address, "topics": ["news"], "dead_letter_topic": topic, "client": client}
    return Config.model_validate(
        {"stream": {"name": "news"}, "kafka": kafka, "store": {"url": "x"}, "model": {"name": "x"}}
    )


@dataclass
class Case:
    """An implementation and a way to see how many letters are safe in it."""

    letters: DeadLetters
    safe: Callable[[], int]


@pytest.fixture(params=["list", "log", "mock_kafka", "kafka"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    if request.param == "list":
        fake = ListDeadLetters()
        yield Case(fake, lambda: fake.flushed)
    elif request.param == "log":
        with capture_logs() as lines:
            yield Case(LoggedDeadLetters(), lambda: len(lines))
    else:
        service: KafkaService = request.getfixturevalue(request.param)
        topic = service.new_topic("letters")
        letters = KafkaDeadLetters(configured(service.address, topic), SilentTelemetry())
        yield Case(letters, lambda: len(consume(service, topic)))
        letters.close()


def consume(service: KafkaService, topic: str) -> list[Message]:
    """Return everything in `topic`, whose partitions are read to their ends."""
    consumer = Consumer(
        {
            "bootstrap.servers": service.address,
            "group.id": "reader",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        },
        logger=quiet_logger(),
    )
    partitions = consumer.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    messages: list[Message] = []
    ended = 0
    deadline = time.monotonic() + DEADLINE_S
    while ended < len(partitions):
        assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
        for message in consumer.consume(500, 0.1):
            if message.error() is None:
                messages.append(message)
            else:
                ended += 1
    consumer.close()
    return messages


def test_what_was_flushed_is_safe(case: Case) -> None:
    """The head may move past a bad record only then."""
    case.letters.send(letter())

    case.letters.flush(DEADLINE_S)

    assert case.safe() == 1


def test_flushing_nothing_is_nothing(case: Case) -> None:
    """Most checkpoints have no dead letters and must not wait for any."""
    began = time.monotonic()

    case.letters.flush(DEADLINE_S)
    case.letters.flush(0.0)

    assert time.monotonic() - began < 1.0


def test_closing_twice_does_no_harm(case: Case) -> None:
    case.letters.close()
    case.letters.close()


# --- in a topic ------------------------------------------------------------------------


@pytest.fixture(params=["mock_kafka", "kafka"])
def service(request: pytest.FixtureRequest) -> KafkaService:
    found: KafkaService = request.getfixturevalue(request.param)
    return found


def test_a_letter_is_the_record_as_it_was_with_connects_headers_after_its_own(service: KafkaService) -> None:
    """What Connect's tools read and replay, ours can be read and replayed with."""
    topic = service.new_topic("letters")
    letters = KafkaDeadLetters(configured(service.address, topic), SilentTelemetry())
    letters.send(letter())
    letters.send(letter(offset=8, value=None))
    letters.flush(DEADLINE_S)
    letters.close()

    first, second = sorted(consume(service, topic), key=lambda message: message.timestamp()[1])

    assert (first.key(), first.value(), first.timestamp()[1]) == (b"k7", b"\xff broken", 1_700_000_007_123)
    assert (second.key(), second.value()) == (b"k8", None)
    assert first.headers() == [
        *HEADERS,
        ("__connect.errors.topic", b"news"),
        ("__connect.errors.partition", b"2"),
        ("__connect.errors.offset", b"7"),
        ("__connect.errors.connector.name", b"streamlearn-news"),
        ("__connect.errors.task.id", b"0"),
        ("__connect.errors.stage", b"decode"),
        ("__connect.errors.class.name", b"streamlearn.ingest"),
        ("__connect.errors.exception.class.name", b"NotUtf8"),
        ("__connect.errors.exception.message", b"byte 0 is not UTF-8: mend"),
        ("__connect.errors.exception.stacktrace", b"NotUtf8: byte 0 is not UTF-8: mend"),
    ]


def test_each_letter_is_counted_when_it_is_safe(service: KafkaService) -> None:
    telemetry = SilentTelemetry()
    letters = KafkaDeadLetters(configured(service.address, service.new_topic("letters")), telemetry)
    for offset in range(300):
        letters.send(letter(offset))

    letters.flush(DEADLINE_S)
    letters.close()

    assert telemetry.counts == {"streamlearn_dead_letters_sent_total": 300}


def test_the_chaos_point_lies_between_sending_and_the_last_acknowledgement(service: KafkaService) -> None:
    """A test can kill the process where letters are sent and no checkpoint knows of them."""
    points: list[str] = []
    config = configured(service.address, service.new_topic("letters"))
    letters = KafkaDeadLetters(config, SilentTelemetry(), fault=points.append)
    letters.send(letter())

    letters.flush(DEADLINE_S)
    letters.close()

    assert points == ["dead_letters:flush"]


def test_a_full_queue_waits_for_room_instead_of_growing(service: KafkaService) -> None:
    """Memory is bounded when bad records come faster than the broker takes them."""
    topic = service.new_topic("letters")
    config = configured(service.address, topic, **{"queue.buffering.max.messages": 10})
    letters = KafkaDeadLetters(config, SilentTelemetry())
    for offset in range(200):
        letters.send(letter(offset))
    letters.flush(DEADLINE_S)
    letters.close()

    assert len(consume(service, topic)) == 200


def test_a_topic_that_does_not_exist_is_refused_by_name(service: KafkaService) -> None:
    """The worker does not wait for ever for a topic that nobody will create."""
    if not service.real:
        pytest.skip(f"{service.name} creates any topic that is written to; Apache Kafka shows it")
    config = configured(service.address, "no-such-letters", **{"topic.metadata.propagation.max.ms": 500})
    letters = KafkaDeadLetters(config, SilentTelemetry())
    letters.send(letter())

    with pytest.raises(SourceRefused, match=r"'no-such-letters' does not exist: create it"):
        letters.flush(DEADLINE_S)
    letters.close()


def test_a_letter_too_large_for_the_topic_leaves_its_value_and_says_so(service: KafkaService) -> None:
    """One record that nobody can store must not stop the stream."""
    if not service.real:
        pytest.skip(f"{service.name} takes records of any size; Apache Kafka shows it")
    topic = service.new_topic("letters", config={"max.message.bytes": "10000"})
    letters = KafkaDeadLetters(configured(service.address, topic), SilentTelemetry())
    letters.send(letter(value=b"x" * 20_000))
    with capture_logs() as lines:
        letters.flush(DEADLINE_S)
    letters.close()

    (kept,) = consume(service, topic)

    assert kept.value() is None
    assert ("streamlearn.value.omitted.bytes", b"20000") in (kept.headers() or [])
    assert [line["bytes"] for line in lines] == [20_000]


def test_letters_wait_for_brokers_that_are_away(kafka: KafkaService) -> None:
    """A flush that fails loses nothing: the checkpoint is tried again, and the letters are there."""
    if not isinstance(kafka, OwnedKafka):
        pytest.skip(f"{kafka.name} is not ours to stop; a broker from KAFKA_HOME shows it")
    topic = kafka.new_topic("letters")
    letters = KafkaDeadLetters(configured(kafka.address, topic), SilentTelemetry())
    kafka.stop()
    try:
        letters.send(letter())
        with pytest.raises(SourceUnavailable, match="1 dead letters are not acknowledged"):
            letters.flush(0.5)
    finally:
        kafka.start()

    letters.flush(DEADLINE_S)
    letters.close()

    assert [message.key() for message in consume(kafka, topic)] == [b"k7"]


def test_closing_does_not_wait_for_brokers_that_never_answer() -> None:
    """A shutdown stays within its grace time."""
    letters = KafkaDeadLetters(configured("127.0.0.1:1", "letters"), SilentTelemetry())
    letters.send(letter())
    closing = threading.Thread(target=letters.close)

    closing.start()
    closing.join(10.0)

    assert not closing.is_alive()


# --- in the log ------------------------------------------------------------------------


def test_the_log_describes_a_kind_of_error_once_in_a_while() -> None:
    """A broken producer fills neither the disk nor the screen, and is still heard."""
    now = [0.0]
    letters = LoggedDeadLetters(monotonic=lambda: now[0])
    with capture_logs() as lines:
        for offset in range(100):
            letters.send(letter(offset))
        now[0] = 10.0
        letters.send(letter(100))

    assert [(line["offset"], line["error"], line["held_back"]) for line in lines] == [
        (0, "NotUtf8", 0),
        (100, "NotUtf8", 99),
    ]
    assert lines[0]["reason"] == "byte 0 is not UTF-8: mend"
