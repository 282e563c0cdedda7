"""Objects on the store that are cut, changed or gone: told loudly, learnt again exactly, never passed over in silence.

One lineage is grown on a real worker; each case takes a copy of it, does harm,
and lets a worker go on. The reader is the one that operators have.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from structlog.testing import capture_logs

from streamlearn import bootstrap, config_file
from streamlearn.core import arrays
from streamlearn.core.manifest import CheckpointState, EventLine, ScoreLine, version_name
from streamlearn.ports import Fatal
from streamlearn.registry import ledger
from streamlearn.registry.chain import read_chain
from streamlearn.registry.checkpoints import checkpoint_id, read_checkpoint, read_state, write_checkpoint
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.documents import Damaged, digest_of, to_bytes
from streamlearn.registry.head import read_head
from streamlearn.registry.keys import Keys
from streamlearn.registry.reader import LineageReader
from tests.contract import making
from tests.fakes.daemon import SilentTelemetry
from tests.services.kafka import KafkaService
from tests.services.worker import DEADLINE_S, STREAMLEARN

EVENTS, EVERY = 43, 10
KEYS = Keys("news")

Damage = Callable[[Path], Any]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def alter(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0x01
    path.write_bytes(bytes(body))


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: Mapping[str, Damage] = {"truncated": truncate, "altered": alter, "emptied": empty, "removed": Path.unlink}


@dataclass(frozen=True)
class Grown:
    """A lineage on a directory, and what its worker was told."""

    folder: Path
    document: str
    topic: str

    @property
    def root(self) -> Path:
        return self.folder / "store"

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self.root)

    @property
    def newest(self) -> str:
        """The checkpoint of the head."""
        found = read_head(self.store, KEYS)[0].checkpoint
        assert found is not None
        return found

    def path(self, key: str) -> Path:
        return self.root / key

    def reader(self, damages: list[str] | None = None) -> LineageReader:
        return LineageReader(self.store, "news", on_damage=(damages if damages is not None else []).append)

    def chain(self) -> list[tuple[CheckpointState, list[EventLine | ScoreLine]]]:
        """Return every committed checkpoint with its lines, oldest first."""
        links = read_chain(self.store, KEYS, self.newest)
        return [
            (
                read_state(self.store, KEYS, link.name),
                list(ledger.unpack(link.name, self.store.get(KEYS.ledger(link.name)).body)),
            )
            for link in links
        ]

    @property
    def config(self) -> Path:
        path = self.folder / "streamlearn.toml"
        path.write_text(self.document.format(store=self.root))
        return path

    def copy(self, folder: Path) -> Grown:
        shutil.copytree(self.root, folder / "store")
        return Grown(folder, self.document, self.topic)


@dataclass
class Run:
    """What a worker said while it went on."""

    logs: list[Any]
    damaged: float

    def errors(self) -> list[str]:
        return [json.dumps(line) for line in self.logs if line["log_level"] == "error"]


@contextmanager
def worked(lineage: Grown) -> Iterator[Run]:
    """Let a worker learn to the end of the topic; what it has said is there while its metrics are."""
    with capture_logs() as logs, bootstrap.Worker(config_file.load(lineage.config, {})) as worker:
        worker.run(until_end=True)
        with urllib.request.urlopen(f"http://{worker.http_address}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        yield Run(
            logs, sum(float(x.split()[-1]) for x in lines if x.startswith("streamlearn_checkpoints_damaged_total "))
        )


@pytest.fixture(scope="module")
def grown(kafka: KafkaService, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    """A lineage by two runs of a worker; the second's only checkpoint has three events, and is a version.

    An even number of events before that, so that the end of the first run flushes nothing and leaves no trace.
    """
    topic = kafka.new_topic("corruption")
    document = f"""
        [stream]
        name = "news"
        [kafka]
        bootstrap_servers = "{kafka.address}"
        topics = ["{topic}"]
        start = "earliest"
        [ingest.fields]
        id = "id"
        [store]
        url = "{{store}}"
        [model]
        name = "{tiny_model}"
        device = "cpu"
        dtype = "fp32"
        [anchor]
        chunks = 4
        tokens = 16
        [learner]
        threads = 1
        flush_s = 600
        [checkpoint]
        every_s = 600
        every_events = {EVERY}
        [publish]
        every = "9steps"
        [http]
        port = 0
        [log]
        format = "json"
    """
    lineage = Grown(tmp_path_factory.mktemp("grown"), document, topic)
    for first, last in ((0, EVENTS - 3), (EVENTS - 3, EVENTS)):
        produce(kafka, topic, first, last)
        with worked(lineage) as run:
            assert run.damaged == 0
            assert run.errors() == []
    chain = lineage.chain()
    assert offsets(chain[-1][1]) == [40, 41, 42]
    assert offsets(chain[-2][1])
    assert (chain[-1][0].epoch, chain[-1][0].version) == (2, read_head(lineage.store, KEYS)[0].version)
    return lineage


def produce(kafka: KafkaService, topic: str, first: int, last: int) -> None:
    producer = Producer({"bootstrap.servers": kafka.address, "enable.idempotence": True})
    for number in range(first, last):
        text = f"the quick brown fox number {number} jumps over the lazy dog"
        producer.produce(topic, json.dumps({"id": f"event-{number}", "text": text}).encode(), partition=0)
    assert producer.flush(60) == 0


def offsets(lines: list[EventLine | ScoreLine]) -> list[int]:
    return [line.offset for line in lines if isinstance(line, EventLine)]


OBJECTS = {name: name for name in ("adapter.safetensors", "optimizer.safetensors", "window.safetensors", "state.json")}
OBJECTS |= {"ledger": "ledger"}


def key_of(checkpoint: str, name: str) -> str:
    return KEYS.ledger(checkpoint) if name == "ledger" else KEYS.checkpoint(checkpoint, name)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("name", OBJECTS)
def test_whatever_is_damaged_of_a_checkpoint_its_parent_is_what_is_continued_from(
    grown: Grown, tmp_path: Path, name: str, damage: Damage
) -> None:
    """Every object, every way; the next test goes on from there with a real worker."""
    lineage, newest, parent = grown.copy(tmp_path), grown.newest, grown.chain()[-2][0]
    damage(lineage.path(key_of(newest, name)))
    telemetry = SilentTelemetry()

    with capture_logs() as logs:
        writer = making.writer(lineage.store, telemetry=telemetry)
        restored = writer.acquire(making.never)

    assert restored is not None
    assert restored.state == parent
    assert restored.files == read_checkpoint(lineage.store, KEYS, checkpoint_id(parent)).files
    assert telemetry.counts["streamlearn_checkpoints_damaged_total"] == 1
    said = [line for line in logs if line["log_level"] == "error"]
    assert [line["event"].split(":")[0].split(";")[0] for line in said] == [
        "CHECKPOINT DAMAGED",
        "CONTINUING FROM AN OLDER CHECKPOINT",
    ]
    assert key_of(newest, name) in said[0]["why"]
    assert (said[1]["instead_of"], said[1]["progress"]) == (newest, parent.progress)


@pytest.mark.parametrize(
    ("name", "damage"), list(zip(OBJECTS, [truncate, alter, Path.unlink, empty, alter], strict=True)), ids=OBJECTS
)
def test_what_a_damaged_checkpoint_held_is_learnt_again_exactly(
    grown: Grown, tmp_path: Path, name: str, damage: Damage
) -> None:
    """Every offset stands once in the ledger, the repeated ones with the later epoch, and the adapter is the same."""
    lineage, before = grown.copy(tmp_path), grown.chain()
    damage(lineage.path(key_of(grown.newest, name)))

    with worked(lineage) as run:
        assert run.damaged == 1
        assert any("CHECKPOINT DAMAGED" in line and key_of(grown.newest, name) in line for line in run.errors())

    chain = lineage.chain()
    assert [line for _, lines in chain for line in lines] == [line for _, lines in before for line in lines]
    assert [line.offset for line in lineage.reader().ledger() if isinstance(line, EventLine)] == list(range(EVENTS))
    assert [number for state, lines in chain if state.epoch == 3 for number in offsets(lines)] == [40, 41, 42]
    assert [state.epoch for state, _ in chain[:-1]] == [state.epoch for state, _ in before[:-1]]
    assert chain[-1][0].files["adapter.safetensors"] == before[-1][0].files["adapter.safetensors"]
    newest = lineage.reader().versions()[-1]
    assert (newest.manifest.epoch, newest.aliases) == (3, ("latest",))
    assert newest.manifest.version == version_name((before[-1][0].version or 0) + 1)
    # What was published of the damaged one stays, and is nobody's parent.
    assert newest.manifest.parent == version_name(before[-1][0].parent_version or 0)


def test_two_damaged_checkpoints_are_two_steps_back(grown: Grown, tmp_path: Path) -> None:
    """As far as need be, and each of them is told."""
    lineage, before = grown.copy(tmp_path), grown.chain()
    truncate(lineage.path(key_of(grown.newest, "state.json")))
    alter(lineage.path(key_of(before[-1][0].parent or "", "optimizer.safetensors")))

    with worked(lineage) as run:
        assert run.damaged == 2

    chain = lineage.chain()
    assert [line for _, lines in chain for line in lines] == [line for _, lines in before for line in lines]
    repeated = [*offsets(before[-2][1]), 40, 41, 42]
    assert [number for state, lines in chain if state.epoch == 3 for number in offsets(lines)] == repeated


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_manifest_of_the_newest_version_is_told_and_learning_goes_on(
    grown: Grown, tmp_path: Path, damage: Damage
) -> None:
    """Who looks is told which; one that is gone is written again, byte for byte, as its checkpoint is whole."""
    lineage = grown.copy(tmp_path)
    newest = read_head(lineage.store, KEYS)[0].version
    path = lineage.path(KEYS.version(newest, "manifest.json"))
    whole = path.read_bytes()
    damage(path)
    if damage is alter:
        # Still JSON, and no longer what may be.
        path.write_bytes(whole.replace(b'"epoch":2', b'"epoch":0'))

    with worked(lineage) as run:
        assert run.damaged == 0
        told = [line for line in run.errors() if "MANIFEST OF THE NEWEST VERSION IS DAMAGED" in line]

    damages: list[str] = []
    versions = [found.manifest.version for found in lineage.reader(damages).versions()]
    if damage is Path.unlink:
        assert (path.read_bytes(), told, damages) == (whole, [], [])
        assert versions == [version_name(number) for number in range(1, newest + 1)]
    else:
        assert len(told) == 1
        assert versions == [version_name(number) for number in range(1, newest)]
        assert len(damages) == 1
        assert version_name(newest) in damages[0]
        assert KEYS.version(newest, "manifest.json") in damages[0]


@pytest.mark.parametrize("damage", [truncate, alter, empty], ids=["truncated", "altered", "emptied"])
def test_a_damaged_file_of_a_version_is_named_by_who_pulls_it(grown: Grown, tmp_path: Path, damage: Damage) -> None:
    """Nothing of it arrives."""
    lineage = grown.copy(tmp_path)
    key = KEYS.version(read_head(lineage.store, KEYS)[0].version, "adapter_model.safetensors")
    damage(lineage.path(key))
    reader = lineage.reader()

    with pytest.raises(Damaged, match=f"{key} is damaged: expected sha256"):
        reader.pull(reader.manifest("latest"), tmp_path / "pulled")

    assert not (tmp_path / "pulled").exists()


@pytest.mark.parametrize("damage", [truncate, empty], ids=["truncated", "emptied"])
def test_a_damaged_alias_stops_the_worker_before_it_learns_until_it_is_removed(
    grown: Grown, tmp_path: Path, damage: Damage
) -> None:
    """Its history and its fence cannot be guessed; the line says how to go on, and that works."""
    lineage = grown.copy(tmp_path)
    path = lineage.path(KEYS.alias("latest"))
    damage(path)

    with pytest.raises(Fatal, match=f"{KEYS.alias('latest')} is damaged .*remove it"), worked(lineage):
        pass
    assert lineage.newest == grown.newest
    path.unlink()
    with worked(lineage):
        pass

    aliases = [found.aliases for found in lineage.reader().versions()]
    assert aliases == [*[()] * (len(aliases) - 1), ("latest",)]


def test_a_damaged_ledger_further_back_is_named_by_who_reads_it(grown: Grown, tmp_path: Path) -> None:
    """What is behind it is not shown: a ledger with a hole in it proves nothing."""
    lineage = grown.copy(tmp_path)
    first = read_chain(lineage.store, KEYS, grown.newest)[0].name
    alter(lineage.path(KEYS.ledger(first)))

    with pytest.raises(Damaged, match=f"{KEYS.ledger(first)} is damaged: expected sha256"):
        list(lineage.reader().ledger())


def test_where_every_checkpoint_is_damaged_there_is_one_clear_line(grown: Grown, tmp_path: Path) -> None:
    """Exit code 1, no traceback, nothing committed: to begin anew is for an operator to decide."""
    lineage = grown.copy(tmp_path)
    links = read_chain(lineage.store, KEYS, grown.newest)
    for link in links:
        truncate(lineage.path(KEYS.checkpoint(link.name, "adapter.safetensors")))

    done = subprocess.run(
        [*STREAMLEARN, "run", "--until-end", "-c", str(lineage.config)],
        capture_output=True, text=True, check=False, timeout=2 * DEADLINE_S,
    )  # fmt: skip

    assert done.returncode == 1, done.stderr[-3_000:]
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("streamlearn: ")
    assert "adapter.safetensors is damaged" in last
    assert "no checkpoint before it can be used. Restore the object from a backup" in last
    assert done.stderr.count("CHECKPOINT DAMAGED") == len(links)
    assert lineage.newest == grown.newest


def forged(lineage: Grown, change: Callable[[dict[str, Any], dict[str, bytes]], Any]) -> None:
    """Put another checkpoint in the newest one's place, every digest of which is right."""
    found = read_checkpoint(lineage.store, KEYS, lineage.newest)
    document, files = found.state.model_dump(), dict(found.files)
    change(document["stream"], files)
    document["files"] = {name: digest_of(body) for name, body in files.items()}
    lines = lineage.store.get(KEYS.ledger(found.id)).body
    name, _ = write_checkpoint(lineage.store, KEYS, CheckpointState(**document), files, lines)
    head, etag = read_head(lineage.store, KEYS)
    lineage.store.swap(KEYS.head, to_bytes(head.model_copy(update={"checkpoint": name})), etag)


FORGERIES: dict[str, Callable[[dict[str, Any], dict[str, bytes]], Any]] = {
    "no generator": lambda stream, _files: stream.pop("random"),
    "a generator of another kind": lambda stream, _files: stream.update(random={"state": "x", "inc": []}),
    "another queue": lambda stream, _files: stream.update(queue=[{"event_id": "x"}]),
    "never published": lambda stream, _files: stream.pop("published"),
    "an empty window": lambda _stream, files: files.update({"window.safetensors": arrays.to_bytes({})}),
    "a window that is none": lambda _stream, files: files.update({"window.safetensors": b"\x80\x04cos\nsystem\n."}),
    "no window": lambda _stream, files: files.pop("window.safetensors"),
    "an adapter that is none": lambda _stream, files: files.update({"adapter.safetensors": b"\x80\x04cos\nsystem\n."}),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_checkpoint_is_one_clear_line(
    grown: Grown, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], Any]
) -> None:
    """Its digests are right, so there is no falling back; and no traceback from the middle of a state either."""
    lineage = grown.copy(tmp_path)
    forged(lineage, change)

    with (
        pytest.raises(Fatal, match=r"state that this release does not write|checkpoint's .*safetensors"),
        worked(lineage),
    ):
        pass

    assert lineage.chain()[:-1] == grown.chain()[:-1], "nothing was committed"
