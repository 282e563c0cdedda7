"""A broker of librdkafka's own for a module's tests, and what a topic of it holds."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from streamlearn.demo.broker import embedded_broker

DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with embedded_broker() as address:
        yield address


def messages(address: str, topic: str, partition: int, count: int) -> list[Message]:
    """Return the first `count` messages of a partition, or as many as come within the deadline."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "test", "log_level": 2})
    consumer.assign([TopicPartition(topic, partition, 0)])
    found: list[Message] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append(message)
    consumer.close()
    return found
