"""Arrivals between the ingest thread and the learner, bounded in records and bytes.

One thread puts, another takes. Whether fetching pauses is `intake.py`'s; this
module knows how full it is.
"""

from __future__ import annotations

import threading
from collections import deque

from streamlearn.core.events import Arrival

_LOW = 0.5
"""Share of either bound below which there is plenty of room; half, so that pausing and resuming are rare."""
_ARRIVAL_BYTES = 700
"""What an arrival takes beside its arrays and its record."""
_CHUNK_BYTES = 400
"""What a chunk takes beside the numbers in its arrays."""


class Buffer:
    """A queue with two water marks."""

    def __init__(self, *, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._items: deque[tuple[Arrival, int, str]] = deque()
        self._bytes = 0
        self._waiting: dict[tuple[str, int], int] = {}
        self._taken: dict[tuple[str, int], int] = {}
        self._topic_ids: dict[tuple[str, int], str] = {}
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._closed = False

    @property
    def records(self) -> int:
        """How many arrivals wait."""
        return len(self._items)

    @property
    def bytes(self) -> int:
        """About how much memory they take."""
        return self._bytes

    @property
    def full(self) -> bool:
        """At or above a bound: nothing more should be put."""
        return len(self._items) >= self._max_records or self._bytes >= self._max_bytes

    @property
    def low(self) -> bool:
        """Below half of both bounds, or empty."""
        return not self._items or (len(self._items) < self._max_records * _LOW and self._bytes < self._max_bytes * _LOW)

    def waiting(self) -> dict[tuple[str, int], int]:
        """Return (topic, partition) -> arrivals that wait, where there are any."""
        with self._lock:
            return {partition: count for partition, count in self._waiting.items() if count}

    def passed(self, topic: str, partition: int, end: int, *, reached: int) -> bool:
        """Whether everything below `end` of a partition has been taken.

        Args:
            topic: of the partition.
            partition: of the topic.
            end: an offset.
            reached: next offset to be put, which counts gaps at the end that no arrival shows.
        """
        key = (topic, partition)
        with self._lock:
            return self._taken.get(key, -1) >= end or (reached >= end and not self._waiting.get(key))

    def taken(self) -> tuple[dict[tuple[str, int], int], set[tuple[str, int]]]:
        """Return (topic, partition) -> offset after the last arrival taken, and where arrivals wait; of one moment."""
        with self._lock:
            return dict(self._taken), {partition for partition, count in self._waiting.items() if count}

    def topic_ids(self) -> dict[tuple[str, int], str]:
        """Return (topic, partition) -> id of the topic that the last arrival taken came from, where it has one."""
        with self._lock:
            return dict(self._topic_ids)

    def put(self, arrival: Arrival, topic_id: str = "") -> None:
        """Append `arrival`, however full; the caller looks at `full` first.

        Args:
            arrival: what `take` will return.
            topic_id: of the topic that it came from.
        """
        size = size_of(arrival)
        partition = (arrival.topic, arrival.partition)
        with self._lock:
            self._items.append((arrival, size, topic_id))
            self._bytes += size
            self._waiting[partition] = self._waiting.get(partition, 0) + 1
            self._filled.notify()

    def take(self, timeout_s: float) -> Arrival | None:
        """Return the next arrival, or None after `timeout_s` or when closed and empty."""
        with self._lock:
            if not self._items and not self._filled.wait_for(self._has_items_or_closed, timeout_s):
                return None
            if not self._items:
                return None
            arrival, size, topic_id = self._items.popleft()
            self._bytes -= size
            partition = (arrival.topic, arrival.partition)
            self._waiting[partition] -= 1
            self._taken[partition] = arrival.offset + 1
            if topic_id:
                self._topic_ids[partition] = topic_id
            self._drained.notify()
            return arrival

    def wait_not_full(self, timeout_s: float) -> bool:
        """Return whether there is room, after at most `timeout_s`."""
        with self._lock:
            return self._drained.wait_for(lambda: self._closed or not self.full, timeout_s)

    def wait_low(self, timeout_s: float) -> bool:
        """Return whether there is plenty of room, after at most `timeout_s`."""
        with self._lock:
            return self._drained.wait_for(lambda: self._closed or self.low, timeout_s)

    def close(self) -> None:
        """Wake everybody: nothing more will be put. What is there can still be taken."""
        with self._lock:
            self._closed = True
            self._filled.notify_all()
            self._drained.notify_all()

    def _has_items_or_closed(self) -> bool:
        return bool(self._items) or self._closed


def size_of(arrival: Arrival) -> int:
    """Return about how many bytes of memory `arrival` holds."""
    size = _ARRIVAL_BYTES + sum(_CHUNK_BYTES + chunk.ids.nbytes + chunk.scored.nbytes for chunk in arrival.chunks)
    if (record := arrival.record) is not None:
        size += len(record.value or b"") + len(record.key or b"")
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
    return size
