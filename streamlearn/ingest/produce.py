"""Writing into a topic: in order, once, and with every record accounted for.

Decides which failures concern one record and which concern all that follow.
What is written, and how fast, is the caller's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from streamlearn.ingest.kafka_errors import refusal
from streamlearn.ingest.probe import REACH_S, Contact, bad_property, words
from streamlearn.ports import SourceRefused, SourceUnavailable

_SLICE_S = 0.2
"""One wait inside librdkafka, which no signal interrupts."""
_CREATED_S = 5.0
"""Within this a topic that the first question has brokers create is there."""
_GIVE_UP_S = 60.0
"""Seconds after which a record that no broker has acknowledged counts as not delivered."""
_ANY = -1
"""Partition by key, or by turns."""
_QUEUE_RECORDS, _QUEUE_KB = 10_000, 32 * 1024
"""Bounds on what waits for the brokers in memory."""

_OF_ONE_RECORD = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.INVALID_RECORD,
    KafkaError._INVALID_DIFFERENT_RECORD,
}
"""Refusals of a record or its batch; the next ones may pass. Every other failure would repeat itself."""

_MENDS = {
    KafkaError.MSG_SIZE_TOO_LARGE: "; raise max.message.bytes of the topic, and message.max.bytes in [kafka.client]",
    KafkaError.INVALID_TIMESTAMP: "; see message.timestamp.after.max.ms of the topic, or send with --no-ts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A record to be written."""

    line: int
    """Where it comes from, counted from 1."""
    value: bytes
    key: bytes | None = None
    ts: float | None = None
    """Event time, seconds since 1970; the time of writing unless given."""

    @property
    def timestamp_ms(self) -> int:
        """Kafka's time stamp; 0 lets Kafka take its own, and it has none before 1970."""
        return max(round(self.ts * 1000.0), 0) if self.ts is not None else 0


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the records so far."""

    records: int = 0
    bytes: int = 0
    """Of their values."""
    acknowledged: int = 0
    failed: int = 0
    first_failure: str = ""
    """In words, with its line and the mend."""

    @property
    def waiting(self) -> int:
        """Records that no broker has answered for yet."""
        return self.records - self.acknowledged - self.failed


class TopicWriter:
    """Writes to one topic with an idempotent producer: a retry neither repeats nor reorders."""

    def __init__(self, client: Producer, contact: Contact, topic: str, partition: int | None = None) -> None:
        self._client = client
        self._contact = contact
        self._topic = topic
        self._partition = _ANY if partition is None else partition
        self._fatal: KafkaError | None = None
        self.tally = Tally()

    def send(self, record: Outgoing) -> bool:
        """Hand a record over; False when no room came up for it within a moment, and it was not.

        Raises:
            SourceUnavailable, SourceRefused: an earlier record failed in a way that this one would too.
        """
        try:
            self._client.produce(
                self._topic,
                record.value,
                record.key,
                partition=self._partition,
                on_delivery=partial(self._delivered, record.line),
                timestamp=record.timestamp_ms,
            )
        except BufferError:
            self.serve(_SLICE_S)
            return False
        except KafkaException as error:
            self._note(record.line, error.args[0])
        self.tally.records += 1
        self.tally.bytes += len(record.value)
        self.serve(0.0)
        return True

    def serve(self, seconds: float) -> None:
        """Take in what the brokers have answered, waiting for an answer at most so long.

        Raises:
            SourceUnavailable, SourceRefused: see `send`.
        """
        self._client.poll(min(seconds, _SLICE_S))
        self._contact.check()
        if self._fatal is not None:
            raise self._meaning(self._fatal)

    def flush(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Return when every record is answered for, or given up; `on_wait` is called now and then.

        Raises:
            SourceUnavailable, SourceRefused: see `send`.
        """
        deadline = time.monotonic() + _GIVE_UP_S + REACH_S
        while len(self._client) and time.monotonic() < deadline:
            self._client.flush(_SLICE_S)
            self.serve(0.0)
            on_wait()

    def _delivered(self, line: int, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.tally.acknowledged += 1
        else:
            self._note(line, error)

    def _note(self, line: int, error: KafkaError) -> None:
        self.tally.failed += 1
        if not self.tally.first_failure:
            self.tally.first_failure = f"line {line}: {words(error)}{_MENDS.get(error.code(), '')}"
        if error.code() not in _OF_ONE_RECORD and self._fatal is None:
            self._fatal = error

    def _meaning(self, error: KafkaError) -> SourceUnavailable | SourceRefused:
        if error.code() in {KafkaError._MSG_TIMED_OUT, KafkaError._TRANSPORT, KafkaError.REQUEST_TIMED_OUT}:
            return SourceUnavailable(f"no broker has acknowledged a record for {_GIVE_UP_S:g} s; see that they run")
        refused = refusal(error, topic=self._topic)
        return refused or SourceRefused(
            f"topic {self._topic} takes no records ({words(error)}); check it on the brokers"
        )


def open_writer(
    contact: Contact, topic: str, *, partition: int | None = None, timeout_s: float = REACH_S
) -> TopicWriter:
    """Connect, see that the topic is there (or let the brokers create it), and return its writer.

    Raises:
        SourceUnavailable: no broker answers within `timeout_s`.
        SourceRefused: one does, and there is no such topic or partition, or it refuses us.
        ValueError: librdkafka refuses a property.
    """
    try:
        client = Producer(
            contact.properties(
                enable_idempotence=True,
                message_timeout_ms=int(_GIVE_UP_S * 1000),
                queue_buffering_max_messages=_QUEUE_RECORDS,
                queue_buffering_max_kbytes=_QUEUE_KB,
            )
        )
    except KafkaException as error:
        raise bad_property(contact, error) from None
    await_topic(client, contact, topic, partition=partition, timeout_s=timeout_s)
    return TopicWriter(client, contact, topic, partition)


def await_topic(client: Any, contact: Contact, topic: str, *, partition: int | None, timeout_s: float) -> None:
    """Return when the topic can be written to; a topic just created takes a moment.

    Raises:
        SourceUnavailable, SourceRefused: see `open_writer`.
    """
    contact.metadata(client, topic, timeout_s=timeout_s)
    began = time.monotonic()
    while True:
        found = contact.metadata(client, topic, timeout_s=timeout_s).topics[topic]
        if found.error is None and found.partitions:
            break
        code = found.error.code() if found.error is not None else KafkaError.LEADER_NOT_AVAILABLE
        if code not in {KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART}:
            raise SourceRefused(
                f"topic {topic} cannot be written to ({words(found.error)}); mend its name or our rights"
            )
        if time.monotonic() - began >= _CREATED_S:
            raise SourceRefused(
                f"there is no topic {topic}, and the brokers create none; create it, mend the name, or set "
                "auto.create.topics.enable on the brokers"
            )
        client.poll(_SLICE_S)
    if partition is not None and partition not in found.partitions:
        raise SourceRefused(f"topic {topic} has no partition {partition}; it has {len(found.partitions)}, from 0")


class Retention:
    """How long a topic keeps records by their own time stamps; asked in the background."""

    def __init__(self, contact: Contact, topic: str) -> None:
        self._resource = ConfigResource(ResourceType.TOPIC, topic)
        # Of its own: what goes wrong with a question that need not be answered must not stop the writing.
        self._client = AdminClient(Contact(contact.servers, client=contact.client).properties())
        self._answer: Future[Any] = self._client.describe_configs([self._resource], request_timeout=REACH_S)[
            self._resource
        ]

    def seconds(self, wait_s: float = 0.0) -> float | None:
        """Return seconds, infinite where time stamps delete nothing; None while that is not known."""
        with suppress(KafkaException, TimeoutError):
            return retention_s({name: entry.value for name, entry in self._answer.result(wait_s).items()})
        return None


def retention_s(settings: Mapping[str, str]) -> float:
    """Return after how many seconds of age by its own time stamp a record is deleted.

    >>> retention_s({"cleanup.policy": "delete", "retention.ms": "604800000"})
    604800.0
    """
    kept_ms = int(settings.get("retention.ms", -1))
    by_own_time = settings.get("message.timestamp.type") != "LogAppendTime"
    deletes = "delete" in settings.get("cleanup.policy", "delete")
    return kept_ms / 1000.0 if deletes and by_own_time and kept_ms >= 0 else math.inf
