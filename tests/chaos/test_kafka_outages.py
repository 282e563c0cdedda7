"""Kafka as it can be: gone and back, without a leader, shorter, longer, another; the worker whole, on real brokers.

What reading does in each case is told by `tests/contract/test_records.py`;
here it is what the ledger holds in the end.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.cimpl import NewPartitions

from streamlearn import config_file
from streamlearn.bootstrap import Worker
from streamlearn.core.manifest import CheckpointState, EventLine
from streamlearn.ingest.kafka import KafkaRecords
from streamlearn.ports import LostData, SourceRefused, SourceUnavailable
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.reader import LineageReader
from streamlearn.reporter import RunReport
from tests.services.kafka import KafkaService, OwnedCluster, OwnedKafka, quiet_logger
from tests.services.ports import free_ports
from tests.services.worker import DEADLINE_S, running, wait_until

GOOD, BAD = "admitted", "dead_letter"


@dataclass
class Stage:
    """A lineage of its own on a cluster, with a store in a directory."""

    kafka: KafkaService
    model: Path
    folder: Path
    topics: Sequence[str]
    knobs: dict[str, Any] = field(default_factory=dict)
    """Of `[kafka]`."""

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.port,) = free_ports(1)
        self.write_config()

    @property
    def config(self) -> Path:
        return self.folder / "streamlearn.toml"

    def write_config(self, **knobs: Any) -> None:
        """Write the file anew, with `knobs` of `[kafka]` beside those there are."""
        self.knobs |= {"start": "earliest", "discovery_interval_s": 1} | self.knobs | knobs
        kafka = {"bootstrap_servers": self.kafka.address, "topics": list(self.topics)} | self.knobs
        self.config.write_text(
            "\n".join(
                [
                    '[stream]\nname = "line"\n[kafka]',
                    *(f"{name} = {json.dumps(value)}" for name, value in kafka.items()),
                    f'[store]\nurl = "{self.folder / "store"}"',
                    f'[model]\nname = "{self.model}"\ndevice = "cpu"\ndtype = "fp32"',
                    "[anchor]\nchunks = 4\ntokens = 16",
                    # Texts that differ in a number and an id are nearly the same.
                    "[hygiene]\nnear_duplicates = false",
                    "[learner]\nflush_s = 0.2\nthreads = 1\nstep_chunks = 1",
                    "[checkpoint]\nevery_s = 0.3",
                    '[publish]\nevery = "500steps"',
                    "[lease]\nttl_s = 4",
                    f"[http]\nport = {self.port}",
                    '[log]\nformat = "json"\n',
                ]
            )
        )

    def worker(self) -> Worker:
        return Worker(config_file.load(self.config))

    def run(self) -> RunReport:
        """Learn to the end of what is there."""
        with self.worker() as worker:
            return worker.run(until_end=True, deadline_s=DEADLINE_S)

    @contextmanager
    def learning(self) -> Iterator[Learning]:
        """Learn in a thread until the block ends."""
        with self.worker() as worker:
            learning = Learning(worker)
            try:
                yield learning
            finally:
                worker.stop()
                learning.thread.join(DEADLINE_S)
                assert not learning.thread.is_alive()

    def state(self) -> CheckpointState:
        """Return the newest committed checkpoint."""
        head = json.loads((self.folder / "store/line/head.json").read_text())
        body = (self.folder / "store/line/checkpoints" / head["checkpoint"] / "state.json").read_bytes()
        return CheckpointState.model_validate_json(body)

    def ledger(self) -> list[EventLine]:
        """Return the committed event lines, in the order of the stream."""
        if not self.has_checkpoint():
            return []
        store = DirectoryStore(self.folder / "store")
        return [line for line in LineageReader(store, "line").ledger() if isinstance(line, EventLine)]

    def read(self) -> dict[tuple[str, int], list[int]]:
        """Return the offsets of each partition that the ledger holds, in its order."""
        read: dict[tuple[str, int], list[int]] = {}
        for line in self.ledger():
            read.setdefault((line.topic, line.partition), []).append(line.offset)
        return read

    def committed(self, count: int) -> None:
        """Wait until the ledger has `count` events."""
        wait_until(lambda: len(self.ledger()) >= count, f"{count} committed events")

    def assigned(self) -> bool:
        """Whether a checkpoint knows where reading began."""
        return self.has_checkpoint() and bool(self.state().progress)

    def has_checkpoint(self) -> bool:
        """Whether anything was committed."""
        head = self.folder / "store/line/head.json"
        return head.exists() and json.loads(head.read_text())["checkpoint"] is not None

    def topic_ids(self) -> set[str]:
        """Return the ids of the topics that progress belongs to, as the newest checkpoint says."""
        return {told for ids in self.state().origin.topic_ids.values() for told in ids.values()}


class Learning:
    """A worker in a thread of this process."""

    def __init__(self, worker: Worker) -> None:
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(worker,), daemon=True)
        self.thread.start()

    def fails(self, kind: type[Exception], match: str) -> None:
        """Wait for the worker's end, and look at what ended it."""
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        with pytest.raises(kind, match=match):
            raise self.failure or AssertionError("it ended well")

    def _run(self, worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as failure:  # noqa: BLE001 - looked at by the test
            self.failure = failure


def good(number: int) -> bytes:
    """An event that is like no other."""
    return json.dumps({"text": f"the quick brown fox number {number} jumps over {uuid.uuid4().hex}"}).encode()


def events(count: int, *, bad_every: int = 0) -> list[bytes]:
    """Some events; each `bad_every`-th is none."""
    return [b"\xff" if bad_every and number % bad_every == bad_every - 1 else good(number) for number in range(count)]


def produce(
    kafka: KafkaService, topic: str, values: Sequence[bytes], *, partition: int = 0, codec: str = "none"
) -> None:
    """Write `values` and wait until they are safe."""
    producer = Producer(
        {"bootstrap.servers": kafka.address, "enable.idempotence": True, "compression.type": codec},
        logger=quiet_logger(),
    )
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(DEADLINE_S) == 0


def delete(kafka: KafkaService, topic: str) -> None:
    """Delete `topic`."""
    admin = kafka.admin()  # kept: what it was asked for goes with it
    admin.delete_topics([topic])[topic].result(30)


def add_partitions(kafka: KafkaService, topic: str, total: int) -> None:
    """Give `topic` partitions until there are `total`."""
    admin = kafka.admin()
    admin.create_partitions([NewPartitions(topic, total)])[topic].result(30)
    wait_until(lambda: len(admin.list_topics(topic, timeout=10).topics[topic].partitions) == total, "the partitions")


def make_anew(kafka: KafkaService, topic: str, *, partitions: int = 1) -> None:
    """Delete `topic` and create another one under its name."""
    delete(kafka, topic)

    def created() -> bool:
        try:
            kafka.create_topic(topic, partitions=partitions)
        except KafkaException:
            return False  # the old one is still on its way out
        return True

    wait_until(created, "a new topic under the old name")


def letters_in(kafka: KafkaService, topic: str) -> Counter[int]:
    """Return how often the dead letter of each offset is in `topic`."""
    settings = {"bootstrap.servers": kafka.address, "group.id": "look", "enable.auto.commit": False}
    consumer = Consumer(settings, logger=quiet_logger())
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)
        consumer.assign([TopicPartition(topic, 0, low)])
        found: Counter[int] = Counter()

        def read() -> bool:
            for message in consumer.consume(500, 0.5):
                headers = dict(message.headers() or ())
                found[int(headers["__connect.errors.offset"] or b"-1")] += 1
            return found.total() >= high - low

        wait_until(read, "the dead letters")
        return found
    finally:
        consumer.close()


@pytest.fixture
def real(kafka: KafkaService) -> KafkaService:
    if not kafka.real:
        pytest.skip(f"{kafka.name} neither deletes topics nor records; Apache Kafka shows it")
    return kafka


@pytest.fixture
def ours(kafka: KafkaService) -> OwnedKafka:
    if not isinstance(kafka, OwnedKafka):
        pytest.skip(f"{kafka.name} is not ours to kill; a broker from KAFKA_HOME shows it")
    return kafka


MakeStage = Callable[..., Stage]


@pytest.fixture
def stage(kafka: KafkaService, tiny_model: Path, tmp_path: Path) -> MakeStage:
    def make(*topics: str, on: KafkaService | None = None, **knobs: Any) -> Stage:
        return Stage(on or kafka, tiny_model, tmp_path / uuid.uuid4().hex[:8], topics, knobs)

    return make


# --- brokers that are away --------------------------------------------------------------


def test_a_broker_that_crashes_costs_time_and_no_event(ours: OwnedKafka, stage: MakeStage) -> None:
    """The worker lives, is healthy, learns what it has, says what it waits for, and goes on by itself.

    Another one beside it has less patience (`kafka.retry_budget_s`): it ends uncommitted and says why. Its end comes
    at once, not when a client has given up waiting for brokers.
    """
    one, letters = ours.new_topic("crash"), ours.new_topic("crash-letters")
    other, more_letters = ours.new_topic("crash"), ours.new_topic("crash-letters")
    patient = stage(one, dead_letter_topic=letters)
    hasty = stage(other, dead_letter_topic=more_letters, retry_budget_s=1)
    for topic in (one, other):
        produce(ours, topic, events(400, bad_every=5))

    with running(patient.config, patient.port) as worker, hasty.worker() as opened:
        patient.committed(1)
        ending = Learning(opened)
        hasty.committed(1)
        ours.stop(kill=True)
        try:
            at_death, committed = worker.metric("streamlearn_events_total"), len(hasty.ledger())
            ending.fails(
                SourceUnavailable, r"dead letters are not acknowledged by topic .* \(tried .*kafka.retry_budget_s = 1\)"
            )
            assert committed <= len(hasty.ledger()) < 400

            wait_until(lambda: worker.metric("streamlearn_kafka_retries_total") >= 1, "a flush that is tried again")
            wait_until(lambda: worker.metric("streamlearn_events_total") == 400, "what was fetched to be learnt")
            assert at_death < 400, "while the broker was away"
            wait_until(lambda: worker.get("/readyz")[0] == 503, "not to be ready")
            assert "broker" in worker.get("/readyz")[1]
            assert worker.get("/healthz")[0] == 200
        finally:
            ours.start()

        wait_until(lambda: worker.get("/readyz")[0] == 200, "to be ready again")
        produce(ours, one, events(100, bad_every=5))
        patient.committed(420)
        worker.process.kill()
        worker.process.wait(30)
    hasty.run()
    patient.run()

    assert patient.read() == {(one, 0): list(range(500))}
    assert hasty.read() == {(other, 0): list(range(400))}
    assert {line.offset for line in patient.ledger() if line.outcome == BAD} == set(range(4, 500, 5))
    sent, sent_again = letters_in(ours, letters), letters_in(ours, more_letters)
    assert sent.keys() == set(range(4, 500, 5))
    assert sent_again.keys() == set(range(4, 400, 5))
    assert max(*sent.values(), *sent_again.values()) <= 2, "one end of a worker explains one repeat"
    assert max(sent[offset] for offset in range(4, 400, 5)) == 1, "an outage alone explains none"


@pytest.fixture(scope="module")
def cluster() -> Iterator[OwnedCluster]:
    if not (home := os.environ.get("KAFKA_HOME")) or not shutil.which("java"):
        pytest.skip("there is no second broker to kill; KAFKA_HOME and java show it")
    with tempfile.TemporaryDirectory(prefix="streamlearn-cluster-") as data:
        made = OwnedCluster(Path(home).resolve(), Path(data))
        try:
            yield made
        finally:
            made.stop()


def test_a_leader_that_dies_loses_nothing(cluster: OwnedCluster, stage: MakeStage) -> None:
    """The partition goes on at its follower, and so do the dead letters."""
    topic, letters = (cluster.replicated_topic(stem, leader=2) for stem in ("led", "led-letters"))
    place = stage(topic, on=cluster, dead_letter_topic=letters)
    produce(cluster, topic, events(200, bad_every=5))

    with place.learning():
        place.committed(20)
        cluster.nodes[1].stop(kill=True)
        produce(cluster, topic, events(100, bad_every=5))
        place.committed(300)

    assert cluster.leader_of(topic) == 1
    assert place.read() == {(topic, 0): list(range(300))}
    assert letters_in(cluster, letters) == Counter(range(4, 300, 5))


# --- topics that change ------------------------------------------------------------------


def test_every_codec_is_read(real: KafkaService, stage: MakeStage) -> None:
    """Producers choose their compression without asking us."""
    topic = real.new_topic("codecs")
    codecs = ("none", "gzip", "snappy", "lz4", "zstd")
    for codec in codecs:
        produce(real, topic, [good(number) for number in range(20)], codec=codec)
    place = stage(topic)

    place.run()

    assert place.read() == {(topic, 0): list(range(20 * len(codecs)))}
    assert {line.outcome for line in place.ledger()} == {GOOD}


def test_partitions_and_topics_that_come_are_read_from_their_beginning(real: KafkaService, stage: MakeStage) -> None:
    """While the worker runs and while it is down, with `start = "latest"` and records before anybody looked."""
    stem = f"grows{uuid.uuid4().hex[:6]}"
    first, second, third = (f"{stem}-{number}" for number in (1, 2, 3))
    real.create_topic(first)
    produce(real, first, events(5))
    place = stage(f"^{stem}-", start="latest")
    with place.learning():
        wait_until(place.assigned, "a checkpoint that knows where reading began")
        produce(real, first, events(3))
        add_partitions(real, first, 2)
        produce(real, first, events(3), partition=1)
        real.create_topic(second)
        produce(real, second, events(3))
        place.committed(9)
    add_partitions(real, first, 3)
    produce(real, first, events(3), partition=2)
    real.create_topic(third)
    produce(real, third, events(3))

    place.run()

    new = [0, 1, 2]
    assert place.read() == {(first, 0): [5, 6, 7], (first, 1): new, (first, 2): new, (second, 0): new, (third, 0): new}


def test_what_retention_takes_unread_stops_the_worker_or_is_counted(real: KafkaService, stage: MakeStage) -> None:
    """By `kafka.on_lost_data`; the error names both offsets."""
    topic = real.new_topic("short")
    place = stage(topic)
    produce(real, topic, events(10))
    place.run()
    produce(real, topic, events(30))
    admin = real.admin()
    for done in admin.delete_records([TopicPartition(topic, 0, 25)]).values():
        done.result(30)

    with pytest.raises(LostData, match=r"our next offset is 10, but the log begins at 25: 15 offsets"):
        place.run()
    assert place.read() == {(topic, 0): list(range(10))}, "nothing was committed"
    place.write_config(on_lost_data="skip")
    place.run()

    assert place.read() == {(topic, 0): [*range(10), *range(25, 40)]}
    assert place.state().totals.offsets_lost == 15
    assert place.state().progress == {topic: {0: 40}}


def test_a_topic_that_is_deleted_for_good_ends_the_worker(
    real: KafkaService, stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learnt before is committed; nothing looks healthy for ever."""
    defaults = KafkaRecords.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "unknown_topic_grace_s", 1.0)
    topic = real.new_topic("deleted")
    produce(real, topic, events(5))
    place = stage(topic)
    with place.learning() as learning:
        place.committed(5)

        delete(real, topic)

        learning.fails(SourceRefused, rf"'{topic}' is gone: it was deleted while it was read")
    assert place.read() == {(topic, 0): list(range(5))}


@pytest.mark.parametrize("length", [3, 30], ids=["shorter", "longer"])
def test_a_topic_made_anew_while_the_worker_is_down_is_noticed(
    real: KafkaService, stage: MakeStage, length: int
) -> None:
    """Also where the new log is longer than our offset, and reading on would look all right."""
    topic = real.new_topic("anew")
    produce(real, topic, events(10))
    place = stage(topic)
    place.run()
    before = place.topic_ids()
    make_anew(real, topic)
    produce(real, topic, events(length))

    with pytest.raises(LostData, match=r"deleted and created again.*our next offset 10 is one of the old log"):
        place.run()
    assert place.read() == {(topic, 0): list(range(10))}, "nothing was committed"
    place.write_config(on_lost_data="skip")
    place.run()
    place.run()

    assert place.read() == {(topic, 0): [*range(10), *range(length)]}
    assert place.state().progress == {topic: {0: length}}
    assert len(place.topic_ids()) == 1
    assert place.topic_ids() != before, "the checkpoint says which topic its offsets are of"


def test_a_topic_made_anew_while_it_is_read_is_begun_again(real: KafkaService, stage: MakeStage) -> None:
    """No record of the new log counts as one of the old: from its first to its last it is there once."""
    topic = real.new_topic("anew")
    produce(real, topic, events(10))
    place = stage(topic, on_lost_data="skip")
    with place.learning():
        place.committed(10)
        before = place.topic_ids()

        make_anew(real, topic)
        produce(real, topic, events(60))

        place.committed(70)
    place.run()

    assert place.read() == {(topic, 0): [*range(10), *range(60)]}
    assert place.topic_ids().isdisjoint(before)


def test_a_topic_made_anew_while_it_is_read_stops_the_worker_where_that_is_asked_for(
    real: KafkaService, stage: MakeStage
) -> None:
    """Before anything of the new log is committed as if it were the old one's."""
    topic = real.new_topic("anew")
    produce(real, topic, events(10))
    place = stage(topic)
    with place.learning() as learning:
        place.committed(10)

        make_anew(real, topic)
        produce(real, topic, events(60))

        learning.fails(LostData, r"deleted and created again")
    assert place.read() == {(topic, 0): list(range(10))}
