"""Which partitions are read, from which offset on.

Takes partitions as they are discovered, leaves those that are gone, asks
`lost_data.py` where to go on when the broker does not know our next offset or
the topic is another. Reads no records. For one thread, but for `partitions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Literal

import structlog
from confluent_kafka import Consumer, TopicPartition

from streamlearn.core.events import Progress
from streamlearn.core.manifest import Origin
from streamlearn.ingest.discovery import Discovery, Partition
from streamlearn.ingest.known_topics import KnownTopics
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
        known: KnownTopics,
        *,
        start: Literal["earliest", "latest"] | datetime,
        interval_s: float,
        telemetry: Telemetry,
        clock: Clock,
        on_left: Callable[[set[Partition]], None],
    ) -> None:
        self._consumer = consumer
        self._discovery = discovery
        self._lost = lost
        self._known = known
        self._start: Literal["earliest", "latest"] | datetime = start
        self._interval_s = interval_s
        self._telemetry = telemetry
        self._clock = clock
        self._on_left = on_left
        self._limited = Limited(every_s=30.0, monotonic=clock.monotonic)
        self._progress: Progress = {}
        self._entries: tuple[str, ...] = ()
        self._stranded: set[Partition] = set()
        self._look_at = float("-inf")
        self.paused = False
        self.next: Progress = {}
        """Next offset to be read of every partition; whoever reads records moves it."""

    def begin(self, progress: Progress, origin: Origin) -> None:
        """Forget nothing of `progress` and its `origin`; partitions are taken at the next `keep`."""
        self._progress = {topic: dict(offsets) for topic, offsets in progress.items()}
        self._entries = origin.entries
        self._known.begin(
            {(topic, place): told for topic, ids in origin.topic_ids.items() for place, told in ids.items()}
        )

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

    def vouch(self, *, hurry: bool = False) -> bool:
        """Whether everything fetched before this call came from the topics that we know; see `KnownTopics.vouch`."""
        if self._known.vouch(self.partitions(), hurry=hurry):
            return True
        if self._known.doubted:
            self.look_now()  # whether it is gone or another, the next look says
        return False

    def origin(self) -> Origin:
        """Return what the offsets of every partition are offsets of, and what was looked for."""
        topic_ids: dict[str, dict[int, str]] = {}
        for (topic, partition), told in self._known.ids.items():
            topic_ids.setdefault(topic, {})[partition] = told
        return Origin(topic_ids=topic_ids, entries=self._entries)

    def has(self, topic: str | None, partition: int | None) -> bool:
        """Whether the partition is ours."""
        return topic is not None and partition in self.next.get(topic, {})

    def partitions(self) -> list[Partition]:
        """Return every partition; safe from any thread."""
        return [(topic, partition) for topic, offsets in list(self.next.items()) for partition in list(offsets)]

    def pause(self) -> None:
        """Stop fetching, also of partitions taken later."""
        # Which partitions are paused cannot be asked of librdkafka: all or none.
        self.paused = True
        self._consumer.pause(_named(self.partitions()))

    def resume(self) -> None:
        """Fetch again."""
        self.paused = False
        self._consumer.resume(_named(self.partitions()))

    # --- which partitions -------------------------------------------------------------

    def _discover(self) -> None:
        found: set[Partition] | None = None
        try:
            found = self._discovery.find(self._consumer)
            told = self._known.told_of(found, controlled=self._discovery.controlled)
            others = {place for place in found if self._known.is_another(place, told)}
            if others:
                self._renew(others, told)
            self._leave(set(self.partitions()) - found, told)
            self._take(found - set(self.partitions()))
            self._known.adopt(self.partitions(), told)
            self._entries = self._discovery.entries
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
            late={topic for topic, _ in new if self._discovery.meant_by(topic, self._entries)},
            timeout_s=ASK_S,
        )
        for (topic, partition), offset in first.items():
            self.next.setdefault(topic, {})[partition] = offset
        self._fetch(first)
        self._telemetry.gauge("streamlearn_partitions", len(self.partitions()))
        _log.info("reading", partitions=len(first), topics=sorted({topic for topic, _ in first}))

    def _leave(self, gone: set[Partition], told: Mapping[str, str]) -> None:
        """Leave partitions that a topic made anew no longer has, or of topics that only a pattern asked for.

        A named topic is given time to come back.
        """
        gone = {place for place in gone if self._known.is_another(place, told) or not self._discovery.names(place[0])}
        if gone:
            self._drop(gone)
            self._telemetry.gauge("streamlearn_partitions", len(self.partitions()))
            _log.warning("partitions are gone", partitions=len(gone), topics=sorted({topic for topic, _ in gone}))

    def _renew(self, others: set[Partition], told: Mapping[str, str]) -> None:
        """Let `kafka.on_lost_data` decide on partitions of topics that were made anew; they are taken as if new."""
        low = log_starts(self._consumer, others, timeout_s=ASK_S)
        self._drop({place for place in others if self.has(*place)})
        for topic, partition in sorted(others):
            place, offsets = (topic, partition), self._progress.setdefault(topic, {})
            end = self._known.renew(place, told)
            if (ours := offsets.get(partition)) is not None:
                offsets[partition] = self._lost.made_anew(topic, partition, ours=ours, low=low[place], end=end)

    def _drop(self, places: set[Partition]) -> None:
        """Read `places` no more; should they only have been hidden for a moment, they go on from where they are."""
        self._consumer.incremental_unassign(_named(places))
        for topic, partition in places:
            self._progress.setdefault(topic, {})[partition] = self.next[topic].pop(partition)
        self._stranded -= places
        self._on_left(places)

    def _fetch(self, partitions: Iterable[Partition]) -> None:
        placed = [TopicPartition(topic, partition, self.next[topic][partition]) for topic, partition in partitions]
        self._consumer.incremental_assign(placed)
        if self.paused:
            self._consumer.pause(placed)

    # --- which offsets --------------------------------------------------------------------

    def _rescue(self) -> None:
        stranded = sorted(self._stranded)
        try:
            told = self._known.told_of(stranded, controlled=self._discovery.controlled)
            if any(self._known.is_another(place, told) for place in stranded):
                self.look_now()
                return
            low = log_starts(self._consumer, stranded, timeout_s=ASK_S)
            high = log_ends(self._consumer, stranded, timeout_s=ASK_S)
        except SourceUnavailable as error:
            self._say("the ends of partitions cannot be asked for; waiting for the brokers", reason=str(error))
            return
        for place in stranded:
            topic, partition = place
            self.next[topic][partition] = self._lost.resume_at(
                topic,
                partition,
                ours=self.next[topic][partition],
                low=low[place],
                high=high[place],
                same=self._known.is_same(place, told),
            )
        # A partition without a valid offset cannot be sought in: it is taken anew.
        self._consumer.incremental_unassign(_named(stranded))
        self._fetch(stranded)
        self._stranded.clear()

    def _say(self, what: str, *, reason: str) -> None:
        if (held_back := self._limited.due(what)) is not None:
            _log.warning(what, reason=reason, held_back=held_back)


def _named(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for topic, partition in partitions]
