"""Whether a topic is still the one that our offsets belong to.

Keeps the id under which each partition is read, and vouches for what was
fetched: an answer that came after the fetch says whose records they are. What
happens to a topic that is another is `assignment.py`'s. For one thread, but
for `saw_ends`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import structlog

from streamlearn.ingest.discovery import Partition
from streamlearn.ingest.limited import Limited
from streamlearn.ingest.topic_ids import TopicIds
from streamlearn.ports import Clock, SourceUnavailable

_log = structlog.get_logger(__name__)

_VOUCH_S = 0.25
"""Between two questions to the brokers while records flow; so long may a record wait."""
_VOUCH_AGAIN_S = 1.0
"""The same while the answer is not the one we want."""


class KnownTopics:
    """The id of every partition's topic."""

    def __init__(self, topic_ids: TopicIds, *, clock: Clock) -> None:
        self._topic_ids = topic_ids
        self._clock = clock
        self._limited = Limited(every_s=30.0, monotonic=clock.monotonic)
        self._ends: dict[Partition, int] = {}
        self._seen_ends: Mapping[Partition, int] = {}
        self._ask_at = float("-inf")
        self._doubted = False
        self._proven: set[Partition] = set()
        self.ids: dict[Partition, str] = {}
        """Id of the topic that a partition's next offset belongs to, where the brokers have told it."""

    def begin(self, ids: Mapping[Partition, str]) -> None:
        """Go on under the ids of a checkpoint."""
        self.ids, self._proven = dict(ids), set(ids)

    def prove(self, place: Partition) -> None:
        """Our offset is one of the topic whose id we have: something was read there."""
        self._proven.add(place)

    @property
    def doubted(self) -> bool:
        """Whether the last answer was another, or none."""
        return self._doubted

    @property
    def ask_in_s(self) -> float:
        """Seconds until `vouch` will ask again."""
        return max(self._ask_at - self._clock.monotonic(), 0.0)

    def vouch(self, places: Iterable[Partition], *, hurry: bool = False) -> bool:
        """Whether everything fetched of `places` before this call came from the topics that we know.

        True where brokers give topics no ids, as nobody can tell then. What
        cannot be vouched for now may be later, or its topic is gone.

        Args:
            places: partitions that are read.
            hurry: do not wait for the time at which the brokers may be asked again.
        """
        known = {place: was for place in places if (was := self.ids.get(place))}
        if not known:
            return True
        if self.ask_in_s > 0.0 and (self._doubted or not hurry):
            return False
        seen_ends = self._seen_ends
        try:
            told = self._topic_ids.now({topic for topic, _ in known})
            self._doubted = any(told.get(topic) not in {was, ""} for (topic, _), was in known.items())
        except SourceUnavailable as error:
            self._doubted = True
            self._say("topics cannot be told apart; what was fetched waits for the brokers", error)
        if not self._doubted:
            self._ends |= seen_ends
        self._ask_at = self._clock.monotonic() + (_VOUCH_AGAIN_S if self._doubted else _VOUCH_S)
        return not self._doubted

    def told_of(self, places: Collection[Partition], *, controlled: bool) -> dict[str, str]:
        """Return the id of each topic now; nothing where brokers do not tell, and have never told us.

        Args:
            places: partitions of the topics.
            controlled: there is a controller to ask.

        Raises:
            SourceUnavailable: no answer, and we have ids to compare with.
            SourceRefused: a topic is not ours to describe.
        """
        needed = any(self.ids.get(place) for place in places)
        if not needed and not controlled:
            return {}
        try:
            return self._topic_ids.now({topic for topic, _ in places})
        except SourceUnavailable as error:
            if needed:
                raise
            self._say("topics have no ids for now; one that is made anew could not be told", error)
            return {}

    def is_another(self, place: Partition, told: Mapping[str, str]) -> bool:
        """Whether the topic is there and is not the one that our offset belongs to."""
        now, was = told.get(place[0]), self.ids.get(place)
        return bool(now and was) and now != was

    def is_same(self, place: Partition, told: Mapping[str, str]) -> bool:
        """Whether the topic is there and is known to be the one that our offset belongs to."""
        now, was = told.get(place[0]), self.ids.get(place)
        return place in self._proven and bool(now and was) and now == was

    def adopt(self, places: Iterable[Partition], told: Mapping[str, str]) -> None:
        """Note the ids of partitions that we began to read without knowing them."""
        for place in places:
            if (now := told.get(place[0])) and not self.ids.get(place):
                self.ids[place] = now

    def renew(self, place: Partition, told: Mapping[str, str]) -> int | None:
        """The partition is one of another topic from here on; return the last end seen in the one before."""
        self.ids[place] = told[place[0]]
        self._proven.discard(place)
        return self._ends.pop(place, None)

    def saw_ends(self, ends: Mapping[Partition, int]) -> None:
        """Remember where logs end, to count what goes with a topic; they count once vouched for."""
        self._seen_ends = ends

    def _say(self, what: str, error: SourceUnavailable) -> None:
        if (held_back := self._limited.due(what)) is not None:
            _log.warning(what, reason=str(error), held_back=held_back)
