"""What `check` makes of what it finds, and of what it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from streamlearn.cli.findings import Probe
from streamlearn.cli.probes import look_at_kafka, look_at_store, parted, probe_all
from streamlearn.config import Config
from streamlearn.config_file import resolve
from streamlearn.core.manifest import BaseModelCard, LoraShape
from streamlearn.ingest.probe import KafkaFindings, TopicFindings
from streamlearn.ports import (
    Conflict,
    Fatal,
    Fenced,
    LostData,
    NotFound,
    SourceRefused,
    SourceUnavailable,
    StoreRefused,
    StoreUnavailable,
    Transient,
)
from tests.fakes.daemon import DIGEST

BASE = BaseModelCard(
    name="tiny",
    served_name="org/tiny",
    config_digest=DIGEST,
    weights_digest=DIGEST,
    tokenizer_digest=DIGEST,
    parameters=135_000_000,
)
LORA = LoraShape(rank=8, alpha=16.0, target_modules=("k_proj", "q_proj"), parameters=2_440_000)


@dataclass(frozen=True, kw_only=True)
class FakeModelFindings:
    """As `learner.probe.ModelFindings`, which a test cannot import without torch."""

    base: BaseModelCard = BASE
    lora: LoraShape = LORA
    device: str = "cpu"
    dtype: str = "bf16"
    context_tokens: int = 256
    chat_template: bool = True
    needed_bytes: int = 3_000_000_000
    available_bytes: int = 8_000_000_000


def config(**kafka: Any) -> Config:
    return resolve(
        {
            "stream": {"name": "news"},
            "kafka": {"bootstrap_servers": "b:1", "topics": ["news"], **kafka},
            "store": {"url": "data"},
            "model": {"name": "m"},
        },
        {},
    )


def findings(**changes: Any) -> KafkaFindings:
    news = TopicFindings(name="news", partitions={0: (10, 4_212), 1: (0, 0)})
    known: dict[str, Any] = {
        "brokers": ("b:1",),
        "wanted": {"news": (news,)},
        "topics": ("__consumer_offsets", "news"),
        "dead_letters": False,
        "auto_create": None,
    }
    return KafkaFindings(**(known | changes))


def failing(error: BaseException) -> Callable[[Config], Any]:
    def look(_config: Config) -> Any:
        raise error

    return look


def probed(settings: Config | None = None, **looks: Any) -> dict[str, Probe]:
    usual: dict[str, Any] = {
        "kafka": lambda _: findings(),
        "store": lambda _: "file:///data",
        "model": lambda _: FakeModelFindings(),
    }
    rows = probe_all(settings or config(), say=lambda _: None, **(usual | looks))
    assert len({row.part for row in rows}) == len(rows)
    return {row.part: row for row in rows}


def test_all_is_well_is_a_row_for_each_part() -> None:
    rows = probed()
    assert list(rows) == ["kafka", "topic news", "store", "model", "memory"]
    assert all(row.ok and not row.mend for row in rows.values())
    assert rows["topic news"].found == "2 partitions, 4,202 records (offsets 0: 10–4,212, 1: 0–0)"
    assert rows["store"].found == "writable, conditional writes honoured (file:///data)"
    assert "org/tiny, 135 M parameters on cpu in bf16" in rows["model"].found
    assert "LoRA rank 8 on k_proj, q_proj (2.44 M parameters)" in rows["model"].found
    assert rows["memory"].found == "about 3.0 GB needed, 8.0 GB free on cpu"


def test_a_row_is_json_with_null_where_nothing_needs_mending() -> None:
    assert probed()["memory"].document() == {
        "part": "memory",
        "ok": True,
        "found": "about 3.0 GB needed, 8.0 GB free on cpu",
        "mend": None,
    }


@pytest.mark.parametrize(
    "error",
    [
        kind("it is broken; mend the thing")
        for kind in (
            Fatal, Transient, Fenced, SourceUnavailable, SourceRefused, LostData, StoreUnavailable, StoreRefused,
            NotFound, Conflict, ValueError, RuntimeError, MemoryError, ImportError, OSError,
        )
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("part", ["kafka", "store", "model"])
def test_a_part_that_fails_is_a_row_and_the_others_are_probed(part: str, error: Exception) -> None:
    rows = probed(None, **{part: failing(error)})
    assert [name for name, row in rows.items() if not row.ok] == [part]
    assert {"kafka", "store", "model"} <= set(rows)
    assert "it is broken" in rows[part].found
    assert rows[part].mend


def test_a_part_that_hangs_is_given_up() -> None:
    """A check ends, whatever a store behind a firewall does."""
    forever = threading.Event()
    rows = probed(None, store=lambda _: forever.wait(), within_s=0.2)
    forever.set()
    assert (rows["store"].ok, rows["store"].found) == (False, "no answer within 0.2 s")
    assert "store.url" in rows["store"].mend
    assert rows["model"].ok


def test_ctrl_c_is_not_taken_for_a_finding() -> None:
    with pytest.raises(KeyboardInterrupt):
        probed(None, store=failing(KeyboardInterrupt()))


def test_what_is_probed_is_said_while_it_is_done() -> None:
    said: list[str] = []
    probe_all(
        config(),
        kafka=lambda _: findings(),
        store=lambda _: "x",
        model=lambda _: cast("Any", FakeModelFindings()),
        say=said.append,
    )
    assert said == ["probing Kafka …", "probing the store …", "probing the model …"]


def test_too_little_memory_fails_with_the_knobs_that_help() -> None:
    row = probed(None, model=lambda _: FakeModelFindings(available_bytes=2_999_999_999))["memory"]
    assert not row.ok
    assert "model.context_tokens" in row.mend


def test_a_model_without_chat_template_is_fine_and_said() -> None:
    row = probed(None, model=lambda _: FakeModelFindings(chat_template=False))["model"]
    assert row.ok
    assert "no chat template" in row.found


def test_a_topic_that_is_missing_is_named_with_the_nearest_one() -> None:
    row = probed(config(topics=["nwes"]), kafka=lambda _: findings(wanted={"nwes": ()}))["topic nwes"]
    assert not row.ok
    assert row.found.endswith("there is news")
    assert "did you mean 'news'?" in row.mend


def test_a_pattern_is_shown_with_what_it_matches() -> None:
    topics = tuple(TopicFindings(name=f"n{i}", partitions={0: (0, 5)}) for i in range(8))
    row = probed(config(topics=["^n"]), kafka=lambda _: findings(wanted={"^n": topics}))["topics ^n"]
    assert row.ok
    assert row.found == "8 topics, 8 partitions, 40 records: n0, n1, n2, n3, n4, n5 and 2 more"
    row = probed(config(topics=["^x"]), kafka=lambda _: findings(wanted={"^x": ()}))["topics ^x"]
    assert not row.ok


@pytest.mark.parametrize(
    ("there", "auto_create", "ok", "words"),
    [
        (True, None, True, "there"),
        (False, True, True, "the brokers create it"),
        (False, None, True, "do not say"),
        (False, False, False, "create no topics"),
    ],
)
def test_a_dead_letter_topic_is_there_or_will_be(there: bool, auto_create: bool | None, ok: bool, words: str) -> None:
    row = probed(
        config(dead_letter_topic="dlq"), kafka=lambda _: findings(dead_letters=there, auto_create=auto_create)
    )["dead letters dlq"]
    assert (row.ok, bool(row.mend)) == (ok, not ok)
    assert words in row.found


@pytest.mark.parametrize(
    ("message", "found", "mend"),
    [
        ("no TLS with b:1 (x: y); mend ssl.*", "no TLS with b:1 (x: y)", "mend ssl.*"),
        ("no bucket at http://h:1: create it, or mend it", "no bucket at http://h:1", "create it, or mend it"),
        ("it is full. Set a lower bound", "it is full", "Set a lower bound"),
        ("s3://b: http://h:1 does not answer (X)", "s3://b: http://h:1 does not answer (X)", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_and_what_to_do_are_told_apart(message: str, found: str, mend: str) -> None:
    assert parted(message) == (found, mend)


def test_a_directory_store_is_really_probed(tmp_path: Path) -> None:
    assert look_at_store(resolve(config().model_dump() | {"store": {"url": str(tmp_path / "s")}}, {})).startswith(
        "file:"
    )
    (tmp_path / "file").write_text("")
    settings = resolve(config().model_dump() | {"store": {"url": str(tmp_path / "file")}}, {})
    row = probed(settings, store=look_at_store)["store"]
    assert not row.ok
    assert row.mend


def test_brokers_are_really_asked() -> None:
    row = probed(config(client={"no.such": 1}), kafka=look_at_kafka)["kafka"]
    assert (row.ok, row.mend) == (False, "mend or remove the property")
