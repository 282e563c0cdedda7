"""One stream lived in many ways, and what each way came to, byte for byte.

Lives are processes forked from one that has imported torch already, so that a
life costs its work and not its imports; they are killed as any process is.
What a lineage came to is read from the store without the package's own reader.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from streamlearn import bootstrap
from streamlearn.config_file import load
from streamlearn.core.events import Record
from streamlearn.core.manifest import LEDGER_LINE
from streamlearn.core.stream import StreamState
from streamlearn.ingest.refine import Refiner
from streamlearn.learner.open import open_learner
from streamlearn.lessons import Lessons
from tests.chaos import worker
from tests.services.kafka import KafkaService, quiet_logger
from tests.services.s3 import S3Server
from tests.services.worker import DEADLINE_S, wait_until
from tests.unit.core.replay import replay

_LINEAGE = "line"
_FOLDER_OF = {"adapter": "adapter.safetensors", "optimizer": "optimizer.safetensors", "window": "window.safetensors"}
_SKEW_S = 200.0
"""How wrong the clock of the first life is; those of later ones are ever more so, before and behind in turn."""
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__, "peft", "transformers.models.llama.modeling_llama", "streamlearn.cli.run"])

Document = Mapping[str, Mapping[str, Any]]
"""Section -> key -> value of a configuration."""


# --- what a lineage came to ------------------------------------------------------------------


@dataclass(frozen=True)
class CameTo:
    """What a lineage has committed."""

    ledger: tuple[bytes, ...]
    """Its lines as they are on the store, those of all checkpoints one after the other."""
    topic: str
    files: Mapping[str, str]
    """sha256 of adapter, optimizer and window of the newest checkpoint."""
    progress: Mapping[str, int]
    """Partition -> next offset of the topic."""
    totals: Mapping[str, int]
    watched: Mapping[str, Any]
    """What the newest checkpoint knows of junk, drift and gradients; the past is in the files."""
    rulings: Sequence[Mapping[str, Any]]
    """What was decided about versions, over the life of the lineage."""
    aliases: Mapping[str, Mapping[str, Any]]
    checkpoints: int
    epoch: int

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ledger]

    def offsets(self) -> dict[int, list[int]]:
        """Return the offsets of each partition in the order of the ledger."""
        found: dict[int, list[int]] = {}
        for line in self.lines:
            if line["kind"] == "event":
                found.setdefault(line["partition"], []).append(line["offset"])
        return found

    def assert_same(self, other: CameTo) -> None:
        """Both have learnt the same, in the same order, with the same scores and to the same bytes.

        The topics' names may differ.
        """
        name = self.topic.encode(), other.topic.encode()
        for number, (ours, theirs) in enumerate(zip(self.ledger, other.ledger, strict=False)):
            assert ours.replace(*name) == theirs, f"ledger line {number} differs"
        assert len(self.ledger) == len(other.ledger)
        assert self.files == other.files
        assert self.progress == other.progress
        assert self.totals == other.totals
        assert self.watched == other.watched
        assert [_renamed(ruling, *name) for ruling in self.rulings] == list(other.rulings)


def _renamed(ruling: Mapping[str, Any], ours: bytes, theirs: bytes) -> Any:
    return json.loads(json.dumps(ruling).encode().replace(ours, theirs))


# --- lives -----------------------------------------------------------------------------------


class _Struck(bootstrap.Worker):
    """Kills its process when the lineage has taken so many steps."""

    steps = 0

    def run(self, **knobs: Any) -> Any:
        def strike(progressed: Any) -> None:
            if progressed.totals.steps == self.steps:
                os.kill(os.getpid(), signal.SIGKILL)

        return super().run(**knobs, on_step=strike)


def _aside(log: Path) -> None:
    """Send what this process says to `log`."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)


def _live(log: Path, arguments: Sequence[str], kill_at_step: int | None) -> None:
    """Be a worker; in a process of its own."""
    _aside(log)
    if kill_at_step is not None:
        _Struck.steps = kill_at_step
        bootstrap.Worker = _Struck  # type: ignore[misc]
    worker.main(arguments)


class Life:
    """A worker's process."""

    def __init__(self, process: BaseProcess, log: Path) -> None:
        self._process = process
        self.log = log

    def wait(self) -> int:
        """Return its exit code, that of a killed one negative."""
        self._process.join(DEADLINE_S)
        assert self._process.exitcode is not None, f"it does not end: {self.said()}"
        return self._process.exitcode

    def send(self, number: signal.Signals) -> int:
        """Send a signal that ends it; return its exit code."""
        assert self._process.pid is not None
        assert self._process.is_alive(), f"it has ended by itself: {self.said()}"
        os.kill(self._process.pid, number)
        return self.wait()

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else "nothing"


class Lineage:
    """A configuration of its own on a topic that others may read too, and the lives that extend it."""

    def __init__(self, bench: Bench, topic: str, *documents: Document) -> None:
        self.topic = topic
        self._folder = bench.new_folder()
        self._s3 = bench.s3
        self._store = bench.s3.fresh()
        self._lives = 0
        self.config = self._folder / "streamlearn.toml"
        store: dict[str, Any] = {"url": self._store.url}
        keys: dict[str, str | None] = {"access_key_id": bench.s3.access_key, "secret_access_key": bench.s3.secret_key}
        keys |= {"endpoint_url": bench.s3.endpoint_url, "session_token": bench.s3.session_token}
        self._document: dict[str, dict[str, Any]] = {
            "stream": {"name": _LINEAGE, "seed": 7},
            "kafka": {"bootstrap_servers": bench.kafka.address, "topics": [topic], "start": "earliest"},
            "ingest.fields": {"id": "id"},
            "store": store,
            "store.s3": {key: value for key, value in keys.items() if value is not None},
            "model": {"name": str(bench.model), "device": "cpu", "dtype": "fp32", "context_tokens": 32},
            # No flush unless a test asks for it: what it decides is not the events' doing.
            "learner": {"learning_rate": 1e-2, "threads": 1, "step_chunks": 3, "flush_s": 3600.0},
            # So small that all of it overflows, or replay would be the same whatever was forgotten.
            "window": {"half_life": "30s", "min_effective_chunks": 8, "max_tokens": 600},
            "mix": {"reservoir_tokens": 320},
            "anchor": {"file": str(bench.anchor)},
            "evaluation": {"sample": 0.5},
            "checkpoint": {"every_s": 3600.0},
            "publish": {"every": "9steps"},
            # A killed writer's lease must run out before the next one begins; nobody competes for it.
            "lease": {"ttl_s": 0.5},
            "http": {"port": 0},
            "log": {"format": "json"},
        }
        self.configure(*documents)

    def configure(self, *documents: Document) -> None:
        """Change the configuration for the lives to come."""
        for document in documents:
            for section, keys in document.items():
                self._document.setdefault(section, {}).update(keys)
        self.config.write_text(
            "".join(
                f"[{section}]\n" + "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in keys.items())
                for section, keys in self._document.items()
            )
        )

    def arguments(self, *rest: str, faults: Sequence[str] = ()) -> list[str]:
        """Return what the next life is told, after `python -m tests.chaos.worker`."""
        self._lives += 1
        blows = [part for fault in faults for part in ("--fault", fault)]
        skew = f"--skew={self._lives * _SKEW_S * (-1) ** self._lives}"
        return [*blows, skew, "--", "run", *rest, "-c", str(self.config)]

    @contextmanager
    def living(self, *rest: str, faults: Sequence[str] = (), kill_at_step: int | None = None) -> Iterator[Life]:
        """Let a worker live until the block ends."""
        log = self._folder / f"{self._lives}.log"
        told = (log, self.arguments(*rest, faults=faults), kill_at_step)
        process = _processes.Process(target=_live, args=told, daemon=True)
        process.start()
        try:
            yield Life(process, log)
        finally:
            process.kill()
            process.join(30)

    def live(self, *, faults: Sequence[str] = (), kill_at_step: int | None = None, exits: int = 0) -> Life:
        """Let a worker run to the end of the topic, or to its own."""
        with self.living("--until-end", faults=faults, kill_at_step=kill_at_step) as life:
            assert life.wait() == exits, life.said()
        return life

    def wait_for(self, condition: Callable[[CameTo], object], what: str) -> None:
        """Return when what is committed fulfils `condition`."""

        def look() -> object:
            came = self.came_to()
            return came is not None and condition(came)

        wait_until(look, what)

    def came_to(self) -> CameTo | None:
        """Return what is committed; none before the first checkpoint."""
        client = self._s3.client()
        bucket, _, prefix = self._store.url.removeprefix("s3://").partition("/")

        def body(key: str) -> bytes:
            return client.get_object(Bucket=bucket, Key=f"{prefix}/{_LINEAGE}/{key}")["Body"].read()

        try:
            head = json.loads(body("head.json"))
        except client.exceptions.NoSuchKey:
            return None
        name, states, ledgers = head["checkpoint"], [], []
        while name is not None:
            raw = body(f"checkpoints/{name}/state.json")
            assert name.endswith(hashlib.sha256(raw).hexdigest()[:12])
            states.append(json.loads(raw))
            ledgers.append(gzip.decompress(body(f"ledger/{name}.jsonl.gz")))
            name = states[-1]["parent"]
        if not states:
            return None
        newest = states[0]
        return CameTo(
            ledger=tuple(line for part in reversed(ledgers) for line in part.splitlines()),
            topic=self.topic,
            files={what: newest["files"][file]["sha256"] for what, file in _FOLDER_OF.items()},
            progress=newest["progress"].get(self.topic, {}),
            totals=newest["totals"],
            watched={name: newest["stream"][name] for name in ("vigilance", "lessons")},
            rulings=list(
                {each["number"]: each for state in reversed(states) for each in state["judgement"]["rulings"]}.values()
            ),
            aliases={name: json.loads(body(f"aliases/{name}.json")) for name in self._aliases(client, bucket, prefix)},
            checkpoints=len(states),
            epoch=newest["epoch"],
        )

    def _aliases(self, client: Any, bucket: str, prefix: str) -> list[str]:
        folder = f"{prefix}/{_LINEAGE}/aliases/"
        found = client.list_objects_v2(Bucket=bucket, Prefix=folder).get("Contents", [])
        return [entry["Key"].removeprefix(folder).removesuffix(".json") for entry in found]

    def must_have_come_to(self) -> CameTo:
        """Return what is committed; something is."""
        came = self.came_to()
        assert came is not None, "nothing was committed"
        return came

    def replayed(self) -> tuple[tuple[bytes, ...], Mapping[str, str]]:
        """Return ledger lines and digests of one life without Kafka, store, checkpoints or a clock.

        It follows the committed ledger and reads the topic's records; see `replay`.
        """
        lines, answer = self._folder / "ledger.jsonl", self._folder / "replayed.json"
        lines.write_bytes(b"\n".join(self.must_have_come_to().ledger))
        log = self._folder / "replay.log"
        process = _processes.Process(target=_replay, args=(log, self.config, self.topic, lines, answer), daemon=True)
        process.start()
        process.join(DEADLINE_S)
        assert process.exitcode == 0, log.read_text(errors="replace")[-3000:]
        found = json.loads(answer.read_text())
        return tuple(line.encode() for line in found["ledger"]), found["files"]

    def assert_as_in_one_life(self) -> None:
        """What is committed is what one undisturbed life would have come to by the same events in the same order."""
        came = self.must_have_come_to()
        ledger, files = self.replayed()
        assert ledger == came.ledger
        assert files == came.files


# --- a life without all that can go wrong ------------------------------------------------------


def _replay(log: Path, config: Path, topic: str, lines: Path, answer: Path) -> None:
    _aside(log)
    try:
        answer.write_text(json.dumps(_lived_by(config, topic, lines)))
    except BaseException:
        traceback.print_exc()
        raise


def _lived_by(path: Path, topic: str, lines: Path) -> Mapping[str, Any]:
    from streamlearn.core.arrays import to_bytes

    config = load(path)
    opened = open_learner(config)
    state = StreamState(bootstrap.stream_settings(config, opened.context_tokens))
    state.rehearse(opened.anchor(lambda *_: True) or ())
    lessons = Lessons(opened.learner, state, bootstrap.lesson_settings(config))
    near = config.hygiene.near_duplicates
    refiner = Refiner(config.ingest, opened.chunker, bootstrap.SystemClock(), near_duplicates=near)
    isolation = str(config.kafka.client.get("isolation.level", "read_committed"))
    arrivals = {
        (record.topic, record.partition, record.offset): refiner.refine(record)
        for record in records_of(config.kafka.bootstrap_servers, topic, isolation=isolation)
    }
    ledger = [LEDGER_LINE.validate_json(line) for line in lines.read_bytes().splitlines()]
    found = replay(state, ledger, arrivals, lessons.take)
    files = opened.learner.snapshot().files() | {_FOLDER_OF["window"]: to_bytes(state.arrays())}
    return {
        "ledger": [line.model_dump_json() for line in found],
        "files": {what: hashlib.sha256(files[file]).hexdigest() for what, file in _FOLDER_OF.items()},
    }


# --- the bench ---------------------------------------------------------------------------------


class Bench:
    """A broker, a store, a model and room for files."""

    def __init__(self, kafka: KafkaService, s3: S3Server, model: Path, folder: Path) -> None:
        self.kafka = kafka
        self.s3 = s3
        self.model = model
        self._folder = folder
        self._folders = 0
        self.anchor = folder / "anchor.txt"
        self.anchor.write_text("what must not be forgotten: an apple a day, and look before you leap. " * 4)

    def new_folder(self) -> Path:
        self._folders += 1
        folder = self._folder / f"lineage-{self._folders}"
        folder.mkdir()
        return folder

    def new_topic(self, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Create a topic that keeps events however old their time stamps are."""
        return self.kafka.new_topic("compare", partitions=partitions, config={"retention.ms": "-1", **(config or {})})

    def producer(self, **properties: Any) -> Producer:
        return Producer(
            {"bootstrap.servers": self.kafka.address, "enable.idempotence": True, **properties}, logger=quiet_logger()
        )

    def produce(self, topic: str, events: Sequence[tuple[bytes, int]], *, partitions: int = 1) -> None:
        """Write values with their time stamps in milliseconds, one partition after the other in turn."""
        producer = self.producer()
        for number, (value, ms) in enumerate(events):
            producer.produce(topic, value, partition=number % partitions, timestamp=ms)
        assert producer.flush(60) == 0


def records_of(address: str, topic: str, *, isolation: str = "read_committed") -> list[Record]:
    """Return all records of a topic, partition by partition, as a client of our own reads them."""
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "look", "isolation.level": isolation, "enable.partition.eof": True}
        | {"auto.offset.reset": "error", "enable.auto.commit": False},
        logger=quiet_logger(),
    )
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        found: list[Record] = []
        ended: set[int] = set()
        while ended != set(partitions):
            if (message := consumer.poll(60.0)) is None:
                raise TimeoutError(f"no answer about {topic}")
            partition, offset, error = message.partition(), message.offset(), message.error()
            assert partition is not None
            assert offset is not None
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error.str()
                ended.add(partition)
                continue
            found.append(
                Record(
                    topic=topic,
                    partition=partition,
                    offset=offset,
                    key=message.key(),
                    value=message.value(),
                    timestamp=message.timestamp()[1] / 1000.0,
                )
            )
    finally:
        consumer.close()
    return sorted(found, key=lambda record: (record.partition, record.offset))
