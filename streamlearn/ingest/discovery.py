"""Which partitions there are: topics by exact name or by regular expression.

Asks for metadata and compares; assigns nothing. A topic that is named must
exist, one that a pattern might match may come later.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException

from streamlearn.ingest.kafka_errors import refusal, unavailable
from streamlearn.ports import Clock, SourceRefused

Partition: TypeAlias = tuple[str, int]

UNKNOWN_TOPIC_GRACE_S = 10.0
"""For how long a named topic may be unknown: a feeder that creates it may start together with us, and a topic's
metadata takes a moment to reach every broker."""
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}


class Discovery:
    """Finds the partitions of `kafka.topics`."""

    def __init__(
        self, topics: Sequence[str], *, timeout_s: float, clock: Clock, grace_s: float = UNKNOWN_TOPIC_GRACE_S
    ) -> None:
        self._names = sorted({topic for topic in topics if not topic.startswith("^")})
        self._patterns = [re.compile(topic) for topic in topics if topic.startswith("^")]
        self._timeout_s = timeout_s
        self._clock = clock
        self._grace_s = grace_s
        self._unknown_since: dict[str, float] = {}
        self._seen: set[str] = set()
        self.controlled = False
        """Whether, at the last look, one of the brokers was the controller, which is who can tell ids of topics.
        librdkafka's mock cluster has none."""

    @property
    def complete(self) -> bool:
        """Whether every named topic was there at the last look."""
        return not self._unknown_since

    @property
    def entries(self) -> tuple[str, ...]:
        """What is looked for, as the configuration has it."""
        return (*self._names, *(pattern.pattern for pattern in self._patterns))

    @property
    def wanted(self) -> str:
        """What is looked for, in words."""
        return ", ".join(self.entries)

    def find(self, consumer: Consumer) -> set[Partition]:
        """Return every partition there is now.

        Raises:
            SourceUnavailable: the brokers do not answer.
            SourceRefused: a named topic does not exist or is not ours to read.
        """
        try:
            found = {partition for name in self._names for partition in self._named(consumer, name)}
            return found | self._matching(consumer) if self._patterns else found
        except KafkaException as error:
            if (refused := refusal(error.args[0])) is not None:
                raise refused from None
            raise unavailable("asking for topics", error.args[0]) from None

    def names(self, topic: str) -> bool:
        """Whether `topic` is asked for by name, so that it must exist."""
        return topic in self._names

    def meant_by(self, topic: str, entries: Container[str]) -> bool:
        """Whether one of those of `entries` that we look for means `topic`."""
        return (topic in self._names and topic in entries) or any(
            pattern.pattern in entries and self._matches(pattern, topic) for pattern in self._patterns
        )

    def _named(self, consumer: Consumer, name: str) -> set[Partition]:
        # By name and not in the list of all: the list leaves out what we may
        # not read, and the reason with it.
        topic = self._listed(consumer, name)[name]
        if topic.error is not None and (refused := refusal(topic.error, topic=name)) is not None:
            raise refused
        if topic.error is not None and topic.error.code() in _UNKNOWN:
            self._miss(name)
        else:
            self._unknown_since.pop(name, None)
            self._seen.add(name)
        return {(name, partition) for partition in topic.partitions}

    def _miss(self, name: str) -> None:
        since = self._unknown_since.setdefault(name, self._clock.monotonic())
        if self._clock.monotonic() - since < self._grace_s:
            return
        if name in self._seen:
            raise SourceRefused(
                f"topic {name!r} is gone: it was deleted while it was read, and has not come back within "
                f"{self._grace_s:g} s; create it again (kafka.on_lost_data then decides how to go on), or take it out "
                "of kafka.topics"
            )
        raise SourceRefused(
            f"topic {name!r} does not exist on the brokers: create it (kafka-topics.sh --create --topic {name}), "
            "or correct kafka.topics"
        )

    def _matching(self, consumer: Consumer) -> set[Partition]:
        topics = self._listed(consumer)
        return {
            (name, partition)
            for name, topic in topics.items()
            if any(self._matches(pattern, name) for pattern in self._patterns)
            for partition in topic.partitions
        }

    def _listed(self, consumer: Consumer, name: str | None = None) -> Mapping[str, Any]:
        by_name = consumer.list_topics(name, timeout=self._timeout_s) if name is not None else None
        metadata: Any = by_name or consumer.list_topics(timeout=self._timeout_s)
        self.controlled = metadata.controller_id in metadata.brokers
        topics: Mapping[str, Any] = metadata.topics
        return topics

    @staticmethod
    def _matches(pattern: re.Pattern[str], name: str) -> bool:
        # Kafka's own topics (__consumer_offsets) are no text, unless asked for.
        internal = name.startswith("__") and not pattern.pattern.startswith("^__")
        return not internal and pattern.match(name) is not None
