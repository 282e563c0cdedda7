"""Every record is in the topic, or counted as not."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from streamlearn.ingest.probe import Contact
from streamlearn.ingest.produce import Outgoing, TopicWriter, await_topic, open_writer, retention_s
from streamlearn.ports import SourceRefused, SourceUnavailable
from tests.unit.ingest_tools.conftest import messages


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


class FakeProducer:
    """Answers `errors` in order for what it is given, then success; full while `room` is 0."""

    def __init__(self, errors: Sequence[int] = (), room: int = 100) -> None:
        self.errors = list(errors)
        self.room = room
        self.waiting: list[Any] = []

    def produce(self, _topic: str, _value: bytes, _key: bytes | None, *, on_delivery: Any, **_: Any) -> None:
        if not self.room:
            raise BufferError
        self.room -= 1
        self.waiting.append(on_delivery)

    def poll(self, timeout: float = 0.0) -> int:
        for answer in self.waiting:
            code = self.errors.pop(0) if self.errors else None
            answer(None if code is None else KafkaError(code), None)
        self.waiting = []
        return 0

    def flush(self, timeout: float = 0.0) -> int:
        return self.poll()

    def __len__(self) -> int:
        return len(self.waiting)


def writer_on(client: FakeProducer) -> TopicWriter:
    return TopicWriter(client, Contact("b:1"), "t")  # type: ignore[arg-type]


def record(line: int) -> Outgoing:
    return Outgoing(line=line, value=b"%d" % line)


def test_records_arrive_in_order_with_key_and_event_time(broker: str, topic: str) -> None:
    writer = open_writer(Contact(broker), topic, partition=2)
    sent = [Outgoing(line=n, value=b"v%d" % n, key=b"k%d" % n, ts=1_140_652_800.25 + n) for n in range(300)]
    for outgoing in sent:
        assert writer.send(outgoing)
    writer.flush()
    assert (writer.tally.records, writer.tally.acknowledged, writer.tally.waiting) == (300, 300, 0)
    assert writer.tally.bytes == sum(len(outgoing.value) for outgoing in sent)
    arrived = messages(broker, topic, 2, 300)
    assert [(m.value(), m.key(), m.timestamp()[1]) for m in arrived] == [
        (outgoing.value, outgoing.key, outgoing.timestamp_ms) for outgoing in sent
    ]


def test_an_event_time_before_kafkas_own_is_left_to_kafka() -> None:
    assert Outgoing(line=1, value=b"", ts=-5.0).timestamp_ms == 0
    assert Outgoing(line=1, value=b"").timestamp_ms == 0
    assert Outgoing(line=1, value=b"", ts=1.5).timestamp_ms == 1500


def test_a_record_that_is_too_large_is_counted_and_the_next_ones_go_on(broker: str, topic: str) -> None:
    writer = open_writer(Contact(broker), topic)
    for line, value in enumerate([b"a", b"x" * 2_000_000, b"b"], start=1):
        assert writer.send(Outgoing(line=line, value=value))
    writer.flush()
    assert (writer.tally.records, writer.tally.acknowledged, writer.tally.failed) == (3, 2, 1)
    assert writer.tally.first_failure.startswith("line 2: ")
    assert "max.message.bytes" in writer.tally.first_failure


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (KafkaError._MSG_TIMED_OUT, SourceUnavailable, "acknowledged a record for 60 s"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, SourceRefused, "no permission for topic 't'"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, SourceRefused, "takes no records"),
    ],
)
def test_a_failure_that_would_repeat_itself_stops_the_writing(code: int, kind: type[Exception], words: str) -> None:
    """A whole file is not thrown at brokers that are gone."""
    writer = writer_on(FakeProducer([code]))
    with pytest.raises(kind, match=words):
        writer.send(record(1))
    assert (writer.tally.records, writer.tally.failed) == (1, 1)


def test_a_flush_does_not_wait_for_what_will_not_come() -> None:
    client = FakeProducer([KafkaError._MSG_TIMED_OUT])
    writer = writer_on(client)
    client.produce("t", b"", None, on_delivery=partial(writer._delivered, 1))
    with pytest.raises(SourceUnavailable):
        writer.flush()


def test_a_record_that_the_brokers_refuse_by_itself_stops_nothing() -> None:
    writer = writer_on(FakeProducer([KafkaError.INVALID_TIMESTAMP]))
    assert writer.send(record(1))
    assert writer.send(record(2))
    assert (writer.tally.acknowledged, writer.tally.failed) == (1, 1)
    assert "--no-ts" in writer.tally.first_failure


def test_a_record_that_finds_no_room_is_not_counted_as_sent() -> None:
    """The caller offers it again, and memory stays bounded meanwhile."""
    client = FakeProducer(room=1)
    writer = writer_on(client)
    assert writer.send(record(1))
    assert not writer.send(record(2))
    assert writer.tally.records == 1
    client.room = 1
    assert writer.send(record(2))
    assert writer.tally.acknowledged == 2


def test_brokers_out_of_reach_are_named_with_the_mend() -> None:
    contact = Contact("127.0.0.1:1", named="--bootstrap-servers")
    with pytest.raises(
        SourceUnavailable, match=r"127\.0\.0\.1:1 answers within 0\.6 s \(.*refused\); mend --bootstrap-servers"
    ):
        open_writer(contact, "t", timeout_s=0.6)


def test_a_partition_that_is_not_there_is_refused_before_anything_is_sent(broker: str, topic: str) -> None:
    with pytest.raises(SourceRefused, match="has no partition 9; it has 4"):
        open_writer(Contact(broker), topic, partition=9)


def test_a_property_that_is_none_is_the_users_to_mend() -> None:
    with pytest.raises(ValueError, match=r"\[kafka.client\]: No such configuration property"):
        open_writer(Contact("b:1", client={"fetch.mon.bytes": 1}), "t")


class FakeCluster:
    """Metadata of one topic: `unknown` answers that there is none, then that there is."""

    def __init__(self, unknown: float) -> None:
        self.unknown = unknown

    def list_topics(self, topic: str, timeout: float) -> Any:
        self.unknown -= 1
        error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if self.unknown >= 0 else None
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error, partitions={} if error else {0: None})})

    def poll(self, timeout: float = 0.0) -> int:
        return 0


def test_a_topic_that_brokers_are_creating_is_waited_for() -> None:
    cluster = FakeCluster(unknown=5)
    await_topic(cluster, Contact("b:1"), "t", partition=None, timeout_s=1.0)
    assert cluster.unknown < 0


def test_a_topic_that_nobody_creates_is_an_error_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlearn.ingest.produce._CREATED_S", 0.1)
    with pytest.raises(SourceRefused, match=r"there is no topic t.*create it, mend the name, or set auto\.create"):
        await_topic(FakeCluster(unknown=math.inf), Contact("b:1"), "t", partition=None, timeout_s=1.0)


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({"cleanup.policy": "delete", "retention.ms": "604800000"}, 604_800.0),
        ({"cleanup.policy": "compact,delete", "retention.ms": "1000"}, 1.0),
        ({"cleanup.policy": "compact", "retention.ms": "1000"}, math.inf),
        ({"cleanup.policy": "delete", "retention.ms": "-1"}, math.inf),
        ({"retention.ms": "1000", "message.timestamp.type": "LogAppendTime"}, math.inf),
    ],
)
def test_what_a_topic_deletes_by_the_records_own_time(settings: dict[str, str], seconds: float) -> None:
    assert retention_s(settings) == seconds
