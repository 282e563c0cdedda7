"""Which partitions are read, from which offset on.

Takes partitions as they are discovered, leaves those that are gone, and asks
`lost_data.py` where to go on when the broker does not know our next offset.
Reads no records. For one thread, but for `partitions`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import structlog
from confluent_kafka import Consumer, TopicPartition

from streamlearn.core.events import Progress
from streamlearn.ingest.discovery import Discovery, Partition
from streamlearn.ingest.limited import Limited
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ingest.offsets import first_offsets, log_ends, log_starts
from streamlearn.ports import Clock, SourceUnavailable, Telemetry

_log = structlog.get_logger(__name__)

ASK_S = 5.0
"""Patience with one question to the brokers; for so long a stop may go unnoticed during an outage."""
_LOOK_AGAIN_S = 1.0
"""Between looks for topics while there is nothing to read, or something is missing."""


class Assignment:
    """The partitions of one consumer, assigned by hand."""

    def __init__(
        self,
        consumer: Consumer,
        discovery: Discovery,
        lost: LostOffsets,
        *,
        start: Literal["earliest", "latest"] | datetime,
        interval_s: float,
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        self._consumer = consumer
        self._discovery = discovery
        self._lost = lost
        self._start: Literal["earliest", "latest"] | datetime = start
        self._interval_s = interval_s
        self._telemetry = telemetry
        self._clock = clock
        self._limited = Limited(every_s=30.0, monotonic=clock.monotonic)
        self._progress: Progress = {}
        self._stranded: set[Partition] = set()
        self._paused = False
        self._look_at = float("-inf")
        self.next: Progress = {}
        """Next offset to be read of every partition; whoever reads records moves it."""

    def begin(self, progress: Progress) -> None:
        """Forget nothing of `progress`; partitions are taken at the next `keep`."""
        self._progress = {topic: dict(offsets) for topic, offsets in progress.items()}

    def keep(self) -> None:
        """Look for partitions when it is time, and go on where offsets were lost.

        Raises:
            SourceRefused: a named topic does not exist or is not ours to read.
            LostData: by `kafka.on_lost_data`.
        """
        if self._clock.monotonic() >= self._look_at:
            self._discover()
        if self._stranded:
            self._rescue()

    def look_now(self) -> None:
        """Look for partitions at the next `keep`: something has changed."""
        self._look_at = float("-inf")

    def strand(self, topic: str, partition: int) -> None:
        """The broker does not know our next offset; decided at the next `keep`."""
        self._stranded.add((topic, partition))

    def has(self, topic: str | None, partition: int | None) -> bool:
        """Whether the partition is ours."""
        return topic is not None and partition in self.next.get(topic, {})

    def partitions(self) -> list[Partition]:
        """Return every partition; safe from any thread."""
        return [(topic, partition) for topic, offsets in list(self.next.items()) for partition in list(offsets)]

    def pause(self) -> None:
        """Stop fetching, also of partitions taken later."""
        # Which partitions are paused cannot be asked of librdkafka: all or none.
        self._paused = True
        self._consumer.pause(_named(self.partitions()))

    def resume(self) -> None:
        """Fetch again."""
        self._paused = False
        self._consumer.resume(_named(self.partitions()))

    def _discover(self) -> None:
        found: set[Partition] | None = None
        try:
            found = self._discovery.find(self._consumer)
            ours = set(self.partitions())
            self._take(found - ours)
            self._leave(ours - found)
        except SourceUnavailable as error:
            self._say("topics cannot be listed; waiting for the brokers", reason=str(error))
        if found is not None and not self.next:
            self._say("no partition to read yet; looking again", reason=f"looking for {self._discovery.wanted}")
        settled = bool(found) and self._discovery.complete
        self._look_at = self._clock.monotonic() + (self._interval_s if settled else _LOOK_AGAIN_S)

    def _take(self, new: set[Partition]) -> None:
        if not new:
            return
        first = first_offsets(
            self._consumer,
            sorted(new),
            progress=self._progress,
            start=self._start,
            late=bool(self.next),
            timeout_s=ASK_S,
        )
        for (topic, partition), offset in first.items():
            self.next.setdefault(topic, {})[partition] = offset
        self._fetch(first)
        self._telemetry.gauge("streamlearn_partitions", len(self.partitions()))
        _log.info("reading", partitions=len(first), topics=sorted({topic for topic, _ in first}))

    def _leave(self, gone: set[Partition]) -> None:
        """Leave partitions of topics that only a pattern asked for; a named topic is given time to come back."""
        gone = {partition for partition in gone if not self._discovery.names(partition[0])}
        if not gone:
            return
        self._consumer.incremental_unassign(_named(gone))
        for topic, partition in gone:
            # Should it only have been hidden for a moment, it goes on from here.
            self._progress.setdefault(topic, {})[partition] = self.next[topic].pop(partition)
        self._stranded -= gone
        self._telemetry.gauge("streamlearn_partitions", len(self.partitions()))
        _log.warning("partitions are gone", partitions=len(gone), topics=sorted({topic for topic, _ in gone}))

    def _rescue(self) -> None:
        stranded = sorted(self._stranded)
        try:
            low = log_starts(self._consumer, stranded, timeout_s=ASK_S)
            high = log_ends(self._consumer, stranded, timeout_s=ASK_S)
        except SourceUnavailable as error:
            self._say("the ends of partitions cannot be asked for; waiting for the brokers", reason=str(error))
            return
        for place in stranded:
            topic, partition = place
            ours = self.next[topic][partition]
            self.next[topic][partition] = self._lost.resume_at(
                topic, partition, ours=ours, low=low[place], high=high[place]
            )
        # A partition without a valid offset cannot be sought in: it is taken anew.
        self._consumer.incremental_unassign(_named(stranded))
        self._fetch(stranded)
        self._stranded.clear()

    def _fetch(self, partitions: Iterable[Partition]) -> None:
        placed = [TopicPartition(topic, partition, self.next[topic][partition]) for topic, partition in partitions]
        self._consumer.incremental_assign(placed)
        if self._paused:
            self._consumer.pause(placed)

    def _say(self, what: str, *, reason: str) -> None:
        if (held_back := self._limited.due(what)) is not None:
            _log.warning(what, reason=reason, held_back=held_back)


def _named(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for topic, partition in partitions]
