"""One suite for every `Records`: in memory, on librdkafka's mock cluster, on Apache Kafka."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from streamlearn.config import Config
from streamlearn.core.events import Progress, Record
from streamlearn.core.manifest import Origin
from streamlearn.ingest.kafka import KafkaRecords
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ports import LostData, Records, SourceRefused, SourceUnavailable
from tests.fakes.daemon import SilentTelemetry
from tests.fakes.records import MemoryCluster, MemoryRecords
from tests.services.kafka import KafkaService, OwnedKafka, quiet_logger

DEADLINE_S = 30.0


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class World(ABC):
    """A broker and the means to do to it what tests need."""

    name: str
    transactions_leave_gaps = True
    finds_offsets_by_time = True
    partitions_can_be_added = True
    records_can_be_deleted = True

    def __init__(self) -> None:
        self._open: list[Records] = []

    @abstractmethod
    def topic(self, partitions: int = 1, stem: str = "records") -> str: ...

    @abstractmethod
    def create(self, topic: str) -> None: ...

    @abstractmethod
    def produce(self, topic: str, values: Sequence[str], *, partition: int = 0, since: float | None = None) -> None:
        """Write records one second apart, the first at `since`."""

    @abstractmethod
    def transaction(self, topic: str, values: Sequence[str], *, commit: bool = True) -> None: ...

    @abstractmethod
    def add_partitions(self, topic: str, total: int) -> None: ...

    @abstractmethod
    def forget(self, topic: str, before: int) -> None: ...

    @abstractmethod
    def delete_topic(self, topic: str) -> None: ...

    @abstractmethod
    def committed(self, topic: str) -> int: ...

    @abstractmethod
    def make(self, topics: Sequence[str], lost: LostOffsets, **knobs: Any) -> Records: ...

    def records(
        self,
        *topics: str,
        progress: Progress | None = None,
        origin: Origin | None = None,
        lost: LostOffsets | None = None,
        **knobs: Any,
    ) -> Records:
        made = self.make(topics, lost or LostOffsets("fail"), **knobs)
        self._open.append(made)
        made.assign(progress or {}, origin or Origin())
        return made

    def close(self) -> None:
        for records in self._open:
            records.close()


class MemoryWorld(World):
    name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.cluster = MemoryCluster()

    def topic(self, partitions: int = 1, stem: str = "records") -> str:
        name = f"{stem}-{uuid.uuid4().hex[:8]}"
        self.cluster.create_topic(name, partitions)
        return name

    def create(self, topic: str) -> None:
        self.cluster.create_topic(topic)

    def produce(self, topic: str, values: Sequence[str], *, partition: int = 0, since: float | None = None) -> None:
        for second, value in enumerate(values):
            self.cluster.append(topic, value.encode(), partition=partition, timestamp=(since or 1.0) + second)

    def transaction(self, topic: str, values: Sequence[str], *, commit: bool = True) -> None:
        for value in values:
            self.cluster.append(topic, value.encode()) if commit else self.cluster.mark(topic)
        self.cluster.mark(topic)

    def add_partitions(self, topic: str, total: int) -> None:
        self.cluster.create_topic(topic, total)

    def forget(self, topic: str, before: int) -> None:
        self.cluster.forget(topic, 0, before)

    def delete_topic(self, topic: str) -> None:
        self.cluster.delete_topic(topic)

    def committed(self, topic: str) -> int:
        return self.cluster.committed[topic][0]

    def make(self, topics: Sequence[str], lost: LostOffsets, **knobs: Any) -> Records:
        return MemoryRecords(self.cluster, topics, lost=lost, start=knobs.get("start", "earliest"))


class KafkaWorld(World):
    def __init__(self, service: KafkaService) -> None:
        super().__init__()
        self.name = service.name
        self.service = service
        self.transactions_leave_gaps = self.finds_offsets_by_time = service.real
        self.partitions_can_be_added = self.records_can_be_deleted = service.real
        self.group = f"contract-{uuid.uuid4().hex[:8]}"
        # Idempotent: a leader that is not ready yet must not put records out of order, or there twice.
        self._producer = Producer(
            {"bootstrap.servers": service.address, "enable.idempotence": True}, logger=quiet_logger()
        )

    def topic(self, partitions: int = 1, stem: str = "records") -> str:
        return self.service.new_topic(stem, partitions=partitions)

    def create(self, topic: str) -> None:
        self.service.create_topic(topic)

    def produce(self, topic: str, values: Sequence[str], *, partition: int = 0, since: float | None = None) -> None:
        for second, value in enumerate(values):
            at = 0 if since is None else round((since + second) * 1000)
            self._producer.produce(topic, value.encode(), partition=partition, timestamp=at)
        assert self._producer.flush(DEADLINE_S) == 0

    def transaction(self, topic: str, values: Sequence[str], *, commit: bool = True) -> None:
        producer = Producer(
            {"bootstrap.servers": self.service.address, "transactional.id": uuid.uuid4().hex}, logger=quiet_logger()
        )
        producer.init_transactions(DEADLINE_S)
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value.encode(), partition=0)
        producer.flush(DEADLINE_S)
        producer.commit_transaction(DEADLINE_S) if commit else producer.abort_transaction(DEADLINE_S)

    def add_partitions(self, topic: str, total: int) -> None:
        admin: AdminClient = self.service.admin()
        admin.create_partitions([NewPartitions(topic, total)])[topic].result(DEADLINE_S)

    def forget(self, topic: str, before: int) -> None:
        admin: AdminClient = self.service.admin()
        for done in admin.delete_records([TopicPartition(topic, 0, before)]).values():
            done.result(DEADLINE_S)

    def delete_topic(self, topic: str) -> None:
        admin: AdminClient = self.service.admin()
        admin.delete_topics([topic])[topic].result(DEADLINE_S)

    def committed(self, topic: str) -> int:
        reader = Consumer({"bootstrap.servers": self.service.address, "group.id": self.group}, logger=quiet_logger())
        try:
            return int(reader.committed([TopicPartition(topic, 0)], timeout=DEADLINE_S)[0].offset)
        finally:
            reader.close()

    def make(self, topics: Sequence[str], lost: LostOffsets, **knobs: Any) -> Records:
        kafka = {
            "bootstrap_servers": self.service.address,
            "topics": topics,
            "start": knobs.get("start", "earliest"),
            "group": self.group,
            "discovery_interval_s": knobs.get("discovery_interval_s", 0.2),
        }
        config = Config.model_validate(
            {"stream": {"name": "contract"}, "kafka": kafka, "store": {"url": "x"}, "model": {"name": "x"}}
        )
        return KafkaRecords(config, lost, SilentTelemetry(), SystemClock(), unknown_topic_grace_s=1.0)


@pytest.fixture(params=["memory", "mock_kafka", "kafka"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made: World = MemoryWorld() if request.param == "memory" else KafkaWorld(request.getfixturevalue(request.param))
    yield made
    made.close()


def needs(able: bool, world: World, what: str) -> None:
    if not able:
        pytest.skip(f"{world.name} {what}; Apache Kafka shows it")


def read(records: Records, count: int) -> list[Record]:
    """Poll until `count` records are there."""
    got: list[Record] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(got) < count and time.monotonic() < deadline:
        got += records.poll(0.1)
    assert len(got) == count
    return got


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"


def values(records: Sequence[Record]) -> list[str]:
    return [(record.value or b"").decode() for record in records]


def positions_reach(records: Records, ends: Progress) -> Callable[[], bool]:
    def reached() -> bool:
        assert not records.poll(0.1), "nothing more is there"
        now = records.positions()
        return all(now[t].get(p, -1) >= end for t, inner in ends.items() for p, end in inner.items())

    return reached


# --- where reading begins ---------------------------------------------------------


def test_earliest_reads_everything_in_order_within_a_partition(world: World) -> None:
    """The ledger may rely on rising offsets."""
    topic = world.topic(partitions=2)
    world.produce(topic, [f"a{i}" for i in range(700)], partition=0)
    world.produce(topic, [f"b{i}" for i in range(50)], partition=1)

    got = read(world.records(topic), 750)

    assert values([r for r in got if r.partition == 0]) == [f"a{i}" for i in range(700)]
    assert [r.offset for r in got if r.partition == 1] == list(range(50))
    assert {r.topic for r in got} == {topic}


def test_a_record_comes_as_it_was_written(world: World) -> None:
    """A dead letter can be told from the original by nothing but its headers."""
    topic = world.topic()
    headers = (("trace", b"\x00\xff"), ("trace", b"again"), ("none", None))
    if isinstance(world, MemoryWorld):
        world.cluster.append(topic, b"\x00\xfe", key=b"k", timestamp=1_700_000_000.123, headers=headers)
        world.cluster.append(topic, None)
    else:
        assert isinstance(world, KafkaWorld)
        producer = Producer({"bootstrap.servers": world.service.address}, logger=quiet_logger())
        producer.produce(topic, b"\x00\xfe", b"k", 0, timestamp=1_700_000_000_123, headers=list(headers))
        producer.produce(topic, None, partition=0)
        producer.flush(DEADLINE_S)

    first, second = read(world.records(topic), 2)

    assert (first.key, first.value, first.timestamp, first.headers) == (b"k", b"\x00\xfe", 1_700_000_000.123, headers)
    assert (second.key, second.value, second.headers) == (None, None, ())


def test_latest_leaves_the_past_alone(world: World) -> None:
    """Starting on a topic of years does not begin with a backfill of days."""
    topic = world.topic()
    world.produce(topic, ["old"])
    records = world.records(topic, start="latest")
    until(records.positions)
    world.produce(topic, ["new"])

    assert values(read(records, 1)) == ["new"]


def test_a_time_begins_at_the_first_record_not_before_it(world: World) -> None:
    needs(world.finds_offsets_by_time, world, "answers look-ups by time with -1")
    topic = world.topic(partitions=2)
    world.produce(topic, ["t0", "t1", "t2", "t3"], since=1_000_000.0)
    world.produce(topic, ["old"], partition=1, since=1_000.0)

    records = world.records(topic, start=datetime.fromtimestamp(1_000_002, UTC))
    got = read(records, 2)
    world.produce(topic, ["new"], partition=1, since=2_000.0)

    assert values(got) == ["t2", "t3"]
    assert values(read(records, 1)) == ["new"], "a time after the last record means the end"


def test_progress_wins_over_start(world: World) -> None:
    """A restart goes on at the next offset."""
    topic = world.topic()
    world.produce(topic, [str(i) for i in range(10)])

    got = read(world.records(topic, start="latest", progress={topic: {0: 7}}), 3)

    assert [r.offset for r in got] == [7, 8, 9]


def test_a_partition_that_progress_does_not_know_of_its_topic_is_read_from_its_beginning(world: World) -> None:
    """It came while the worker was down; its first events are not lost to `start = "latest"`."""
    topic = world.topic(partitions=2)
    world.produce(topic, ["old", "next"], partition=0)
    world.produce(topic, ["first"], partition=1)

    got = read(world.records(topic, start="latest", progress={topic: {0: 1}}), 2)

    assert sorted(values(got)) == ["first", "next"]


def test_a_topic_that_does_not_exist_is_refused_by_name(world: World) -> None:
    """An operator reads which topic, and what to do."""
    with pytest.raises(SourceRefused, match="no-such-topic"):  # noqa: PT012 - refused at once, or after a grace time
        records = world.records("no-such-topic")
        until(lambda: records.poll(0.1))


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_compressed_batch_is_read(kafka: KafkaService, codec: str) -> None:
    """Producers choose their compression without asking us."""
    world = KafkaWorld(kafka)
    topic = world.topic()
    producer = Producer(
        {"bootstrap.servers": kafka.address, "compression.type": codec, "linger.ms": 50}, logger=quiet_logger()
    )
    for number in range(50):
        producer.produce(topic, f"{number} " + "x" * 1_000, partition=0)
    assert producer.flush(DEADLINE_S) == 0

    got = read(world.records(topic), 50)
    world.close()

    assert [value.split()[0] for value in values(got)] == [str(number) for number in range(50)]


def test_a_pattern_without_a_topic_waits_for_one(world: World) -> None:
    """Worker and producer may start in any order."""
    stem = f"later{uuid.uuid4().hex[:6]}"
    records = world.records(f"^{stem}-.*")
    assert not records.poll(0.05)
    assert records.positions() == {}

    world.produce(world.topic(stem=stem), ["here"])

    assert values(read(records, 1)) == ["here"]


def test_a_topic_deleted_while_it_is_read_is_refused_by_name(world: World) -> None:
    """A worker that reads nothing any more does not look healthy for ever."""
    needs(world.records_can_be_deleted, world, "cannot delete topics")
    topic = world.topic()
    world.produce(topic, ["a"])
    records = world.records(topic)
    read(records, 1)

    world.delete_topic(topic)

    with pytest.raises(SourceRefused, match=topic):
        until(lambda: records.poll(0.1))


def test_an_outage_is_waited_out(kafka: KafkaService) -> None:
    """A broker that restarts costs time, never an event."""
    if not isinstance(kafka, OwnedKafka):
        pytest.skip(f"{kafka.name} is not ours to stop; a broker from KAFKA_HOME shows it")
    world = KafkaWorld(kafka)
    topic = world.topic()
    world.produce(topic, ["before"])
    records, leaving = world.records(topic), world.records(topic)
    for each in (records, leaving):
        read(each, 1)
    leaving.mirror({topic: {0: 1}})
    until(lambda: leaving.poll(0.1) or world.committed(topic) == 1)

    kafka.stop()
    try:
        assert not records.poll(0.5)
        with pytest.raises(SourceUnavailable):
            records.watermarks()
        leaving.mirror({topic: {0: 1}})
        began = time.monotonic()
        leaving.close()
        assert time.monotonic() - began < 20.0, "the end of a process does not wait for a commit nobody takes"
    finally:
        kafka.start()
    world.produce(topic, ["after"])

    assert values(read(records, 1)) == ["after"]
    world.close()


# --- ends, gaps, pauses -------------------------------------------------------------


def test_positions_come_to_the_high_water_marks(world: World) -> None:
    """`--until-end` knows when to stop."""
    topic = world.topic(partitions=2)
    world.produce(topic, ["a", "b", "c"])
    records = world.records(topic)
    read(records, 3)

    ends = records.watermarks()

    assert {p: end for p, end in ends[topic].items() if p < 2} == {0: 3, 1: 0}
    until(positions_reach(records, ends))


def test_offsets_have_gaps_where_transactions_ended(world: World) -> None:
    """The next offset is the last one + 1, never a count; a marker at the very end is passed too."""
    needs(world.transactions_leave_gaps, world, "writes no control batches for aborted transactions")
    topic = world.topic()
    world.transaction(topic, ["a", "b"])
    world.transaction(topic, ["gone"], commit=False)
    world.transaction(topic, ["c"])
    records = world.records(topic)

    got = read(records, 3)

    assert [(r.offset, r.value) for r in got] == [(0, b"a"), (1, b"b"), (5, b"c")]
    ends = records.watermarks()
    assert ends == {topic: {0: 7}}
    until(positions_reach(records, ends))


def test_an_open_transaction_ends_the_log_for_us(world: World) -> None:
    """`--until-end` does not wait for somebody else's commit."""
    if not isinstance(world, KafkaWorld) or not world.service.real:
        pytest.skip(f"{world.name} has no isolation of transactions; Apache Kafka shows it")
    topic = world.topic()
    world.produce(topic, ["before"])
    producer = Producer(
        {"bootstrap.servers": world.service.address, "transactional.id": uuid.uuid4().hex}, logger=quiet_logger()
    )
    producer.init_transactions(DEADLINE_S)
    producer.begin_transaction()
    producer.produce(topic, b"within", partition=0)
    producer.flush(DEADLINE_S)
    records = world.records(topic)
    read(records, 1)

    ends = records.watermarks()

    assert ends == {topic: {0: 1}}
    until(positions_reach(records, ends))
    producer.commit_transaction(DEADLINE_S)
    assert values(read(records, 1)) == ["within"]


def test_nothing_comes_while_paused_and_nothing_is_missing_after(world: World) -> None:
    """Backpressure costs no event."""
    topic = world.topic(partitions=2)
    world.produce(topic, [f"{i}" for i in range(100)])
    records = world.records(topic)
    first: list[Record] = []
    while not first:
        first += records.poll(0.1)

    records.pause()
    world.produce(topic, ["more"], partition=1)
    for _ in range(5):
        assert not records.poll(0.1)
    records.resume()

    every = first + read(records, 101 - len(first))
    assert sorted((r.partition, r.offset) for r in every) == [(0, i) for i in range(100)] + [(1, 0)]


def test_a_partition_added_while_running_is_read_from_its_beginning(world: World) -> None:
    """What was produced between its creation and its discovery is not lost, even with `start = "latest"`."""
    needs(world.partitions_can_be_added, world, "cannot add partitions")
    topic = world.topic()
    records = world.records(topic, start="latest")
    until(records.positions)

    world.add_partitions(topic, 3)
    world.produce(topic, ["early"], partition=2)

    assert [(r.partition, r.value) for r in read(records, 1)] == [(2, b"early")]
    assert set(records.positions()[topic]) == {0, 1, 2}


def test_a_topic_that_comes_to_match_the_pattern_is_read_from_its_beginning(world: World) -> None:
    stem = f"many{uuid.uuid4().hex[:6]}"
    one = world.topic(stem=stem)
    records = world.records(f"^{stem}-.*", start="latest")
    until(records.positions)
    other = world.topic(stem=stem)
    world.produce(other, ["early"])

    assert [(r.topic, r.value) for r in read(records, 1)] == [(other, b"early")]
    assert set(records.positions()) == {one, other}


def test_a_partition_found_while_paused_is_paused_too(world: World) -> None:
    """A full buffer stays full."""
    stem = f"held{uuid.uuid4().hex[:6]}"
    world.topic(stem=stem)
    records = world.records(f"^{stem}-.*")
    until(records.positions)
    records.pause()
    other = world.topic(stem=stem)
    world.produce(other, ["held"])

    until(lambda: records.poll(0.05) or other in records.positions())
    for _ in range(5):
        assert not records.poll(0.1)
    records.resume()

    assert values(read(records, 1)) == ["held"]


# --- lost data -------------------------------------------------------------------------


def test_lost_offsets_stop_the_worker_with_both_offsets_named(world: World) -> None:
    """Nobody learns from a stream with a hole without knowing."""
    needs(world.records_can_be_deleted, world, "cannot delete records")
    topic = world.topic()
    world.produce(topic, [str(i) for i in range(10)])
    world.forget(topic, before=6)
    records = world.records(topic, progress={topic: {0: 2}})

    with pytest.raises(LostData, match=r"partition 0: our next offset is 2, but the log begins at 6: 4 offsets"):
        until(lambda: records.poll(0.1))


def test_lost_offsets_are_passed_over_where_that_is_asked_for(world: World) -> None:
    needs(world.records_can_be_deleted, world, "cannot delete records")
    topic = world.topic()
    world.produce(topic, [str(i) for i in range(10)])
    world.forget(topic, before=6)
    lost = LostOffsets("skip")
    records = world.make([topic], lost)
    records.assign({topic: {0: 2}}, Origin())

    got = read(records, 4)
    records.close()

    assert [r.offset for r in got] == [6, 7, 8, 9]
    assert lost.before(topic, 0, 6) == 4
    assert lost.before(topic, 0, 7) == 0, "each gap is told once"


def test_offsets_lost_while_running_are_noticed_too(world: World) -> None:
    """Retention may overtake a paused worker."""
    needs(world.records_can_be_deleted, world, "cannot delete records")
    topic = world.topic()
    world.produce(topic, ["0"])
    records = world.records(topic)
    read(records, 1)
    records.pause()
    world.produce(topic, ["1", "2", "3"])
    world.forget(topic, before=3)
    records.resume()

    with pytest.raises(LostData, match=r"our next offset is 1, but the log begins at 3"):
        until(lambda: records.poll(0.1))


def test_a_topic_made_anew_is_lost_data_as_well(world: World) -> None:
    """Offsets beyond the end say that it is another log."""
    topic = world.topic()
    world.produce(topic, ["a", "b"])
    records = world.records(topic, progress={topic: {0: 500}})

    with pytest.raises(LostData, match=r"our next offset is 500, but the log ends at 2.*created"):
        until(lambda: records.poll(0.1))


def test_a_topic_made_anew_is_read_from_its_beginning_where_that_is_asked_for(world: World) -> None:
    topic = world.topic()
    world.produce(topic, ["a", "b"])

    assert values(read(world.records(topic, progress={topic: {0: 500}}, lost=LostOffsets("skip")), 2)) == ["a", "b"]


def made_anew(world: World, topic: str) -> None:
    """Delete `topic` and create another one under its name."""
    world.delete_topic(topic)

    def created() -> bool:
        try:
            world.create(topic)
        except KafkaException:
            return False  # the old one is still on its way out
        return True

    until(created)


def test_a_topic_made_anew_is_noticed_though_its_log_is_longer_than_our_offset(world: World) -> None:
    """Our offset lies within it, and reading on would skip its beginning in silence."""
    needs(world.records_can_be_deleted, world, "cannot delete topics")
    topic = world.topic()
    world.produce(topic, ["a", "b"])
    records = world.records(topic)
    read(records, 2)
    progress, origin = records.positions(), records.origin()
    records.close()
    made_anew(world, topic)
    world.produce(topic, [str(i) for i in range(10)])

    with pytest.raises(LostData, match=r"deleted and created again.*our next offset 2 is one of the old log"):  # noqa: PT012 - refused at once, or by the first look
        again = world.records(topic, progress=progress, origin=origin)
        until(lambda: again.poll(0.1))
    skipping = world.records(topic, progress=progress, origin=origin, lost=LostOffsets("skip"))
    assert values(read(skipping, 10)) == [str(i) for i in range(10)]
    assert skipping.origin().topic_ids[topic] != origin.topic_ids[topic]


def test_a_topic_made_anew_while_it_is_read_gives_no_record_under_the_old_name(world: World) -> None:
    """Each record says which topic it is of, and none of the new one comes before its first."""
    needs(world.records_can_be_deleted, world, "cannot delete topics")
    topic = world.topic()
    world.produce(topic, ["a", "b"])
    lost = LostOffsets("skip")
    records = world.records(topic, lost=lost)
    (old,) = {record.topic_id for record in read(records, 2)}
    records.watermarks()
    made_anew(world, topic)
    world.produce(topic, [str(i) for i in range(10)])

    got = read(records, 10)

    assert [record.offset for record in got] == list(range(10))
    assert old not in {record.topic_id for record in got}
    assert lost.before(topic, 0, 0) == 0, "all of the old one had been read"


def test_nothing_of_a_topic_made_anew_is_taken_for_the_old_ones_between_two_looks(world: World) -> None:
    """The client itself goes on at our offset of the new log without a word: only who asks after each fetch knows."""
    needs(world.records_can_be_deleted, world, "cannot delete topics")
    topic = world.topic()
    world.produce(topic, ["a", "b"])
    records = world.records(topic, lost=LostOffsets("skip"), discovery_interval_s=3600.0)
    read(records, 2)
    records.pause()
    made_anew(world, topic)
    world.produce(topic, [str(i) for i in range(10)])
    records.resume()

    assert values(read(records, 10)) == [str(i) for i in range(10)]


def test_what_comes_to_match_an_entry_that_was_looked_up_is_read_from_its_beginning(world: World) -> None:
    """Also when it came while the worker was down; a topic that is asked for anew begins at `kafka.start`."""
    stem = f"later{uuid.uuid4().hex[:6]}"
    records = world.records(f"^{stem}-.*", start="latest")
    until(lambda: records.poll(0.05) or records.origin().entries)
    origin = records.origin()
    records.close()
    late, asked = world.topic(stem=stem), world.topic(stem="asked")
    for topic in (late, asked):
        world.produce(topic, ["early"])

    again = world.records(f"^{stem}-.*", asked, start="latest", origin=origin)
    until(lambda: len(again.positions()) == 2)
    world.produce(asked, ["new"])

    assert {(r.topic, (r.value or b"").decode()) for r in read(again, 2)} == {(late, "early"), (asked, "new")}


# --- the mirror ---------------------------------------------------------------------------


def test_progress_is_mirrored_as_the_groups_offset(world: World) -> None:
    """Lag tools that people know show our lag."""
    topic = world.topic()
    world.produce(topic, ["a", "b", "c"])
    records = world.records(topic)
    read(records, 3)

    records.mirror({topic: {0: 2}})
    records.close()

    assert world.committed(topic) == 2


def test_a_mirror_that_fails_is_no_failure(world: World) -> None:
    """Learning does not depend on lag tools."""
    topic = world.topic()
    records = world.records(topic)

    records.mirror({"no-such-topic": {0: 2}})
    records.poll(0.2)
    records.close()
    records.mirror({topic: {0: 1}})
    records.close()
