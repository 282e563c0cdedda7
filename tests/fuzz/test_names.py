"""Names from outside are refused before they become keys or paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.cli.output import print_table
from streamlearn.config import Kafka
from streamlearn.config_file import ConfigError, resolve
from streamlearn.core.manifest import EventLine, Manifest
from streamlearn.ports import NotFound, ObjectStore
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.documents import Damaged, to_bytes
from streamlearn.registry.keys import Keys, checked, checked_part, is_key
from streamlearn.registry.lineage import StoreLineage
from streamlearn.registry.reader import LineageReader
from tests.contract import making
from tests.fakes.store import CountingStore, MemoryStore
from tests.fuzz.hostile import NAMES

_MAX_LINE = 500
EVERY = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())


def lineage(store: ObjectStore) -> StoreLineage:
    """Return lineage `news` with version v000001."""
    writer = making.writer(store)
    writer.acquire(making.never)
    making.commit(writer, 0, 3, publish=True)
    return writer


@EVERY
def test_no_hostile_name_becomes_a_lineage_an_alias_or_a_key(name: str) -> None:
    for refuse in (Keys, Keys("news").alias, lambda name: checked_part(name, "a file"), lambda n: checked(f"news/{n}")):
        if name == NAMES["two parts"] and is_key(f"news/{name}"):
            name = "a//b"  # each part of `a/b` is safe, so that it may stand in a key
        with pytest.raises(ValueError, match="is no name for") as refusal:
            refuse(name)
        assert len(str(refusal.value)) < _MAX_LINE
        assert str(refusal.value).replace("…", "").isascii()
        assert str(refusal.value).isprintable()


@EVERY
def test_no_hostile_name_reaches_a_store_from_the_command_line(name: str) -> None:
    """`show`, `pull` and `ledger --version` take a name; what is asked of the store is ours alone."""
    store = CountingStore(MemoryStore())
    lineage(store)
    reader = LineageReader(store, "news")
    store.asked.clear()

    with pytest.raises((ValueError, NotFound)):
        reader.manifest(name)
    assert {key for _, key in store.asked} <= {"news/head.json"}


@given(st.text(max_size=12) | st.from_regex(r"[.A-Za-z0-9_/-]{0,12}", fullmatch=True))
def test_a_name_that_is_taken_stays_one_file_below_its_folder(name: str) -> None:
    """On any file system."""
    try:
        part = checked_part(name, "an alias")
    except ValueError:
        return
    path = Path("/store/news/aliases", part)
    assert path.parent == Path("/store/news/aliases")
    assert path.resolve() == path
    assert not part.endswith((".", " "))
    assert part.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@EVERY
def test_no_hostile_name_is_a_stream_s_or_a_dead_letter_topic_s(name: str) -> None:
    """What the configuration takes is what the registry takes, or it is refused at the start of the worker."""
    document: dict[str, Any] = {
        "stream": {"name": name},
        "kafka": {"bootstrap_servers": "x:1", "topics": ["t"], "dead_letter_topic": "ok"},
        "store": {"url": "x"},
        "model": {"name": "x"},
    }
    try:
        resolved = resolve(document, {})
    except ConfigError as error:
        if not str(error).startswith("stream.name") or len(str(error)) > _MAX_LINE:
            raise
        return
    with pytest.raises(ValueError, match="is no name for a lineage"):
        Keys(resolved.stream.name)


TOPICS = {
    key: name
    for key, name in NAMES.items()
    if not set(name) <= set("abcdefghijklmnopqrstuvwxyzCON.-1") or name in {"", ".."}
}


@pytest.mark.parametrize("topic", TOPICS.values(), ids=TOPICS.keys())
def test_a_topic_that_kafka_could_not_have_is_refused(topic: str) -> None:
    """It would go into every ledger line and the label of a metric."""
    with pytest.raises(ValueError, match="topic"):
        Kafka(bootstrap_servers="x:1", topics=(topic,))
    with pytest.raises(ValueError, match="topic"):
        Kafka(bootstrap_servers="x:1", topics=("t",), dead_letter_topic=topic)


@EVERY
def test_a_pulled_version_stays_in_its_directory(name: str, tmp_path: Path) -> None:
    """A manifest is data from a bucket; its digests are right, as its writer is hostile."""
    store = MemoryStore()
    lineage(store)
    reader = LineageReader(store, "news")
    honest = reader.manifest("v000001")
    body = b"hostile"
    digest = next(iter(honest.files.values())).model_copy(update={"size": len(body)})
    hostile: Manifest = honest.model_copy(update={"files": {**honest.files, name: digest}})
    store.objects["news/versions/v000001/manifest.json"] = to_bytes(hostile) if name.isprintable() else b"{}"
    before = sorted(tmp_path.iterdir())

    with pytest.raises((Damaged, ValueError)):
        reader.pull(hostile, tmp_path / "pulled")

    assert sorted(tmp_path.iterdir()) == before


def test_a_destination_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    """10 kB, a file in the way, and a folder that is not ours; never a traceback."""
    store = MemoryStore()
    lineage(store)
    reader = LineageReader(store, "news")
    (tmp_path / "file").write_text("in the way")

    for destination in (tmp_path / ("a" * 10_240), tmp_path / "file" / "below", Path("/proc/none/pulled")):
        with pytest.raises(ValueError, match="cannot be written") as refusal:
            reader.pull(reader.manifest("v000001"), destination)
        assert len(str(refusal.value)) < 400


def test_what_strangers_leave_in_a_store_is_no_object_of_ours(tmp_path: Path) -> None:
    """A directory or a bucket may hold anything; it is neither listed nor followed."""
    store = DirectoryStore(tmp_path)
    lineage(store)
    ours = dict(store.list("news/"))
    aliases = tmp_path / "news" / "aliases"
    for name in NAMES.values():
        try:
            (aliases / f"{name}.json").write_text("{}") if "/" not in name and len(name) < 200 else None
        except (OSError, ValueError):
            continue

    taken = {key for key, _ in store.list("news/")} - ours.keys()
    assert all(is_key(key) for key in taken)
    found = LineageReader(store, "news", on_damage=lambda _line: None).versions()
    assert [version.aliases for version in found] == [("latest",)]


def test_an_event_s_id_may_be_anything_and_becomes_no_key() -> None:
    """Ids are the producers' business: they stand in ledger lines, escaped by JSON."""
    for name in NAMES.values():
        if "\ud800" not in name:
            line = EventLine(id=name, topic="t", partition=0, offset=0, ts=0.0, outcome="admitted")
            assert "\n" not in line.model_dump_json()
            assert EventLine.model_validate_json(line.model_dump_json()) == line


def test_an_event_s_id_is_shown_and_never_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """A producer chooses ids; a terminal does what control characters tell it."""
    print_table(["id"], [[chr(code)] for code in (*range(0xA0), 0x202E, 0x2066)] + [["[red]x[/red]"]])

    shown = capsys.readouterr().out
    assert shown.replace("\n", "").replace("─", "").isprintable()
    assert "\\x1b" in shown
    assert "[red]x[/red]" in shown
