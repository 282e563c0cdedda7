"""Kafka in memory: logs with offsets, gaps and retention, and `Records` that read them."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from streamlearn.core.events import Progress, Record
from streamlearn.core.manifest import Origin
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ports import SourceRefused, SourceUnavailable


@dataclass
class MemoryLog:
    """One partition: what is not in `records` between `start` and `end` is a gap."""

    start: int = 0
    end: int = 0
    records: list[Record] = field(default_factory=list)


class MemoryCluster:
    """Topics in this process; any number of `MemoryRecords` may read them."""

    def __init__(self) -> None:
        self.topics: dict[str, list[MemoryLog]] = {}
        self.ids: dict[str, str] = {}
        self.committed: Progress = {}
        self.available = True
        self.changed = threading.Condition()

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        """Create `topic`, or give it more partitions."""
        with self.changed:
            if topic not in self.topics:
                self.ids[topic] = uuid.uuid4().hex
            logs = self.topics.setdefault(topic, [])
            logs.extend(MemoryLog() for _ in range(partitions - len(logs)))
            self.changed.notify_all()

    def append(
        self,
        topic: str,
        value: bytes | None,
        *,
        partition: int = 0,
        key: bytes | None = None,
        timestamp: float = 0.0,
        headers: tuple[tuple[str, bytes | None], ...] = (),
    ) -> None:
        """Write one record."""
        with self.changed:
            log = self.topics[topic][partition]
            log.records.append(
                Record(
                    topic=topic,
                    partition=partition,
                    offset=log.end,
                    key=key,
                    value=value,
                    timestamp=timestamp,
                    headers=headers,
                    topic_id=self.ids[topic],
                )
            )
            log.end += 1
            self.changed.notify_all()

    def mark(self, topic: str, partition: int = 0) -> None:
        """Use up an offset without a record, as the end of a transaction does."""
        with self.changed:
            self.topics[topic][partition].end += 1

    def delete_topic(self, topic: str) -> None:
        """Remove a topic; one that is created again under its name is another."""
        with self.changed:
            del self.topics[topic], self.ids[topic]

    def forget(self, topic: str, partition: int, before: int) -> None:
        """Remove records as retention does."""
        with self.changed:
            log = self.topics[topic][partition]
            log.start = before
            log.records = [record for record in log.records if record.offset >= before]


class MemoryRecords:
    """`Records` over a `MemoryCluster`; looks for partitions at every poll."""

    def __init__(
        self,
        cluster: MemoryCluster,
        topics: Sequence[str],
        *,
        start: str | datetime = "earliest",
        lost: LostOffsets | None = None,
    ) -> None:
        self._cluster = cluster
        self._topics = topics
        self._start = start
        self._lost = lost or LostOffsets("fail")
        self._progress: Progress = {}
        self._ids: dict[tuple[str, int], str] = {}
        self._entries: tuple[str, ...] = ()
        self._ends: dict[tuple[str, int], int] = {}
        self._next: Progress = {}
        self.paused = False
        self.closed = False

    def assign(self, progress: Progress, origin: Origin) -> None:
        self._progress = {topic: dict(offsets) for topic, offsets in progress.items()}
        self._ids = {(topic, place): told for topic, ids in origin.topic_ids.items() for place, told in ids.items()}
        self._entries = origin.entries
        self._discover()

    def poll(self, timeout_s: float) -> Sequence[Record]:
        if self._cluster.available:
            self._discover()
        with self._cluster.changed:
            self._cluster.changed.wait_for(self._has_more, timeout_s)
            return self._read()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def watermarks(self) -> Progress:
        if not self._cluster.available:
            raise SourceUnavailable("the cluster of the test is away")
        return {t: {p: self._cluster.topics[t][p].end for p in inner} for t, inner in self._next.items()}

    def positions(self) -> Progress:
        return {topic: dict(offsets) for topic, offsets in self._next.items()}

    def origin(self) -> Origin:
        topic_ids: dict[str, dict[int, str]] = {}
        for (topic, partition), told in self._ids.items():
            topic_ids.setdefault(topic, {})[partition] = told
        return Origin(topic_ids=topic_ids, entries=self._entries)

    def mirror(self, progress: Progress) -> None:
        self._cluster.committed |= progress

    def close(self) -> None:
        self.closed = True

    def _discover(self) -> None:
        for topic in self._topics:
            if not topic.startswith("^") and topic not in self._cluster.topics:
                raise SourceRefused(f"topic {topic!r} does not exist")
        for topic, logs in list(self._cluster.topics.items()):
            if self._meant(topic, self._topics):
                for partition, log in enumerate(logs):
                    self._renew(topic, partition, log)
                    if partition not in self._next.get(topic, {}):
                        self._next.setdefault(topic, {})[partition] = self._first(topic, partition, log)
                    self._ends[topic, partition] = log.end
        self._entries = tuple(self._topics)

    @staticmethod
    def _meant(topic: str, entries: Sequence[str]) -> bool:
        return any(re.match(entry, topic) if entry.startswith("^") else entry == topic for entry in entries)

    def _renew(self, topic: str, partition: int, log: MemoryLog) -> None:
        place, told = (topic, partition), self._cluster.ids[topic]
        if self._ids.setdefault(place, told) != told:
            self._ids[place] = told
            offsets = self._progress.setdefault(topic, {})
            if (ours := self._next.get(topic, {}).pop(partition, offsets.get(partition))) is not None:
                offsets[partition] = self._lost.made_anew(
                    topic, partition, ours=ours, low=log.start, end=self._ends.get(place)
                )

    def _first(self, topic: str, partition: int, log: MemoryLog) -> int:
        if (ours := self._progress.get(topic, {}).get(partition)) is not None:
            return ours
        if self._start == "earliest" or topic in self._progress or self._meant(topic, self._entries):
            return log.start
        if self._start == "latest":
            return log.end
        assert isinstance(self._start, datetime)
        since = self._start.timestamp()
        return next((record.offset for record in log.records if record.timestamp >= since), log.end)

    def _has_more(self) -> bool:
        return not self.paused and any(
            offset != self._cluster.topics[topic][partition].end
            for topic, offsets in self._next.items()
            for partition, offset in offsets.items()
        )

    def _read(self) -> list[Record]:
        if self.paused or not self._cluster.available:
            return []
        records: list[Record] = []
        for topic, offsets in self._next.items():
            for partition, ours in list(offsets.items()):
                log = self._cluster.topics[topic][partition]
                if not log.start <= ours <= log.end:
                    offsets[partition] = self._lost.resume_at(topic, partition, ours=ours, low=log.start, high=log.end)
                records.extend(record for record in log.records if record.offset >= offsets[partition])
                offsets[partition] = log.end
        return records
