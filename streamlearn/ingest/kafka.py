"""Kafka as `Records`: every partition by hand, offsets from our own progress.

No consumer group decides what is read, so that no rebalance can split a
lineage; the group only mirrors progress. Outages are waited out. Calls are for
the ingest thread, but for `watermarks`, `mirror` and `close`, which any thread
may make. Which partitions are read is `assignment.py`'s.

What was fetched is handed on when the brokers have vouched, after the fetch,
for the topics' ids: a topic that was deleted and created again would else be
read in silence from the middle, where the old one ended for us.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import cast

import structlog
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException, Message, TopicPartition

from streamlearn.config import Config
from streamlearn.core.events import Progress, Record
from streamlearn.core.manifest import Origin
from streamlearn.ingest.assignment import ASK_S, Assignment
from streamlearn.ingest.discovery import UNKNOWN_TOPIC_GRACE_S, Discovery, Partition
from streamlearn.ingest.kafka_client import open_consumer
from streamlearn.ingest.kafka_errors import name_of, refusal
from streamlearn.ingest.kafka_stats import KafkaStatistics
from streamlearn.ingest.known_topics import KnownTopics
from streamlearn.ingest.limited import Limited
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ingest.offsets import log_ends
from streamlearn.ingest.topic_ids import TopicIds
from streamlearn.ports import Clock, SourceRefused, Telemetry

_log = structlog.get_logger(__name__)

_BATCH = 500
"""Records that one poll returns at most."""
_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_OUT_OF_RANGE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
_CLOSE_S = 5.0
"""Longest wait for the mirror's last commit; only lag tools would miss it."""
_HELD = 2_000
"""Messages that wait to be vouched for, above which nobody waits for the next time to ask."""
_HELD_BYTES = 4 * 2**20
"""Bytes of the same."""

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
        self._to_mirror: deque[Progress] = deque(maxlen=1)
        self._held: list[Message] = []
        self._held_bytes = 0
        self._consumer = open_consumer(
            config,
            on_error=self._on_error,
            on_commit=self._on_commit,
            on_statistics=KafkaStatistics(telemetry),
            monotonic=clock.monotonic,
        )
        self._known = KnownTopics(TopicIds(config, timeout_s=ASK_S, clock=clock), clock=clock)
        self._assignment = Assignment(
            self._consumer,
            Discovery(config.kafka.topics, timeout_s=ASK_S, clock=clock, grace_s=unknown_topic_grace_s),
            lost,
            self._known,
            start=config.kafka.start,
            interval_s=config.kafka.discovery_interval_s,
            telemetry=telemetry,
            clock=clock,
            on_left=self._forget,
        )

    # --- reading --------------------------------------------------------------------

    def assign(self, progress: Progress, origin: Origin) -> None:
        """Take every partition there is; those that cannot be had yet are taken by a later `poll`.

        Raises:
            SourceRefused: a named topic does not exist or is not ours to read.
        """
        self._assignment.begin(progress, origin)
        self._assignment.keep()

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Return the next records, up to some thousands; see `Records.poll`.

        May take some seconds longer than `timeout_s` while the brokers do not answer.
        """
        self._assignment.keep()
        self._send_mirror()
        if self._held:
            timeout_s = min(timeout_s, self._known.ask_in_s)
        if not self._full:
            self._fetch(timeout_s)
        records = [record for message in self._vouched() if (record := self._record(message)) is not None]
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
        """Return the next offset to be read of every assigned partition; what waits to be vouched for is not read."""
        return {topic: dict(offsets) for topic, offsets in self._assignment.next.items()}

    def origin(self) -> Origin:
        """Return what `positions` are offsets of, as far as the brokers tell."""
        return self._assignment.origin()

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
            self._known.saw_ends(found)
            return ends

    def mirror(self, progress: Progress) -> None:
        """Show `progress` as the group's commit: sent by the thread that polls, acknowledged or logged later."""
        # The client serves one call at a time, and a thread that polls without pause hardly lets another in: a
        # checkpoint waited 1.5 s for this (measured), and with checkpoints by count the learner waited for it.
        self._to_mirror.append(progress)

    def close(self) -> None:
        """Leave the brokers; idempotent. Commits under way are still sent, but not waited for long."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        # Aside, as brokers that are away hold up a commit, and with it the end of the process, for a minute.
        aside = threading.Thread(target=self._leave, name="kafka-close", daemon=True)
        aside.start()
        aside.join(_CLOSE_S)

    def _leave(self) -> None:
        self._send_mirror()
        self._consumer.close()

    def _send_mirror(self) -> None:
        """Commit what `mirror` was last given, if that was not done yet."""
        if not self._to_mirror:
            return
        progress = self._to_mirror.popleft()
        offsets = [TopicPartition(t, p, offset) for t, inner in progress.items() for p, offset in inner.items()]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], [])

    # --- fetching ----------------------------------------------------------------------

    @property
    def _full(self) -> bool:
        return len(self._held) >= _HELD or self._held_bytes >= _HELD_BYTES

    def _fetch(self, timeout_s: float) -> None:
        if (first := self._consumer.poll(timeout_s)) is not None:
            fetched = [first, *self._consumer.consume(_BATCH - 1, 0)]
            self._held += fetched
            self._held_bytes += sum(len(message) for message in fetched)

    def _vouched(self) -> list[Message]:
        """Return what was fetched, if it is known whose it is."""
        # While paused nothing comes, not even what was fetched before.
        if not self._held or self._assignment.paused or not self._assignment.vouch(hurry=self._full):
            return []
        messages, self._held, self._held_bytes = self._held, [], 0
        return messages

    def _forget(self, left: set[Partition]) -> None:
        """Drop what was fetched of partitions that are left: they go on, if ever, from before it."""
        self._held = [message for message in self._held if (message.topic(), message.partition()) not in left]
        self._held_bytes = sum(len(message) for message in self._held)

    # --- messages and errors -----------------------------------------------------------

    def _record(self, message: Message) -> Record | None:
        if (error := message.error()) is not None:
            self._on_message_error(message, error)
            return None
        topic, partition, offset = _place(message)
        self._assignment.next[topic][partition] = offset + 1
        self._known.prove((topic, partition))
        kind, milliseconds = message.timestamp()
        return Record(
            topic=topic,
            partition=partition,
            offset=offset,
            key=message.key(),
            value=message.value(),
            timestamp=0.0 if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds / 1000.0,
            headers=_headers(message),
            topic_id=self._known.ids.get((topic, partition), ""),
        )

    def _on_message_error(self, message: Message, error: KafkaError) -> None:
        code = error.code()
        ours = self._assignment.has(message.topic(), message.partition())
        if code == KafkaError._PARTITION_EOF and ours:
            topic, partition, offset = _place(message)
            # Markers of transactions and compacted records at the end are passed too.
            self._assignment.next[topic][partition] = max(self._assignment.next[topic][partition], offset)
            self._known.prove((topic, partition))
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
