"""A Kafka broker inside this process: librdkafka's mock cluster, behind a real socket.

It speaks the protocol to any client and forgets everything when closed. A
partition keeps 5 MB, so what is fed must fit; see `slice.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaException, Producer

from streamlearn.ports import SourceUnavailable

_START_TIMEOUT_S = 10.0


@contextmanager
def embedded_broker() -> Iterator[str]:
    """Yield the bootstrap address of a broker that lives as long as the block.

    Raises:
        SourceUnavailable: it did not start.
    """
    quiet = logging.getLogger("streamlearn.demo.broker.librdkafka")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    # The cluster belongs to this client, which must outlive every other one.
    owner = Producer({"test.mock.num.brokers": 1, "log_level": 3}, logger=quiet)
    try:
        brokers = list(owner.list_topics(timeout=_START_TIMEOUT_S).brokers.values())
    except KafkaException as error:
        raise SourceUnavailable(f"librdkafka's built-in broker did not start: {error.args[0].str()}") from None
    yield f"{brokers[0].host}:{brokers[0].port}"
    owner.flush(0)
