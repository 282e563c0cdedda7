"""What happens when offsets that we have not read are gone from the broker.

`kafka.on_lost_data` decides: stop with both offsets named, or remember how many
there were until the next record of that partition tells. Knows no client.
"""

from __future__ import annotations

from typing import Literal

import structlog

from streamlearn.ports import LostData

_log = structlog.get_logger(__name__)

_ELSE = "or begin a new lineage (stream.name)"


class LostOffsets:
    """The policy, and the losses that no arrival has reported yet. For one thread."""

    def __init__(self, policy: Literal["fail", "skip"]) -> None:
        self._policy = policy
        self._untold: dict[tuple[str, int], tuple[int, int]] = {}
        """(topic, partition) -> how many were lost, and where reading goes on behind them."""

    def resume_at(self, topic: str, partition: int, *, ours: int, low: int, high: int, same: bool = False) -> int:
        """Return where to go on when the broker does not know our next offset.

        Args:
            topic: where it happened.
            partition: of that topic.
            ours: our next offset.
            low: first offset that the log still holds.
            high: offset that will be written next.
            same: the topic is known to be the one we have read; else it may have been made anew.

        Raises:
            LostData: the policy is to stop; names both offsets and the ways out.
        """
        where = f"{topic} partition {partition}: our next offset is {ours}"
        if low <= ours <= high:
            return ours  # it came back: a new leader had not caught up
        if ours < low:
            self._decide(
                f"{where}, but the log begins at {low}: {low - ours} offsets were removed by retention before they "
                "were read",
                f"count them as lost and go on at {low}, {_ELSE}; a longer retention of the topic prevents it",
            )
            self._lose(topic, partition, low - ours, ours=ours, next_offset=low)
            return low
        if same:
            self._decide(
                f"{where}, but the log ends at {high}: the brokers have lost its end (an unclean election of a leader)",
                f"go on at {high}, {_ELSE}; more replicas and acks=all prevent it",
            )
            return high
        self._decide(
            f"{where}, but the log ends at {high}: the topic was deleted and created again, or its end was lost",
            f"read it from its first offset, {low}, {_ELSE}",
        )
        # What the log before this one held beyond our offset, nobody knows.
        self._lose(topic, partition, low, ours=ours, next_offset=low)
        return low

    def made_anew(self, topic: str, partition: int, *, ours: int, low: int, end: int | None) -> int:
        """Return where to begin in a topic that bears the name of the one we have read and is another.

        Args:
            topic: the name.
            partition: of that topic.
            ours: our next offset in the topic that is gone.
            low: first offset of the new log.
            end: next offset to be written as last seen in the topic that is gone; None where nobody has looked.

        Raises:
            LostData: the policy is to stop; names both offsets and the ways out.
        """
        unread = max(end - ours, 0) if end is not None else None
        known = "an unknown number of" if unread is None else f"at least {unread}"
        self._decide(
            f"{topic} partition {partition}: the topic was deleted and created again (its id has changed): our next "
            f"offset {ours} is one of the old log, the new one begins at {low}, and {known} offsets of the old one "
            "went unread",
            f"read the new topic from its first offset, {low}, {_ELSE}",
        )
        self._lose(topic, partition, (unread or 0) + low, ours=ours, next_offset=low)
        return low

    def untold(self, topic: str, partition: int) -> bool:
        """Whether offsets of the partition were lost that no record has told of yet."""
        return self._untold.get((topic, partition), (0, 0))[0] > 0

    def before(self, topic: str, partition: int, offset: int) -> int:
        """Return how many offsets just before `offset` were lost; each is told once."""
        count, next_offset = self._untold.get((topic, partition), (0, 0))
        if count == 0 or offset < next_offset:
            return 0
        del self._untold[topic, partition]
        return count

    def _decide(self, trouble: str, mend: str) -> None:
        if self._policy == "fail":
            raise LostData(f'{trouble}. Set kafka.on_lost_data = "skip" to {mend}')
        _log.error("DATA IS LOST; going on as kafka.on_lost_data says", what=trouble)

    def _lose(self, topic: str, partition: int, count: int, *, ours: int, next_offset: int) -> None:
        earlier, reached = self._untold.get((topic, partition), (0, ours))
        # Untold losses end where reading went on; what was read since then has told them.
        self._untold[topic, partition] = (count + (earlier if reached == ours else 0), next_offset)
