"""How far reading is behind the brokers, measured now and then, told at once.

Counts from what the learner has taken: what is fetched but not taken is behind
too. Asks no more often than it is told to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from streamlearn.core.events import Progress, Record


class Lag:
    """Records behind the high-water mark, by partition; `told` is safe from any thread."""

    def __init__(self) -> None:
        self._behind: Mapping[tuple[str, int], int] = {}

    def measure(self, marks: Progress, positions: Progress, pending: Iterable[Record]) -> None:
        """Take a new look.

        Args:
            marks: high-water mark of every partition.
            positions: next offset to be read, of records that are `pending` or were passed on already.
            pending: what was read and not passed on.
        """
        held = Counter((record.topic, record.partition) for record in pending)
        self._behind = {
            (topic, partition): max(mark - positions.get(topic, {}).get(partition, mark), 0) + held[topic, partition]
            for topic, offsets in marks.items()
            for partition, mark in offsets.items()
        }

    def told(self, waiting: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """Return the lag of every partition as of the last look; `waiting` were passed on and not taken."""
        return {partition: count + waiting.get(partition, 0) for partition, count in self._behind.items()}
