"""librdkafka's clients as we want them: properties, logs, and no secret in either.

`[kafka.client]` passes through; what exactness depends on stays ours. The
reasons for our own defaults are here, the user's are not questioned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import structlog
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from streamlearn.config import Config
from streamlearn.config_secrets import MASK, secrets_of
from streamlearn.ingest.limited import Limited
from streamlearn.ports import SourceRefused

_log = structlog.get_logger("librdkafka")

_SHARED: Mapping[str, Any] = {
    "client.id": "streamlearn",
    "socket.keepalive.enable": True,
}
_CONSUMER: Mapping[str, Any] = {
    "statistics.interval.ms": 5_000,
    # Fetched ahead of the buffer; the default of 64 MiB is more than the buffer itself.
    "queued.max.messages.kbytes": 16_384,
    # With so little fetched ahead, the default pause of 1 s between fetches would be felt.
    "fetch.queue.backoff.ms": 100,
}
_CONSUMER_OURS: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Lost data is for `kafka.on_lost_data` to decide.
    "auto.offset.reset": "error",
    # The end of a partition is told with its offset, gaps included.
    "enable.partition.eof": True,
}
_PRODUCER: Mapping[str, Any] = {
    "enable.idempotence": True,
    # Kept until acknowledged: whether to wait on is decided at each flush.
    "message.timeout.ms": 0,
    "queue.buffering.max.kbytes": 65_536,
    # How large a record may be is the brokers' to say.
    "message.max.bytes": 1_000_000_000,
}
_NO_STATISTICS = ("statistics.interval.ms",)


def open_consumer(
    config: Config,
    *,
    on_error: Callable[[Any], None],
    on_commit: Callable[[Any, Any], None],
    on_statistics: Callable[[str], None],
    monotonic: Callable[[], float],
) -> Consumer:
    """Return a consumer that reads where it is told and resets nothing by itself.

    Raises:
        SourceRefused: librdkafka does not take the properties.
    """
    properties = {**_CONSUMER, **_common(config), **_CONSUMER_OURS}
    properties |= {
        "group.id": config.group,
        "error_cb": on_error,
        "on_commit": on_commit,
        "stats_cb": on_statistics,
    }
    return cast("Consumer", _opened(config, Consumer, properties, monotonic))


def open_producer(config: Config, *, on_error: Callable[[Any], None], monotonic: Callable[[], float]) -> Producer:
    """Return a producer that keeps order and sends nothing twice within its own life.

    Raises:
        SourceRefused: librdkafka does not take the properties.
    """
    properties = {**_PRODUCER, **_common(config), "error_cb": on_error}
    for name in _NO_STATISTICS:
        properties.pop(name, None)
    return cast("Producer", _opened(config, Producer, properties, monotonic))


def open_admin(config: Config, *, monotonic: Callable[[], float]) -> AdminClient:
    """Return a client for questions about topics; what its connections suffer, the consumer's suffer and tell.

    Raises:
        SourceRefused: librdkafka does not take the properties.
    """
    properties = {**_common(config), "error_cb": lambda _error: None}
    for name in _NO_STATISTICS:
        properties.pop(name, None)
    return cast("AdminClient", _opened(config, AdminClient, properties, monotonic))


class LibrdkafkaLog:
    """What librdkafka has to say, through structlog, at a limited rate and without secrets.

    Has the one method that confluent-kafka calls of a `logging.Logger`.
    """

    def __init__(self, secrets: set[str], monotonic: Callable[[], float]) -> None:
        # Longest first: one secret may be a part of another.
        self._secrets = sorted(secrets, key=len, reverse=True)
        self._limited = Limited(every_s=10.0, monotonic=monotonic)

    def log(self, level: int, template: str, *values: object) -> None:
        """Take one line; `values` are facility, client and message."""
        facility, message = str(values[0]) if values else "", str(values[-1]) if values else template
        if facility == "CONFWARN":
            return  # one set of properties serves consumer and producer; each warns of the other's
        held_back = self._limited.due(facility) if level > logging.DEBUG else 0
        if held_back is None:
            return
        # Lost connections are its daily bread, and reported where they matter.
        quiet = min(level, logging.WARNING)
        _log.log(quiet, without(self._secrets, message), facility=facility, held_back=held_back)


def without(secrets: list[str] | set[str], text: str) -> str:
    """Return `text` with each of `secrets` masked.

    >>> without(["hunter2"], "bad password hunter2")
    'bad password ***'
    """
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _common(config: Config) -> dict[str, Any]:
    return {**_SHARED, **config.kafka.client, "bootstrap.servers": config.kafka.bootstrap_servers}


def _opened(config: Config, client: Any, properties: dict[str, Any], monotonic: Callable[[], float]) -> Any:
    secrets = secrets_of(config)
    try:
        return client(properties, logger=LibrdkafkaLog(secrets, monotonic))
    except KafkaException as error:
        reason = without(secrets, error.args[0].str())
        raise SourceRefused(f"librdkafka does not take [kafka.client]: {reason}") from None
