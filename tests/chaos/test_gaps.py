"""Offsets that the broker itself leaves out: markers, aborted transactions, compaction. Nothing hangs or cries wolf."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.chaos.compare import Bench, Lineage, records_of
from tests.services.kafka import KafkaService, OwnedKafka
from tests.services.s3 import S3Server
from tests.services.worker import wait_until

_SECOND = 1_700_000_000_000


@pytest.fixture(scope="module")
def bench(kafka: KafkaService, s3: S3Server, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    if not kafka.real:
        pytest.skip(f"{kafka.name} writes no markers, isolates no transactions and compacts nothing; Apache Kafka does")
    return Bench(kafka, s3, tiny_model, tmp_path_factory.mktemp("gaps"))


def value(name: str) -> bytes:
    return json.dumps({"id": name, "text": f"what {name} has to say"}).encode()


def existing(bench: Bench, topic: str, *, isolation: str = "read_committed") -> dict[int, list[int]]:
    """Return the offsets of each partition that a client of our own can read, where there are any."""
    found: dict[int, list[int]] = {}
    for record in records_of(bench.kafka.address, topic, isolation=isolation):
        found.setdefault(record.partition, []).append(record.offset)
    return found


def learnt(lineage: Lineage) -> set[str]:
    return {line["id"] for line in lineage.must_have_come_to().lines if line["kind"] == "score"}


def assert_complete(lineage: Lineage, offsets: dict[int, list[int]]) -> None:
    """Every offset that there is was passed once and in order, and a further run finds nothing to do or to fear."""
    came = lineage.must_have_come_to()
    assert came.offsets() == offsets
    ends = {str(partition): passed[-1] + 1 for partition, passed in offsets.items()}
    assert {partition: end for partition, end in came.progress.items() if end} == ends
    said = lineage.live().said()
    assert lineage.must_have_come_to().ledger == came.ledger
    assert "lost" not in said


# --- transactions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transactions(bench: Bench) -> str:
    """Three partitions of which two end with what is no record, and one holds nothing else."""
    topic = bench.new_topic(partitions=3)
    producer = bench.producer(**{"transactional.id": uuid.uuid4().hex})
    producer.init_transactions(60)

    def transaction(names: Sequence[str], partitions: Sequence[int], end: Callable[[float], object]) -> None:
        producer.begin_transaction()
        for number, name in enumerate(names):
            producer.produce(topic, value(name), partition=partitions[number % len(partitions)])
        # Sent before it is decided, so that what is aborted is in the log.
        assert producer.flush(60) == 0
        end(60)

    for turn in range(4):
        transaction([f"committed-{turn}-{n}" for n in range(10)], [0, 1], producer.commit_transaction)
        transaction([f"aborted-{turn}-{n}" for n in range(5)], [0, 1], producer.abort_transaction)
    transaction(["aborted-2-0", "aborted-2-1"], [2], producer.abort_transaction)
    bench.produce(topic, [(value(f"bare-{n}"), _SECOND + n) for n in range(4)], partitions=2)
    transaction([f"last-{n}" for n in range(3)], [1], producer.commit_transaction)
    transaction([f"aborted-last-{n}" for n in range(3)], [0], producer.abort_transaction)
    return topic


def test_what_a_transaction_took_back_is_not_learnt_and_its_markers_stop_nothing(
    bench: Bench, transactions: str
) -> None:
    """Across kills, every record that counts is passed once, in the order of its partition, and nothing else is."""
    lineage = Lineage(bench, transactions, {"checkpoint": {"every_events": 6}})
    for faults in (["swapped:2:KILL"], ["uploaded:2:KILL"]):
        lineage.live(faults=faults, exits=-signal.SIGKILL)
    lineage.live(kill_at_step=lineage.must_have_come_to().totals["steps"] + 3, exits=-signal.SIGKILL)
    lineage.live()

    offsets = existing(bench, transactions)
    assert {partition: len(passed) for partition, passed in offsets.items()} == {0: 22, 1: 25}
    assert all(passed != list(range(passed[0], passed[-1] + 1)) for passed in offsets.values()), "there are gaps"
    assert_complete(lineage, offsets)
    names = [*(f"committed-{turn}-{n}" for turn in range(4) for n in range(10)), *(f"bare-{n}" for n in range(4))]
    assert learnt(lineage) == {*names, *(f"last-{n}" for n in range(3))}
    # The order between partitions is in the ledger; with it, the same weights follow from the same events.
    lineage.assert_as_in_one_life()


def test_who_asks_for_what_was_not_committed_learns_it(bench: Bench, transactions: str) -> None:
    """`isolation.level` passes through: markers stay gaps, aborted records are events like others."""
    lineage = Lineage(
        bench,
        transactions,
        {"kafka.client": {"isolation.level": "read_uncommitted"}, "checkpoint": {"every_events": 9}},
    )
    lineage.live(faults=["swapped:1:KILL"], exits=-signal.SIGKILL)
    lineage.live()

    assert_complete(lineage, existing(bench, transactions, isolation="read_uncommitted"))
    assert {"aborted-0-0", "aborted-2-1", "aborted-last-2"} <= learnt(lineage)


def test_a_log_that_retention_has_emptied_up_to_its_last_marker_has_lost_us_nothing(bench: Bench) -> None:
    """What was removed behind our last record was no record; a restart does not cry wolf."""
    topic = bench.new_topic()
    producer = bench.producer(**{"transactional.id": uuid.uuid4().hex})
    producer.init_transactions(60)
    producer.begin_transaction()
    for number in range(5):
        producer.produce(topic, value(f"event-{number}"), partition=0)
    producer.commit_transaction(60)
    lineage = Lineage(bench, topic)
    lineage.live()
    assert lineage.must_have_come_to().progress == {"0": 5}

    # Offset 5 is the marker, and the log begins and ends behind it.
    place = TopicPartition(topic, 0, 6)
    admin = bench.kafka.admin()
    admin.delete_records([place])[place].result(60)
    lineage.live()

    bench.produce(topic, [(value("later"), _SECOND)])
    lineage.live()
    assert lineage.must_have_come_to().offsets() == {0: [0, 1, 2, 3, 4, 6]}


# --- compaction --------------------------------------------------------------------------------------


def alter(kafka: KafkaService, kind: ResourceType, name: str, **settings: str) -> None:
    entries = [
        ConfigEntry(key.replace("_", "."), text, incremental_operation=AlterConfigOpType.SET)
        for key, text in settings.items()
    ]
    resource = ConfigResource(kind, name, incremental_configs=entries)
    # Held until it has answered: a client that nobody holds asks nobody.
    admin = kafka.admin()
    admin.incremental_alter_configs([resource])[resource].result(60)


@pytest.fixture
def eager_cleaner(bench: Bench) -> Iterator[None]:
    """A broker of ours looks for something to compact twice a second; others when they please."""
    ours = isinstance(bench.kafka, OwnedKafka)
    if ours:
        alter(bench.kafka, ResourceType.BROKER, "1", log_cleaner_backoff_ms="500")
    yield
    if ours:
        alter(bench.kafka, ResourceType.BROKER, "1", log_cleaner_backoff_ms="15000")


@pytest.mark.usefixtures("eager_cleaner")
def test_compaction_between_two_lives_leaves_gaps_and_no_alarm(bench: Bench) -> None:
    """A worker that was killed goes on at the next offset that is left; a tombstone is passed as a dead letter."""
    compact = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01", "segment.ms": "1000"}
    topic = bench.new_topic(config=compact | {"min.compaction.lag.ms": str(10**12)})
    producer: Producer = bench.producer()

    def produce(first: int, last: int) -> None:
        for number in range(first, last):
            # Of 7 keys; the last word about two of them is that they are gone.
            gone = number >= 35 and number % 7 in {2, 5}
            knobs: dict[str, Any] = {"timestamp": _SECOND + number, "partition": 0, "key": str(number % 7).encode()}
            producer.produce(topic, None if gone else value(f"event-{number}"), **knobs)
        assert producer.flush(60) == 0

    produce(0, 42)
    lineage = Lineage(bench, topic, {"checkpoint": {"every_events": 5}})
    lineage.live(faults=["swapped:2:KILL"], exits=-signal.SIGKILL)
    progress = lineage.must_have_come_to().progress["0"]
    assert 0 < progress < 35
    # Later by its own time, so that it begins a segment and those before may be compacted.
    producer.produce(topic, value("tail"), key=b"tail", partition=0, timestamp=_SECOND + 10_000)
    assert producer.flush(60) == 0
    alter(bench.kafka, ResourceType.TOPIC, topic, min_compaction_lag_ms="0")
    wait_until(lambda: existing(bench, topic) == {0: list(range(35, 43))}, "compaction")
    lineage.live(faults=["swapped:1:KILL"], exits=-signal.SIGKILL)
    lineage.live()

    assert_complete(lineage, {0: [*range(progress), *range(35, 43)]})
    outcomes = {
        line["offset"]: line["outcome"] for line in lineage.must_have_come_to().lines if line["kind"] == "event"
    }
    assert {offset for offset, outcome in outcomes.items() if outcome == "dead_letter"} == {37, 40}
    # A lineage that begins only now finds the gap at the beginning.
    late = Lineage(bench, topic)
    late.live()
    assert_complete(late, {0: list(range(35, 43))})
    late.assert_as_in_one_life()
