"""What happens when offsets that we have not read are gone from the broker.

`kafka.on_lost_data` decides: stop with both offsets named, or remember how many
there were until the next record of that partition tells. Knows no client.
"""

from __future__ import annotations

from typing import Literal

import structlog

from streamlearn.core.events import Gap
from streamlearn.ports import LostData

_log = structlog.get_logger(__name__)


class LostOffsets:
    """The policy, and the gaps that no arrival has reported yet. For one thread."""

    def __init__(self, policy: Literal["fail", "skip"]) -> None:
        self._policy = policy
        self._gaps: dict[tuple[str, int], Gap] = {}

    def resume_at(self, topic: str, partition: int, *, ours: int, low: int, high: int) -> int:
        """Return where to go on when the broker does not know our next offset.

        Args:
            topic: where it happened.
            partition: of that topic.
            ours: our next offset.
            low: first offset that the log still holds.
            high: offset that will be written next.

        Raises:
            LostData: the policy is to stop; names both offsets and the ways out.
        """
        if low <= ours <= high:
            return ours  # it came back: a new leader had not caught up
        where = f"{topic} partition {partition}"
        if ours > high:
            trouble = (
                f"{where}: our next offset is {ours}, but the log ends at {high}: the topic was deleted and created "
                "again, or its end was lost"
            )
            mend = f"read it from its first offset, {low}"
        else:
            trouble = (
                f"{where}: our next offset is {ours}, but the log begins at {low}: {low - ours} offsets were removed "
                "by retention before they were read"
            )
            mend = f"count them as lost and go on at {low}"
        if self._policy == "fail":
            raise LostData(
                f'{trouble}. Set kafka.on_lost_data = "skip" to {mend}, or begin a new lineage (stream.name); '
                "a longer retention of the topic prevents it"
            )
        _log.warning("data is lost", topic=topic, partition=partition, ours=ours, log_start=low, log_end=high)
        if ours < low:
            earlier = self._gaps.get((topic, partition))
            first = earlier.first if earlier is not None and earlier.next == ours else ours
            self._gaps[topic, partition] = Gap(topic=topic, partition=partition, first=first, next=low)
        return low

    def before(self, topic: str, partition: int, offset: int) -> int:
        """Return how many offsets just before `offset` were lost; each is told once."""
        gap = self._gaps.get((topic, partition))
        if gap is None or offset < gap.next:
            return 0
        del self._gaps[topic, partition]
        return gap.next - gap.first
