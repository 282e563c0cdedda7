"""Where a partition begins and ends, and where reading of it begins.

Asks the brokers for offsets, many partitions in one request; decides the first
offset from progress and `kafka.start`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

from streamlearn.core.events import Progress
from streamlearn.ingest.discovery import Partition
from streamlearn.ingest.kafka_errors import refusal, unavailable


def log_starts(consumer: Consumer, partitions: Iterable[Partition], *, timeout_s: float) -> dict[Partition, int]:
    """Return the first offset that each log still holds; raises as `_look_up`."""
    return _look_up(consumer, dict.fromkeys(partitions, OFFSET_BEGINNING), timeout_s)


def log_ends(consumer: Consumer, partitions: Iterable[Partition], *, timeout_s: float) -> dict[Partition, int]:
    """Return the offset after the last that may be read: open transactions end a log for us; raises as `_look_up`."""
    return _look_up(consumer, dict.fromkeys(partitions, OFFSET_END), timeout_s)


def first_offsets(
    consumer: Consumer,
    partitions: Iterable[Partition],
    *,
    progress: Progress,
    start: Literal["earliest", "latest"] | datetime,
    late: Container[str],
    timeout_s: float,
) -> dict[Partition, int]:
    """Return where to begin each of `partitions`.

    A partition in `progress` goes on from there. One of a topic that came to
    be after we had looked for it (`late`), or of a topic of `progress` and not
    in it itself, begins at its beginning whatever `start` says: its first
    events were written after the lineage began, and would be lost otherwise.
    All others follow `start`; a time after the last record means the end.

    Raises:
        SourceUnavailable, SourceRefused: see `_look_up`.
    """
    known = {(topic, partition): offset for topic, offsets in progress.items() for partition, offset in offsets.items()}
    chosen: dict[Partition, int] = {}
    by_beginning, by_start = [], []
    for partition in partitions:
        if partition in known:
            chosen[partition] = known[partition]
        elif partition[0] in late or partition[0] in progress:
            by_beginning.append(partition)
        else:
            by_start.append(partition)
    if start == "earliest":
        by_beginning += by_start
    elif start == "latest":
        chosen |= log_ends(consumer, by_start, timeout_s=timeout_s)
    else:
        chosen |= _at_time(consumer, by_start, start, timeout_s)
    return chosen | log_starts(consumer, by_beginning, timeout_s=timeout_s)


def _at_time(consumer: Consumer, partitions: list[Partition], time: datetime, timeout_s: float) -> dict[Partition, int]:
    # A time without a zone is UTC, like every event time.
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    milliseconds = max(int(aware.timestamp() * 1000), 0)
    found = _look_up(consumer, dict.fromkeys(partitions, milliseconds), timeout_s)
    after_the_last = [partition for partition, offset in found.items() if offset < 0]
    return found | log_ends(consumer, after_the_last, timeout_s=timeout_s)


def _look_up(consumer: Consumer, asked: Mapping[Partition, int], timeout_s: float) -> dict[Partition, int]:
    """Return the offset of each time stamp (or OFFSET_BEGINNING, OFFSET_END), -1 where there is none.

    Raises:
        SourceUnavailable: the brokers do not answer within `timeout_s`.
        SourceRefused: a topic is not ours to read.
    """
    if not asked:
        return {}
    partitions = [TopicPartition(topic, partition, when) for (topic, partition), when in asked.items()]
    try:
        answers = consumer.offsets_for_times(partitions, timeout=timeout_s)
    except KafkaException as error:
        if (refused := refusal(error.args[0])) is not None:
            raise refused from None
        raise unavailable("asking for offsets", error.args[0]) from None
    for answer in answers:
        if answer.error is not None:
            if (refused := refusal(answer.error, topic=answer.topic)) is not None:
                raise refused
            raise unavailable(f"asking for offsets of {answer.topic} partition {answer.partition}", answer.error)
    return {(answer.topic, answer.partition): answer.offset for answer in answers}
