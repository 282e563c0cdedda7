"""Memory while a backlog is worked off: what grows with the stream has a bound, and the bound holds.

Sizes of structures, not of the process: `benchmarks/memory` measures that.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from benchmarks.memory.records import TOPIC, MadeUpRecords
from benchmarks.memory.worker import without_a_model
from streamlearn import bootstrap, checkpointer, config_file
from streamlearn.config import Config
from streamlearn.core.events import Arrival
from streamlearn.core.manifest import EventLine
from streamlearn.core.seen import Seen
from streamlearn.core.stream import StreamState
from streamlearn.ingest.buffer import Buffer, size_of
from streamlearn.ingest.intake import open_intake
from streamlearn.ingest.kafka_client import open_consumer
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ports import ObjectStore
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.reader import LineageReader
from tests.fakes.store import Wrapped
from tests.services.kafka import KafkaService
from tests.services.worker import wait_until

BUFFER_RECORDS, BUFFER_BYTES = 300, 400_000
STEP = 64


def configured(folder: Path, **sections: dict[str, Any]) -> Config:
    document: dict[str, Any] = {
        "stream": {"name": "memory"},
        "kafka": {"bootstrap_servers": "127.0.0.1:1", "topics": [TOPIC], "start": "earliest"},
        "store": {"url": str(folder / "store")},
        "model": {"name": "number"},
        "ingest": {
            "buffer_records": BUFFER_RECORDS,
            "buffer_bytes": BUFFER_BYTES,
            "max_sources": 20,
            "fields": {"id": "id", "source": "source"},
        },
        "window": {"max_tokens": 20_000},
        "mix": {"reservoir_tokens": 25_600},
        "learner": {"step_chunks": STEP},
        "http": {"port": 0},
    }
    return config_file.resolve({**document, **sections}, {})


@pytest.fixture
def backlog(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let workers learn a log of so many events that is made up as it is read, with a number for a model."""

    def of(events: int) -> None:
        def opened(config: Config, chunker: Any, telemetry: Any, clock: Any) -> Any:
            lost = LostOffsets(config.kafka.on_lost_data)
            return open_intake(config, MadeUpRecords(events), lost, chunker, telemetry, clock)

        monkeypatch.setitem(vars(bootstrap), "open_learner", without_a_model)
        monkeypatch.setitem(vars(bootstrap), "open_source", opened)

    return of


def offsets(folder: Path) -> list[int]:
    reader = LineageReader(DirectoryStore(folder / "store"), "memory")
    return [line.offset for line in reader.ledger() if isinstance(line, EventLine)]


class Highest:
    """The most that each of some sizes has been."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def note(self, **sizes: int) -> None:
        for name, size in sizes.items():
            self.seen[name] = max(self.seen.get(name, 0), size)


def test_nothing_grows_with_the_length_of_a_backlog(
    backlog: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffer, ledger lines, window, reservoir, memory of texts and sources: each stays at its bound."""
    events, highest, largest = 20_000, Highest(), Highest()
    put, admit, init = Buffer.put, StreamState.admit, Seen.__init__

    def noted_put(buffer: Buffer, arrival: Arrival, *more: Any) -> None:
        put(buffer, arrival, *more)
        highest.note(records=buffer.records, bytes=buffer.bytes)
        largest.note(arrival=size_of(arrival))

    def noted_admit(stream: StreamState, arrival: Arrival) -> Any:
        highest.note(
            lines=stream.ledger_lines,
            waiting=stream.waiting,
            window_tokens=stream.window.tokens,
            reservoir=len(stream.reservoir),
            seen=len(stream._seen),
        )
        return admit(stream, arrival)

    monkeypatch.setattr(Buffer, "put", noted_put)
    monkeypatch.setattr(StreamState, "admit", noted_admit)
    monkeypatch.setattr(Seen, "__init__", lambda seen, length_s: init(seen, length_s, capacity=2_000))
    monkeypatch.setattr(checkpointer, "_DUE_LINES", 1_000)
    monkeypatch.setattr(checkpointer, "_MAX_LINES", 5_000)
    backlog(events)

    with bootstrap.Worker(configured(tmp_path)) as worker:
        report = worker.run(until_end=True)

    assert offsets(tmp_path) == list(range(events))
    assert 0 < highest.seen["records"] <= BUFFER_RECORDS
    assert 0 < highest.seen["bytes"] < BUFFER_BYTES + largest.seen["arrival"]
    assert max(highest.seen["records"] / BUFFER_RECORDS, highest.seen["bytes"] / BUFFER_BYTES) >= 1, "it was full"
    # A checkpoint in flight takes its time, in which the next lines gather.
    assert highest.seen["lines"] <= 5_000 + STEP
    assert highest.seen["waiting"] <= STEP + 2_001 // 255
    assert 15_000 < highest.seen["window_tokens"] <= 20_000
    assert highest.seen["reservoir"] == 100
    assert highest.seen["seen"] == 2_000
    assert report.scores.live_every_chunk is not None
    assert len(report.scores.live_every_chunk.by_source) == 21


class HeldStore(Wrapped):
    """Takes no object of a checkpoint until it is let go."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.go = threading.Event()

    def create(self, key: str, body: bytes) -> str:
        if "/checkpoints/" in key:
            assert self.go.wait(120)
        return super().create(key, body)


def test_a_store_that_is_away_stops_the_stream_at_a_bound(
    backlog: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no checkpoint has taken is held in memory up to a number of lines; then nothing is admitted."""
    events, bound, highest = 6_000, 1_000, Highest()
    monkeypatch.setattr(checkpointer, "_DUE_LINES", 200)
    monkeypatch.setattr(checkpointer, "_MAX_LINES", bound)
    config = configured(tmp_path, ingest={"fields": {"id": "id"}})
    held = HeldStore(DirectoryStore(tmp_path / "store"))
    monkeypatch.setitem(vars(bootstrap), "open_store", lambda _settings: held)
    admit, streams, full = StreamState.admit, list[StreamState](), list[int]()

    def noted_admit(stream: StreamState, arrival: Arrival) -> Any:
        if not streams:
            streams.append(stream)
        highest.note(lines=stream.ledger_lines)
        return admit(stream, arrival)

    monkeypatch.setattr(StreamState, "admit", noted_admit)
    backlog(events)

    with bootstrap.Worker(config) as worker:

        def let_go_when_full() -> None:
            try:
                wait_until(lambda: bool(streams) and streams[0].ledger_lines >= bound, "memory to be full")
                full.append(streams[0].ledger_lines)
            finally:
                held.go.set()

        let_go = threading.Thread(target=let_go_when_full)
        let_go.start()
        worker.run(until_end=True)
        let_go.join(120)

    assert highest.seen["lines"] < bound, "nothing is admitted above it"
    assert full[0] in range(bound, bound + STEP + 2)
    assert offsets(tmp_path) == list(range(events))


def test_librdkafka_fetches_no_further_ahead_than_it_is_told(kafka: KafkaService, tmp_path: Path) -> None:
    """Whatever a topic holds: what is ahead of our own buffer is bounded too."""
    if not kafka.real:
        pytest.skip("librdkafka's mock cluster keeps about 5 MB of a partition; set KAFKA_HOME for a real one")
    topic = kafka.new_topic("ahead", config={"max.message.bytes": "2000000"})
    producer = Producer({"bootstrap.servers": kafka.address, "message.max.bytes": 2_000_000})
    for _ in range(80):
        producer.produce(topic, bytes(500_000), partition=0)
        producer.poll(0.1)
    assert producer.flush(60) == 0
    ahead: list[int] = []

    def look(statistics: str) -> None:
        partition = json.loads(statistics).get("topics", {}).get(topic, {}).get("partitions", {}).get("0", {})
        ahead.append(partition.get("fetchq_size", 0))

    consumer = open_consumer(
        configured(
            tmp_path,
            kafka={
                "bootstrap_servers": kafka.address, "topics": [topic], "client": {"statistics.interval.ms": 200},
            },
        ),
        on_error=lambda _error: None, on_commit=lambda _error, _offsets: None, on_statistics=look,
        monotonic=lambda: 0.0,
    )  # fmt: skip
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        taken = sum(consumer.poll(5.0) is not None for _ in range(2))
        assert taken == 2
        wait_until(lambda: _settled(consumer, ahead), "the queue to settle")
    finally:
        consumer.close()

    # Above the bound by one answer of a broker at most.
    assert 8 * 2**20 < max(ahead) <= 16 * 2**20 + 4 * 2**20


def _settled(consumer: Any, ahead: list[int]) -> bool:
    consumer.poll(0.05)
    return len(ahead) >= 5 and max(ahead) > 8 * 2**20 and ahead[-1] <= ahead[-2]
