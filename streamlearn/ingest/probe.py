"""Are the brokers there, and what do they hold? Asks, and changes nothing.

Also how a client of ours words its failure to reach a cluster: librdkafka
says why in a callback, and in the exception only that.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType  # type: ignore[attr-defined]

from streamlearn.config import Kafka
from streamlearn.config_secrets import is_secret_key, mask_text
from streamlearn.ingest.kafka_client import without
from streamlearn.ingest.kafka_errors import refusal
from streamlearn.ports import Fatal, SourceRefused, SourceUnavailable

REACH_S = 10.0
"""Seconds in which brokers that can be reached have answered, name look-up and TLS handshake included."""

_SLICE_S = 2.0
"""One wait inside librdkafka, which no signal interrupts."""
_ASK_S = 3.0
"""For what is good to know and not granted to everyone."""
_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_CIRCUMSTANCE = re.compile(r"^\S+/(?:bootstrap|\d+): |\s*\(after \d+ms in state [^)]*\)|^Failed to create \w+: ")

_quiet = logging.getLogger("streamlearn.ingest.probe.librdkafka")


class Client(Protocol):
    """What a producer and an admin client have in common."""

    def list_topics(self, topic: str | None = ..., timeout: float = ...) -> Any:
        """Return the cluster's metadata."""

    def poll(self, timeout: float = ...) -> Any:
        """Serve callbacks."""


@dataclass(frozen=True, slots=True)
class Contact:
    """How to reach a cluster, and what went wrong on the way."""

    servers: str
    """`host:port`, comma-separated."""
    named: str = "kafka.bootstrap_servers"
    """What the user mends when they are wrong."""
    client: Mapping[str, Any] = field(default_factory=dict)
    """librdkafka's properties."""
    heard: deque[KafkaError] = field(default_factory=lambda: deque(maxlen=50))

    def properties(self, **ours: Any) -> dict[str, Any]:
        """Return a client's configuration; `ours`, with `_` for `.`, win over the user's."""
        # Its log would repeat on the terminal, hundreds of times, what the callback says.
        _quiet.disabled = True
        return {
            **self.client,
            **{name.replace("_", "."): value for name, value in ours.items()},
            "bootstrap.servers": self.servers,
            "error_cb": self.heard.append,
            "logger": _quiet,
        }

    def metadata(self, client: Client, topic: str | None = None, *, timeout_s: float = REACH_S) -> Any:
        """Return the metadata of one topic or of all, asking until a broker answers.

        Raises:
            SourceUnavailable: none did within `timeout_s`.
            SourceRefused: one did, and will not talk to us.
        """
        deadline = time.monotonic() + timeout_s
        while (remaining := deadline - time.monotonic()) > 0:
            try:
                return client.list_topics(topic, timeout=min(_SLICE_S, remaining))
            except KafkaException:
                client.poll(0)
                self.check()
        raise SourceUnavailable(
            f"no broker at {mask_text(self.servers)} answers within {timeout_s:g} s ({self._reason()}); "
            f"mend {self.named} or security.protocol in [kafka.client], or start the broker"
        )

    def check(self) -> None:
        """Raise SourceRefused when what was heard cannot be waited out."""
        for error in self.heard:
            if (refused := refusal(error)) is not None:
                raise refused
            if error.code() == KafkaError._SSL:
                raise SourceRefused(
                    f"no TLS with {mask_text(self.servers)} ({words(error)}); mend security.protocol and ssl.* in "
                    "[kafka.client]"
                )

    def _reason(self) -> str:
        said = [words(error) for error in self.heard if error.code() != KafkaError._ALL_BROKERS_DOWN]
        return said[-1] if said else "no word from it"


def words(error: KafkaError) -> str:
    """Return what librdkafka says, without the circumstances."""
    return _CIRCUMSTANCE.sub("", error.str())


def bad_property(contact: Contact, error: KafkaException) -> ValueError:
    """Return what a client's refusal of its configuration means to the user; it may quote a value, so masked."""
    secrets = {str(value) for name, value in contact.client.items() if is_secret_key(name) and value != ""}
    return ValueError(f"[kafka.client]: {without(secrets, words(error.args[0]))}; mend or remove the property")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFindings:
    """One topic as it is now."""

    name: str
    partitions: Mapping[int, tuple[int, int]]
    """Partition -> (oldest offset there, next offset to be written)."""

    @property
    def records(self) -> int:
        """Offsets held; transaction markers and compacted records count too."""
        return sum(high - low for low, high in self.partitions.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaFindings:
    """What the cluster holds of a configuration."""

    brokers: tuple[str, ...]
    wanted: Mapping[str, tuple[TopicFindings, ...]]
    """Each entry of `kafka.topics` -> the topics it means; empty where there is none."""
    topics: tuple[str, ...]
    """Names of all topics that we may see."""
    dead_letters: bool
    """`kafka.dead_letter_topic` is there."""
    auto_create: bool | None
    """Whether brokers create topics on demand; None when they do not say, or when nothing turns on it."""


def look(kafka: Kafka, timeout_s: float = REACH_S) -> KafkaFindings:
    """Return what the brokers say of the topics of `kafka`; creates none.

    Raises:
        SourceUnavailable: no broker answers within `timeout_s`.
        SourceRefused: one does, and refuses us.
        ValueError: librdkafka refuses a property.
    """
    contact = Contact(kafka.bootstrap_servers, client=kafka.client)
    try:
        admin = AdminClient(contact.properties())
    except KafkaException as error:
        raise bad_property(contact, error) from None
    # The list of all: asking for a topic by its name may create it.
    found = contact.metadata(admin, timeout_s=timeout_s)
    names = {entry: _meant(entry, found.topics) for entry in kafka.topics}
    marks = _watermarks(
        admin, [TopicPartition(name, place) for name in set().union(*names.values()) for place in _places(found, name)]
    )
    dead_letters = kafka.dead_letter_topic in found.topics
    return KafkaFindings(
        brokers=tuple(f"{broker.host}:{broker.port}" for broker in found.brokers.values()),
        wanted={
            entry: tuple(TopicFindings(name=name, partitions=marks.get(name, {})) for name in sorted(meant))
            for entry, meant in names.items()
        },
        topics=tuple(sorted(found.topics)),
        dead_letters=dead_letters,
        auto_create=None if dead_letters or kafka.dead_letter_topic is None else _auto_create(admin, found),
    )


def _meant(entry: str, topics: Iterable[str]) -> set[str]:
    if entry.startswith("^"):
        pattern = re.compile(entry)
        # As the worker does: Kafka's own topics are no text, unless asked for.
        internal = entry.startswith("^__")
        return {name for name in topics if pattern.match(name) and (internal or not name.startswith("__"))}
    return {entry} & set(topics)


def _places(found: Any, topic: str) -> list[int]:
    return list(found.topics[topic].partitions)


def _watermarks(admin: AdminClient, places: list[TopicPartition]) -> dict[str, dict[int, tuple[int, int]]]:
    """Return topic -> partition -> (low, high), one request to each leader."""
    if not places:
        return {}
    ends = [
        admin.list_offsets(dict.fromkeys(places, spec), request_timeout=REACH_S)
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
    ]
    marks: dict[str, dict[int, tuple[int, int]]] = {}
    for place in places:
        low, high = (_offset(end[place], place) for end in ends)
        marks.setdefault(place.topic, {})[place.partition] = (low, high)
    return marks


def _offset(answer: Future[Any], place: TopicPartition) -> int:
    try:
        return int(answer.result().offset)
    except KafkaException as error:
        said = error.args[0]
        where = f"partition {place.partition} of topic {place.topic}"
        if (refused := refusal(said, topic=place.topic)) is not None:
            raise refused from None
        if said.code() in _GONE:
            raise SourceRefused(f"{where} went away while we looked; try again") from None
        kind: type[Fatal | SourceUnavailable] = SourceUnavailable if said.retriable() else SourceRefused
        raise kind(f"{where} does not tell its offsets ({words(said)}); check the broker that leads it") from None


def _auto_create(admin: AdminClient, found: Any) -> bool | None:
    broker = ConfigResource(ResourceType.BROKER, str(next(iter(found.brokers))))
    try:
        settings = admin.describe_configs([broker], request_timeout=_ASK_S)[broker].result()
    except KafkaException:
        return None
    entry = settings.get("auto.create.topics.enable")
    return None if entry is None else entry.value == "true"
