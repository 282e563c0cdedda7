"""Kafka as `Records`: every partition by hand, offsets from our own progress.

No consumer group decides what is read, so that no rebalance can split a
lineage; the group only mirrors progress. Outages are waited out. Calls are for
the ingest thread, but for `watermarks`, `mirror` and `close`, which any thread
may make. Which partitions are read is `assignment.py`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

import structlog
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException, Message, TopicPartition

from streamlearn.config import Config
from streamlearn.core.events import Progress, Record
from streamlearn.ingest.assignment import ASK_S, Assignment
from streamlearn.ingest.discovery import UNKNOWN_TOPIC_GRACE_S, Discovery
from streamlearn.ingest.kafka_client import open_consumer
from streamlearn.ingest.kafka_errors import name_of, refusal
from streamlearn.ingest.kafka_stats import KafkaStatistics
from streamlearn.ingest.limited import Limited
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ingest.offsets import log_ends
from streamlearn.ports import Clock, SourceRefused, Telemetry

_log = structlog.get_logger(__name__)

_BATCH = 500
"""Records that one poll returns at most."""
_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}

_Headers = tuple[tuple[str, bytes | None], ...]


class KafkaRecords:
    """All partitions of `kafka.topics`, from progress or `kafka.start`.

    Partitions found after the first assignment begin at their beginning,
    whatever `kafka.start` says: what was produced between their creation and
    their discovery would be lost otherwise.
    """

    def __init__(
        self,
        config: Config,
        lost: LostOffsets,
        telemetry: Telemetry,
        clock: Clock,
        *,
        unknown_topic_grace_s: float = UNKNOWN_TOPIC_GRACE_S,
    ) -> None:
        self._telemetry = telemetry
        self._limited = Limited(every_s=30.0, monotonic=clock.monotonic)
        self._refused: SourceRefused | None = None
        self._closed = False
        self._closing = threading.Lock()
        self._consumer = open_consumer(
            config,
            on_error=self._on_error,
            on_commit=self._on_commit,
            on_statistics=KafkaStatistics(telemetry),
            monotonic=clock.monotonic,
        )
        self._assignment = Assignment(
            self._consumer,
            Discovery(config.kafka.topics, timeout_s=ASK_S, clock=clock, grace_s=unknown_topic_grace_s),
            lost,
            start=config.kafka.start,
            interval_s=config.kafka.discovery_interval_s,
            telemetry=telemetry,
            clock=clock,
        )

    # --- reading --------------------------------------------------------------------

    def assign(self, progress: Progress) -> None:
        """Take every partition there is; those that cannot be had yet are taken by a later `poll`.

        Raises:
            SourceRefused: a named topic does not exist or is not ours to read.
        """
        self._assignment.begin(progress)
        self._assignment.keep()

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Return the next records, up to 500; see `Records.poll`.

        May take some seconds longer than `timeout_s` while the brokers do not answer.
        """
        self._assignment.keep()
        messages: list[Message] = []
        if (first := self._consumer.poll(timeout_s)) is not None:
            messages = [first, *self._consumer.consume(_BATCH - 1, 0)]
        records = [record for message in messages if (record := self._record(message)) is not None]
        if self._refused is not None:
            raise self._refused
        return records

    def pause(self) -> None:
        """Stop fetching; what was fetched ahead is dropped and fetched again after `resume`."""
        self._assignment.pause()

    def resume(self) -> None:
        """Fetch again."""
        self._assignment.resume()

    def positions(self) -> Progress:
        """Return the next offset to be read of every assigned partition."""
        return {topic: dict(offsets) for topic, offsets in self._assignment.next.items()}

    # --- from any thread --------------------------------------------------------------

    def watermarks(self) -> Progress:
        """Return the offset after the last readable record of every assigned partition.

        Raises:
            SourceUnavailable: the brokers do not answer within some seconds.
        """
        with self._closing:
            if self._closed:
                return {}
            ends: Progress = {}
            found = log_ends(self._consumer, self._assignment.partitions(), timeout_s=ASK_S)
            for (topic, partition), offset in found.items():
                ends.setdefault(topic, {})[partition] = offset
            return ends

    def mirror(self, progress: Progress) -> None:
        """Show `progress` as the group's commit: sent at once, acknowledged or logged later."""
        offsets = [TopicPartition(t, p, offset) for t, inner in progress.items() for p, offset in inner.items()]
        with self._closing:
            if self._closed or not offsets:
                return
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:
                self._on_commit(error.args[0], [])

    def close(self) -> None:
        """Leave the brokers; idempotent. Commits under way are still sent."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._consumer.close()

    # --- messages and errors -----------------------------------------------------------

    def _record(self, message: Message) -> Record | None:
        if (error := message.error()) is not None:
            self._on_message_error(message, error)
            return None
        topic, partition, offset = _place(message)
        self._assignment.next[topic][partition] = offset + 1
        kind, milliseconds = message.timestamp()
        return Record(
            topic=topic,
            partition=partition,
            offset=offset,
            key=message.key(),
            value=message.value(),
            timestamp=0.0 if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds / 1000.0,
            headers=_headers(message),
        )

    def _on_message_error(self, message: Message, error: KafkaError) -> None:
        code = error.code()
        ours = self._assignment.has(message.topic(), message.partition())
        if code == KafkaError._PARTITION_EOF and ours:
            topic, partition, offset = _place(message)
            # Markers of transactions and compacted records at the end are passed too.
            self._assignment.next[topic][partition] = max(self._assignment.next[topic][partition], offset)
        elif code in _OUT_OF_RANGE and ours:
            topic, partition, _ = _place(message)
            self._assignment.strand(topic, partition)
        elif code in _GONE:
            self._assignment.look_now()  # whether it is gone for good, the next look says
        else:
            self._on_error(error, topic=message.topic())

    def _on_error(self, error: KafkaError, topic: str | None = None) -> None:
        """Count and say what librdkafka reports; remember what waiting does not mend."""
        self._telemetry.count("streamlearn_kafka_errors_total", code=name_of(error))
        refused = refusal(error, topic=topic)
        if refused is None and error.code() == KafkaError._SSL and not self._assignment.next:
            refused = SourceRefused(
                f"no secure channel to the brokers ({error.str()}): check security.protocol and ssl.ca.location under "
                "[kafka.client]"
            )
        if refused is not None:
            self._refused = self._refused or refused
        elif (held_back := self._limited.due(name_of(error))) is not None:
            _log.warning("kafka error; going on", code=name_of(error), reason=error.str(), held_back=held_back)

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        errors = [error, *(partition.error for partition in partitions)]
        for code, reason in sorted({(name_of(e), e.str()) for e in errors if e is not None}):
            self._telemetry.count("streamlearn_kafka_errors_total", code=code)
            if (held_back := self._limited.due(f"commit {code}")) is not None:
                _log.warning("progress was not mirrored to the group", code=code, reason=reason, held_back=held_back)


def _place(message: Message) -> tuple[str, int, int]:
    """Return topic, partition and offset, which librdkafka knows of every record and of every partition's end."""
    return cast("tuple[str, int, int]", (message.topic(), message.partition(), message.offset()))


def _headers(message: Message) -> _Headers:
    try:
        return cast("_Headers", tuple(message.headers() or ()))
    except UnicodeDecodeError:
        return ()  # a name that is not UTF-8 breaks the protocol; the record's own text may still be fine
