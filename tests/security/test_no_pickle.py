"""What comes from a store or from Kafka is data, and never runs."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grimp
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from safetensors.numpy import load_file, save_file

from streamlearn.bootstrap import Worker
from streamlearn.cli.app import main as streamlearn
from streamlearn.config import Config
from streamlearn.config_file import resolve
from streamlearn.ports import StreamlearnError
from tests.services.kafka import MockKafka
from tests.services.worker import wait_until

ROOT = Path(__file__).parents[2] / "streamlearn"

# --- what the code may use ----------------------------------------------------------

FORBIDDEN_MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml", "jsonpickle",
    "pickletools", "code", "codeop", "runpy",
}  # fmt: skip
"""Modules that turn bytes into code or into any object; `yaml` because nothing of ours reads it."""
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "torch.load", "torch.hub.load", "torch.package.PackageImporter",
    "torch.jit.load", "numpy.fromstring", "numpy.fromregex", "pandas.read_pickle", "os.system", "os.popen",
    "os.execv", "os.execve", "os.execvp", "os.spawnv", "subprocess.getoutput", "subprocess.getstatusoutput",
    "importlib.import_module", "pydoc.locate",
}  # fmt: skip
FORBIDDEN_ARGUMENTS = {"allow_pickle", "trust_remote_code", "shell"}
"""Keywords that may be given as False only."""


def test_nothing_that_turns_bytes_into_code_is_imported() -> None:
    """By the graph of all our modules' imports, those inside functions included."""
    graph = grimp.build_graph("streamlearn", include_external_packages=True, cache_dir=None)
    ours = {module for module in graph.modules if module.split(".")[0] == "streamlearn"}
    assert len(ours) > 80
    found = {(module, used) for module in ours for used in graph.find_modules_directly_imported_by(module)}
    assert {("streamlearn.learner.snapshot", "safetensors")} <= found, "the graph sees what lies outside"
    assert [pair for pair in found if pair[1].split(".")[0] in FORBIDDEN_MODULES] == []


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_module_of_ours_runs_what_it_reads(file: Path) -> None:
    assert faults_in(file.read_text("utf-8")) == []


def faults_in(source: str) -> list[str]:
    """Return the calls in `source` that would run, or rebuild objects from, what they are given."""
    tree = ast.parse(source)
    modules, names = _imported(tree)
    faults = [f"import {module}" for module in sorted(modules) if module.split(".")[0] in FORBIDDEN_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _written(node.func, names)
            if name in FORBIDDEN_CALLS:
                faults.append(f"{name} at line {node.lineno}")
            faults += [
                f"{name}({keyword.arg}=…) at line {node.lineno}"
                for keyword in node.keywords
                if keyword.arg in FORBIDDEN_ARGUMENTS
                and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            ]
    return faults


def _imported(tree: ast.AST) -> tuple[set[str], dict[str, str]]:
    """Return the modules that are imported, and what each name that an import makes stands for."""
    modules, names = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                modules.add(each.name)
                names[each.asname or each.name.split(".")[0]] = each.name if each.asname else each.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return modules, names


def _written(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_written(node.value, names)}.{node.attr}"
    return "?"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import loads",
        "def f():\n    import _pickle as p",
        "import torch as t\nt.load('x')",
        "from torch import load as l\nl('x')",
        "eval('1')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "model.from_pretrained('x', trust_remote_code=True)",
        "model.from_pretrained('x', trust_remote_code=config.trust)",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import yaml\nyaml.load('x')",
        "import os\nos.system('x')",
    ],
)
def test_the_search_finds_each_of_them(source: str) -> None:
    """A search that finds nothing anywhere proves nothing."""
    assert faults_in(source) != []


# --- what a store may do to us --------------------------------------------------------


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.mark, "it ran")


@pytest.fixture(scope="module")
def broker() -> MockKafka:
    return MockKafka()


@dataclass
class Lineage:
    """A lineage of two versions in a directory, and what would run if anything did."""

    folder: Path
    document: dict[str, Any]
    mark: Path

    @property
    def config(self) -> Config:
        return resolve(self.document, {})

    @property
    def bomb(self) -> bytes:
        return pickle.dumps(Bomb(self.mark))

    @property
    def store(self) -> Path:
        return self.folder / "store/news"

    @property
    def newest(self) -> Path:
        """The head checkpoint's folder."""
        head = json.loads((self.store / "head.json").read_bytes())
        return self.store / "checkpoints" / str(head["checkpoint"])

    def run(self) -> str:
        """Run the worker to the end of the topic and return what it died of, in words; nothing where it did not."""
        try:
            with Worker(self.config) as worker:
                worker.run(until_end=True)
        except (StreamlearnError, ValueError) as error:
            return str(error)
        return ""

    def command(self, *arguments: str, capture: pytest.CaptureFixture[str]) -> tuple[int, str]:
        """Run a command line and return its exit code and what it said on standard error."""
        with pytest.raises(SystemExit) as ending:
            streamlearn([*arguments, "--store", str(self.folder / "store"), "--lineage", "news"])
        return int(str(ending.value.code)), capture.readouterr().err

    def forge(self, file: str, body: bytes) -> None:
        """Put `body` in the place of a file of the head checkpoint, as one does who may write all of the store."""
        old = self.newest
        (old / file).write_bytes(body)
        state = json.loads((old / "state.json").read_bytes())
        state["files"][file] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
        written = json.dumps(state, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        (old / "state.json").write_bytes(written)
        name = f"{old.name.partition('-')[0]}-{hashlib.sha256(written).hexdigest()[:12]}"
        (self.store / f"ledger/{old.name}.jsonl.gz").rename(self.store / f"ledger/{name}.jsonl.gz")
        old.rename(old.with_name(name))
        head = json.loads((self.store / "head.json").read_bytes()) | {"checkpoint": name}
        (self.store / "head.json").write_text(json.dumps(head))


@pytest.fixture(scope="module")
def original(broker: MockKafka, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    folder = tmp_path_factory.mktemp("lineage")
    topic = broker.new_topic("news")
    producer = Producer({"bootstrap.servers": broker.address})
    for number in range(8):
        producer.produce(topic, json.dumps({"text": f"one thing after the other {number}"}).encode(), partition=0)
    producer.flush(30)
    document = {
        "stream": {"name": "news"},
        "kafka": {"bootstrap_servers": broker.address, "topics": [topic], "start": "earliest"},
        "store": {"url": str(folder / "store"), "retry_budget_s": 0},
        "model": {"name": str(tiny_model), "device": "cpu", "dtype": "fp32"},
        "anchor": {"chunks": 4, "tokens": 16},
        "learner": {"flush_s": 0.2},
        "checkpoint": {"every_events": 2},
        "lease": {"ttl_s": 2},
        "http": {"port": 0},
    }
    lineage = Lineage(folder, document, folder / "ran")
    assert lineage.run() == ""
    return lineage


@pytest.fixture
def lineage(original: Lineage, tmp_path: Path) -> Iterator[Lineage]:
    """A copy that may be spoilt; nothing has run when the test is over."""
    shutil.copytree(original.folder / "store", tmp_path / "store")
    document = {**original.document, "store": {"url": str(tmp_path / "store"), "retry_budget_s": 0}}
    copy = Lineage(tmp_path, document, tmp_path / "ran")
    yield copy
    assert not copy.mark.exists(), "the pickle has run"


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    """A pickle that does nothing would prove nothing."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").read_text() == "it ran"


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.safetensors", "window.safetensors"])
def test_a_pickle_with_forged_digests_ends_the_worker_with_one_line(lineage: Lineage, file: str) -> None:
    """Whoever may write all of the store can give us any bytes; they still do not run."""
    lineage.forge(file, lineage.bomb)

    said = lineage.run()

    assert "safetensors" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.safetensors", "window.safetensors", "state.json"])
def test_a_pickle_in_a_checkpoint_is_told_by_its_digest(lineage: Lineage, file: str) -> None:
    """The worker goes on from the checkpoint before; what the damaged one has seen is learnt again."""
    (lineage.newest / file).write_bytes(lineage.bomb)

    assert lineage.run() == ""


@pytest.mark.parametrize("place", ["head.json", "aliases/latest.json"])
def test_a_pickle_for_a_document_ends_the_worker_with_one_line(lineage: Lineage, place: str) -> None:
    (lineage.store / place).write_bytes(lineage.bomb)

    said = lineage.run()

    assert f"news/{place} is damaged" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("head.json", ("versions",)),
        ("head.json", ("pull", "latest", "out")),
        ("aliases/latest.json", ("pull", "latest", "out")),
        ("versions/v000001/manifest.json", ("show", "v000001")),
        ("versions/v000001/manifest.json", ("pull", "v000001", "out")),
        ("versions/v000001/adapter_model.safetensors", ("pull", "v000001", "out")),
        ("versions/v000001/adapter_config.json", ("pull", "v000001", "out")),
        ("ledger/*.jsonl.gz", ("ledger",)),
        ("checkpoints/*/state.json", ("ledger",)),
    ],
)
def test_readers_of_a_pickle_say_what_is_damaged(
    lineage: Lineage,
    place: str,
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, exit 1, and no adapter directory appears."""
    monkeypatch.chdir(tmp_path)
    spoilt = max(lineage.store.glob(place))
    spoilt.write_bytes(gzip.compress(lineage.bomb) if spoilt.suffix == ".gz" else lineage.bomb)

    code, said = lineage.command(*arguments, capture=capsys)

    assert (code, len(said.splitlines())) == (1, 1), said
    assert "damaged" in said
    assert str(spoilt.relative_to(lineage.store.parent)) in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 99_999_999) + b" " * 1000,
        struct.pack("<Q", 2) + b"{}"[:1],
        struct.pack("<Q", 100)
        + b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}}'.ljust(100),
        struct.pack("<Q", 100) + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[-16,16]}}'.ljust(100),
        struct.pack("<Q", 20_000) + b'{"a":' * 4000,
        b"",
    ],
    ids=["length 2^63", "length 2^40", "length 10^8", "cut", "huge shape", "negative offset", "deep", "empty"],
)
@pytest.mark.parametrize("file", ["adapter.safetensors", "window.safetensors"])
def test_a_crafted_safetensors_header_is_refused_in_one_line(lineage: Lineage, file: str, body: bytes) -> None:
    """Nothing is allocated on its word."""
    lineage.forge(file, body)

    said = lineage.run()

    assert "safetensors" in said
    assert len(said.splitlines()) == 1


# --- what a model's directory may do to us -------------------------------------------


def test_pickled_weights_are_no_weights(lineage: Lineage, tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(lineage.bomb)
    lineage.document["model"] = lineage.document["model"] | {"name": str(model)}

    said = lineage.run()

    assert f"{model} holds no usable causal language model" in said
    assert len(said.splitlines()) == 1


def test_pickled_weights_beside_safe_ones_are_not_read(lineage: Lineage, tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(lineage.bomb)
    (model / "training_args.bin").write_bytes(lineage.bomb)
    lineage.document["model"] = lineage.document["model"] | {"name": str(model)}

    assert lineage.run() == ""


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_a_models_own_code_is_not_run(lineage: Lineage, tiny_model: Path, tmp_path: Path, place: str) -> None:
    """`trust_remote_code` is never given, and nobody is asked on the terminal."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "evil.py").write_text(f"open({str(lineage.mark)!r}, 'w').write('it ran')\nclass Evil: ...\n")
    document = json.loads((model / place).read_bytes())
    code = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    document |= {"auto_map": code, "model_type": "evil", "tokenizer_class": "Evil"}
    (model / place).write_text(json.dumps(document))
    lineage.document["model"] = lineage.document["model"] | {"name": str(model)}

    said = lineage.run()

    assert len(said.splitlines()) <= 1


# --- what a producer may do to us ------------------------------------------------------


def test_a_pickle_on_kafka_is_a_dead_letter(broker: MockKafka, lineage: Lineage) -> None:
    """In the value, the key and the headers; it arrives in the dead-letter topic as it was."""
    topic, letters = broker.new_topic("hostile"), broker.new_topic("letters")
    producer = Producer({"bootstrap.servers": broker.address})
    text = json.dumps({"text": "an event like any other"}).encode()
    producer.produce(topic, lineage.bomb, partition=0, key=lineage.bomb, headers=[("x", lineage.bomb)])
    producer.produce(topic, text, partition=0, key=lineage.bomb, headers=[("__reduce__", lineage.bomb)])
    producer.flush(30)
    shutil.rmtree(lineage.store)
    lineage.document["kafka"] = lineage.document["kafka"] | {"topics": [topic], "dead_letter_topic": letters}

    assert lineage.run() == ""

    lines = [
        json.loads(line)
        for file in sorted((lineage.store / "ledger").glob("*.gz"))
        for line in gzip.decompress(file.read_bytes()).splitlines()
    ]
    assert [line["outcome"] for line in lines if line["kind"] == "event"] == ["dead_letter", "admitted"]
    assert _first(broker, letters) == lineage.bomb


def _first(broker: MockKafka, topic: str) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "look"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(MockKafka.PARTITIONS)])
    found: list[bytes | None] = []

    def read() -> bool:
        found.extend(message.value() for message in consumer.consume(1, 0.5) if message.error() is None)
        return bool(found)

    try:
        wait_until(read, "the dead letter")
    finally:
        consumer.close()
    return found[0]


def test_what_a_version_holds_is_tensors_and_json(original: Lineage, tmp_path: Path) -> None:
    """The other direction: what others load from us needs no pickle either."""
    names = {path.name for path in original.store.rglob("*") if path.is_file()}
    assert {name.partition(".")[2] for name in names} == {"json", "safetensors", "jsonl.gz"}
    tensors = load_file(original.store / "versions/v000001/adapter_model.safetensors")
    save_file(tensors, tmp_path / "again.safetensors")
