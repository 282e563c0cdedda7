"""A producer that never tires: new texts, repeats, records that are no events, transactions that abort.

What is sent, in which order and to which partition follows from the seed;
how much of it is sent follows from how long the run lasts. Offsets get gaps:
markers end transactions, and what was aborted is never read.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Producer

from tests.chaos.checker_events import KIND
from tests.integration.test_bad_records import BAD, bad
from tests.services.kafka import quiet_logger

_WORDS = ("fox", "dog", "owl", "cat", "hen", "jumps", "over", "the", "lazy", "quick", "brown", "stream", "adapter")
_NOT_BAD_HERE = ("a time that is none", "a record that is too large")
"""This run maps no time, and takes larger records."""
_BAD = [bad(value) for name, (value, _) in BAD.items() if name not in _NOT_BAD_HERE]
_REPEATS, _SAME_ID, _BROKEN, _ABORTED = 0.12, 0.03, 0.12, 0.08
_TRANSACTION = 8
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Sent:
    """A record on its way."""

    partition: int
    key: bytes
    value: bytes | None
    kind: str


def records(seed: int, partitions: int) -> Iterator[Sent]:
    """Yield records for ever.

    >>> first = next(records(7, 3))
    >>> first == next(records(7, 3))
    True
    """
    chance = random.Random(f"stream {seed}")
    earlier: list[bytes] = []
    number = 0
    while True:
        number += 1
        partition, key = chance.randrange(partitions), str(number).encode()
        if (drawn := chance.random()) < _BROKEN:
            yield Sent(partition, key, chance.choice(_BAD), "bad")
            continue
        value = _event(number, chance)
        if earlier and drawn < _BROKEN + _SAME_ID:
            value = chance.choice(earlier)
        elif earlier and drawn < _BROKEN + _SAME_ID + _REPEATS:
            again = json.loads(chance.choice(earlier))
            value = json.dumps({"id": f"event-{number}", "text": again["text"]}).encode()
        else:
            earlier.append(value)
        yield Sent(partition, key, value, "good")


class Feed:
    """Writes the records of a seed to a topic, `rate` a second while it is asked to."""

    def __init__(self, address: str, topic: str, *, seed: int, partitions: int, rate: float) -> None:
        self._topic = topic
        self._rate = rate
        self._records = records(seed, partitions)
        self._chance = random.Random(f"aborts {seed}")
        self._producer = Producer(
            {"bootstrap.servers": address, "transactional.id": f"chaos-{topic}", "linger.ms": 0}, logger=quiet_logger()
        )
        self._producer.init_transactions(_TIMEOUT_S)
        self._last = time.monotonic()

    def tick(self) -> None:
        """Write what has become due since the last time, but not what was due while nobody asked."""
        due = (time.monotonic() - self._last) * self._rate
        if due >= _TRANSACTION:
            self._last = time.monotonic()
            self._write(min(int(due), 4 * _TRANSACTION))

    def burst(self, count: int) -> None:
        """Write `count` records at once, in transactions like all others."""
        for _ in range(0, count, _TRANSACTION):
            self._write(_TRANSACTION)

    def _write(self, count: int) -> None:
        self._producer.begin_transaction()
        for _ in range(count):
            each = next(self._records)
            self._producer.produce(
                self._topic, each.value, key=each.key, partition=each.partition, headers=[(KIND, each.kind.encode())]
            )
        if self._chance.random() < _ABORTED:
            # What is aborted while it still waits to be sent leaves no gap, and can be fatal: librdkafka issue 4849.
            self._producer.flush(_TIMEOUT_S)
            self._producer.abort_transaction(_TIMEOUT_S)
        else:
            self._producer.commit_transaction(_TIMEOUT_S)


def _event(number: int, chance: random.Random) -> bytes:
    # The number makes each text new; the length makes some of several chunks.
    words = chance.choices(_WORDS, k=chance.choice((3, 6, 12, 40)))
    return json.dumps({"id": f"event-{number}", "text": f"{' '.join(words)} {number}"}).encode()
