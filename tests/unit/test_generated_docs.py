"""The references under `docs/` say what the code does, and stay current."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from streamlearn import config_file
from streamlearn.config import Config
from streamlearn.config_errors import find, section_of, variable_of
from streamlearn.core.events import Outcome
from streamlearn.core.manifest import Draft, EventLine, FileDigest, Score, ScoreLine, Scores, Totals
from streamlearn.core.metrics import CATALOGUE, Kind
from streamlearn.core.stream import StreamState
from streamlearn.ports import Clock, ObjectStore
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.documents import to_bytes
from streamlearn.registry.ledger import unpack
from streamlearn.registry.lineage import StoreLineage
from tests.fakes.daemon import DIGEST, ManualClock, NumberLearner, SilentTelemetry
from tests.unit.core.making import settings
from tools import docs

ROOT = docs.ROOT


def keys(section: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        below = section_of(field)
        if below is not None:
            yield from keys(below, (*prefix, name))
        else:
            yield (*prefix, name)


# --- current --------------------------------------------------------------------


def test_the_references_are_current() -> None:
    """Run `python tools/docs.py` where this fails."""
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_not_current_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, changed and left-over files; and writing mends all of them."""
    assert docs.main([], tmp_path) == 0
    assert docs.main(["--check"], tmp_path) == 0
    (tmp_path / "docs/metrics.md").unlink()
    (tmp_path / "docs/configuration.md").write_text("old", encoding="utf-8")
    (tmp_path / "docs/schemas/gone.schema.json").write_text("{}", encoding="utf-8")
    capsys.readouterr()

    assert docs.main(["--check"], tmp_path) == 1
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if "is not current" in line] == [
        "docs/configuration.md is not current",
        "docs/metrics.md is not current",
        "docs/schemas/gone.schema.json is not current",
    ]
    assert "python tools/docs.py" in said

    assert docs.main([], tmp_path) == 0
    assert docs.main(["--check"], tmp_path) == 0


def test_the_same_code_gives_the_same_bytes() -> None:
    """Another hash seed changes nothing."""
    script = "import sys; from tools import docs; sys.stdout.write(repr(docs.documents()))"
    written = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(written) == 1


# --- configuration ----------------------------------------------------------------


def test_every_key_is_in_the_reference() -> None:
    """With its variable, its default and its bounds."""
    text = docs.configuration()

    for key in keys(Config):
        (line,) = [line for line in text.splitlines() if line.rstrip().endswith(f"`{variable_of(key)}`")]
        assert line.startswith(f"- **`{key[-1]}`** · ")
        _, field = find(key)
        assert field is not None
        assert ("**required**" in line) == field.is_required()
    assert "- **`port`** · whole number ≥ 0, ≤ 65_535 · default `9464` · `STREAMLEARN__HTTP__PORT`" in text
    assert '- **`start`** · `"earliest"`, `"latest"` or time · default `"latest"` · ' in text
    assert "- **`secret_access_key`** · secret text · not set · " in text


def test_every_section_of_the_reference_can_be_reached() -> None:
    """Links go to headings that are there."""
    text = docs.configuration()
    headings = {re.sub(r"[\[\].]", "", line.removeprefix("## ")) for line in text.splitlines() if line[:3] == "## "}

    links = re.findall(r"\]\(#([a-z0-9_]+)\)", text)
    assert set(links) == headings
    assert len(links) == len(headings)


def test_the_example_at_the_top_is_a_whole_configuration() -> None:
    """What is copied first works."""
    config = config_file.resolve(tomllib.loads(docs.MINIMAL), {})

    assert docs.MINIMAL in docs.configuration()
    assert config.stream.name == "news"
    assert config.store.s3.endpoint_url == "http://127.0.0.1:9000"


# --- metrics ------------------------------------------------------------------------


def test_every_metric_is_in_the_reference() -> None:
    rows = {line.split("`")[1]: line for line in docs.metrics().splitlines() if line.startswith("| `")}

    assert rows.keys() == CATALOGUE.keys()
    for name, metric in CATALOGUE.items():
        assert f"| {metric.kind} |" in rows[name]
        assert metric.help in rows[name]
        for label in metric.labels:
            assert f"`{label}`" in rows[name]


def test_the_questions_ask_for_metrics_and_labels_that_exist() -> None:
    """A query that names nothing answers nothing, silently."""
    series = set(CATALOGUE) | {
        f"{name}_{part}"
        for name, metric in CATALOGUE.items()
        if metric.kind is Kind.HISTOGRAM
        for part in ("bucket", "sum", "count")
    }
    for query in docs.QUESTIONS.values():
        names = re.findall(r"\b(?:streamlearn|kafka)_[a-z_]+", query)
        assert names
        assert set(names) <= series
        for name, selector in re.findall(r"(streamlearn_[a-z_]+)\{([^}]*)\}", query):
            assert {part.partition("=")[0].rstrip("!") for part in selector.split(",")} <= set(CATALOGUE[name].labels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_can_parse_the_questions(tmp_path: Path) -> None:
    rules = [{"record": f"question:{number}", "expr": query} for number, query in enumerate(docs.QUESTIONS.values())]
    path = tmp_path / "rules.json"  # JSON is YAML too
    path.write_text(json.dumps({"groups": [{"name": "questions", "rules": rules}]}), encoding="utf-8")

    done = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


# --- schemas --------------------------------------------------------------------------


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / f"docs/schemas/{name}.schema.json").read_text(encoding="utf-8"))
    return found


def validate(name: str, document: object) -> None:
    jsonschema.Draft202012Validator(schema(name)).validate(document)


@pytest.mark.parametrize("name", docs.SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    """Tools find its dialect and its identity in it."""
    found = schema(name)

    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$id"] == f"urn:streamlearn:1:{name}"


def score(**by_source: Score) -> Score:
    return Score(nats_per_token=3.5, bits_per_byte=1.1, tokens=7, fading={"0.99": 3.4}, by_source=by_source)


LINES: list[EventLine | ScoreLine] = [
    EventLine(id="news:0:0", topic="news", partition=0, offset=0, ts=1.5, outcome=Outcome.ADMITTED, chunks=1, tokens=8),
    EventLine(id="news:0:1", topic="news", partition=0, offset=1, ts=1.5, outcome=Outcome.DEAD_LETTER),
    ScoreLine(id="news:0:0", chunk=0, tokens=8, bytes=24, nll=12.5, nll_base=13.0),
    ScoreLine(id="news:0:0", chunk=1, tokens=8, bytes=24, nll=None, flushed=True),
]


def a_published_lineage(store: ObjectStore, clock: Clock) -> None:
    """Write two checkpoints, each with a version, the way the worker does."""
    learner = NumberLearner()
    lineage = StoreLineage(store, "news", ttl_s=30.0, clock=clock, telemetry=SilentTelemetry())
    assert lineage.acquire(lambda: False) is not None
    draft = Draft(
        created_at="2026-11-24T00:00:00.000+00:00",
        progress={"news": {0: 2}},
        totals=Totals(events=2, admitted=1, dead_letter=1, tokens=8),
        scores=Scores(live=score(news=score()), base=score(), live_every_chunk=None),
        event_time=(1.5, 1.5),
        base=learner.base,
        lora=learner.lora,
        config_digest=DIGEST,
        libraries={"streamlearn": "0.1.0"},
        stream=StreamState(settings()).document(),
    )
    files = {"adapter.safetensors": b"a", "optimizer.safetensors": b"o", "window.safetensors": b"w"}
    for _ in range(2):
        lineage.commit(draft, files, LINES, adapter_config=learner.adapter_config(), before_swap=lambda: None)


def test_everything_on_a_store_is_what_the_schemas_say(tmp_path: Path) -> None:
    """A reader in another language can trust them."""
    store = DirectoryStore(tmp_path)
    a_published_lineage(store, ManualClock())
    kinds = {"head.json": "head", "state.json": "state", "manifest.json": "manifest", "latest.json": "alias"}
    seen: dict[str, int] = {}

    for key, _ in store.list("news/"):
        body = store.get(key).body
        name = key.rpartition("/")[2]
        if name in kinds:
            validate(kinds[name], json.loads(body))
        elif name.endswith(".jsonl.gz"):
            for line in unpack(key, body):
                validate("ledger-line", line.model_dump(mode="json"))
            name = "ledger"
        seen[name] = seen.get(name, 0) + 1

    assert [seen[name] for name in (*kinds, "ledger")] == [1, 2, 2, 1, 2]


@pytest.mark.parametrize("line", LINES)
def test_a_ledger_line_is_of_one_kind(line: EventLine | ScoreLine) -> None:
    validate("ledger-line", json.loads(to_bytes(line)))
    with pytest.raises(jsonschema.ValidationError):
        validate("ledger-line", {**line.model_dump(mode="json"), "kind": "neither"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "xyz"}, "does not match"),
        ({"size": -1}, "less than the minimum"),
        ({"more": 1}, "Additional properties"),
    ],
)
def test_a_schema_refuses_what_the_code_refuses(change: dict[str, object], said: str) -> None:
    """It is as strict as the reader in `registry/`."""
    whole = schema("manifest")
    digests = jsonschema.Draft202012Validator({**whole["$defs"]["FileDigest"], "$defs": whole["$defs"]})
    good = FileDigest(sha256=DIGEST, size=1).model_dump()
    digests.validate(good)

    with pytest.raises(jsonschema.ValidationError, match=said):
        digests.validate(good | change)
