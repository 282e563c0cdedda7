"""Readers see what was committed, all of it, and hear of what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from streamlearn.core.events import Outcome
from streamlearn.core.manifest import EventLine, Manifest, ScoreLine
from streamlearn.ports import NotFound, StoreRefused
from streamlearn.registry.documents import Damaged, to_bytes
from streamlearn.registry.lineage import StoreLineage
from streamlearn.registry.reader import LineageReader
from tests.contract.making import (
    Crash,
    CrashAt,
    commit,
    draft,
    event,
    files,
    judged,
    lines,
    never,
    promoted,
    rolled_back,
    writer,
)
from tests.fakes.daemon import ManualClock
from tests.fakes.store import CountingStore, MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    """v000001 knows offsets 0-2, v000002 knows 0-5, a checkpoint without a version 6."""
    store = MemoryStore()
    lineage = begin(store)
    commit(lineage, 0, 2)
    commit(lineage, 2, 3, publish=True)
    commit(lineage, 3, 6, publish=True)
    commit(lineage, 6, 7)
    lineage.release()
    return store


def begin(store: MemoryStore, **parts: object) -> StoreLineage:
    lineage = writer(store, **parts)  # type: ignore[arg-type]
    lineage.acquire(never)
    return lineage


def offsets(found: Iterable[EventLine | ScoreLine]) -> list[int]:
    return [line.offset for line in found if isinstance(line, EventLine)]


def names(manifests: Iterable[Manifest]) -> list[str]:
    return [manifest.version for manifest in manifests]


# --- versions ------------------------------------------------------------------


def test_versions_cost_manifests_not_adapters(store: MemoryStore) -> None:
    """A list of a thousand versions is not a download of ten gigabytes."""
    counting = CountingStore(store)

    LineageReader(counting, "news").versions()

    read = [key for operation, key in counting.asked if operation == "get"]
    assert sorted(read) == [
        "news/aliases/latest.json",
        "news/head.json",
        "news/versions/v000001/manifest.json",
        "news/versions/v000002/manifest.json",
    ]


def test_a_version_without_a_manifest_does_not_exist(store: MemoryStore) -> None:
    store.create("news/versions/v000003/adapter_model.safetensors", b"half")
    reader = LineageReader(store, "news")

    assert [version.manifest.version for version in reader.versions()] == ["v000001", "v000002"]
    with pytest.raises(NotFound, match="has no version v000003"):
        reader.manifest("3")


def test_a_damaged_manifest_is_told_and_hides_nothing_else(store: MemoryStore) -> None:
    """One flipped bit does not take the list of versions away."""
    store.objects["news/versions/v000001/manifest.json"] = b"{"
    told: list[str] = []

    found = LineageReader(store, "news", on_damage=told.append).versions()

    assert [version.manifest.version for version in found] == ["v000002"]
    assert len(told) == 1
    assert told[0].startswith("version v000001 is left out: news/versions/v000001/manifest.json is damaged")


def test_a_damaged_alias_is_told_and_hides_nothing_else(store: MemoryStore) -> None:
    store.objects["news/aliases/champion.json"] = b"[]"
    told: list[str] = []

    found = LineageReader(store, "news", on_damage=told.append).versions()

    assert [version.aliases for version in found] == [(), ("latest",)]
    assert told[0].startswith("alias 'champion' is left out: news/aliases/champion.json is damaged")


def test_damage_is_told_on_standard_error_unless_somebody_listens(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Standard output may be somebody's JSON."""
    store.objects["news/versions/v000001/manifest.json"] = b"{"

    LineageReader(store, "news").versions()

    assert "version v000001 is left out" in caplog.text


def test_foreign_things_among_versions_are_passed_over(store: MemoryStore) -> None:
    for key in ("versions/backup/manifest.json", "versions/v1/a/manifest.json", "aliases/a/b.json", "aliases/README"):
        store.create(f"news/{key}", b"?")

    found = LineageReader(store, "news", on_damage=pytest.fail).versions()

    assert [version.manifest.version for version in found] == ["v000001", "v000002"]


@pytest.mark.parametrize("name", ["v000002", "2", "v2", "latest"])
def test_a_version_has_several_names(store: MemoryStore, name: str) -> None:
    assert LineageReader(store, "news").manifest(name).version == "v000002"


@pytest.mark.parametrize("name", ["../v000002", "", "v000002/../v000001", "²", ".."])
def test_what_is_no_name_is_refused(store: MemoryStore, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a version or alias"):
        LineageReader(store, "news").manifest(name)


def test_a_missing_lineage_names_those_that_are_there(store: MemoryStore) -> None:
    with pytest.raises(NotFound, match="no lineage 'new' in memory:; there are: news"):
        LineageReader(store, "new").versions()
    with pytest.raises(NotFound, match="the store holds none"):
        LineageReader(MemoryStore(), "news").head()


# --- ledger -----------------------------------------------------------------------


def test_the_ledger_is_in_the_order_of_the_stream(store: MemoryStore) -> None:
    assert list(LineageReader(store, "news").ledger()) == lines(range(7))


def test_the_ledger_of_a_version_ends_with_it(store: MemoryStore) -> None:
    reader = LineageReader(store, "news")

    assert offsets(reader.ledger(reader.manifest("1"))) == [0, 1, 2]
    assert offsets(reader.ledger(reader.manifest("2"))) == [0, 1, 2, 3, 4, 5]


def test_since_the_parent_is_what_the_parent_had_not_seen(store: MemoryStore) -> None:
    """Over every checkpoint between the two, and over all for the first version."""
    reader = LineageReader(store, "news")

    assert offsets(reader.ledger(reader.manifest("1"), since_parent=True)) == [0, 1, 2]
    assert offsets(reader.ledger(reader.manifest("2"), since_parent=True)) == [3, 4, 5]


def test_leavings_of_other_writers_are_not_in_the_ledger(store: MemoryStore) -> None:
    """They were uploaded whole, and never committed; their offsets came again."""
    clock = ManualClock()
    dying = begin(store, clock=clock, fault=CrashAt("uploaded"))
    with pytest.raises(Crash):
        commit(dying, 7, 20, note="never committed")
    # Cut short: a ledger whose checkpoint has no state, and one that is damaged.
    store.create("news/ledger/0000000003-aaaaaaaaaaaa.jsonl.gz", b"?")
    store.create("news/ledger/0000000005-bbbbbbbbbbbb.jsonl.gz", b"?")
    store.create("news/checkpoints/0000000005-bbbbbbbbbbbb/state.json", b"?")
    commit(begin(store, clock=clock, owner="next"), 7, 9)

    assert offsets(LineageReader(store, "news").ledger()) == list(range(9))


def test_an_uncommitted_tail_is_not_shown(store: MemoryStore) -> None:
    dying = begin(store, fault=CrashAt("uploaded"))
    with pytest.raises(Crash):
        commit(dying, 7, 20)

    assert offsets(LineageReader(store, "news").ledger()) == list(range(7))


def test_the_chain_costs_each_object_once(store: MemoryStore) -> None:
    """Two objects a checkpoint; the states are not read one after the other, and not twice."""
    counting = CountingStore(store)

    list(LineageReader(counting, "news").ledger())

    read = [key for operation, key in counting.asked if operation == "get"]
    assert len(read) == len(set(read)) == 1 + 2 * 4


def test_a_part_of_the_ledger_costs_only_its_part(store: MemoryStore) -> None:
    counting = CountingStore(store)
    reader = LineageReader(counting, "news")
    found = reader.manifest("2")
    counting.asked.clear()

    list(reader.ledger(found, since_parent=True))

    assert sum("state.json" in key or "ledger/00" in key for _, key in counting.asked) == 2


def test_who_stops_reading_stops_the_fetching() -> None:
    """`ledger --limit 5` of a year's lineage does not fetch the year."""
    store = MemoryStore()
    lineage = begin(store)
    for offset in range(200):
        commit(lineage, offset, offset + 1)
    counting = CountingStore(store)
    found = LineageReader(counting, "news").ledger()

    assert [next(found).id for _ in range(2)] == ["news:0:0", "news:0:0"]
    found.close()  # type: ignore[attr-defined]

    assert sum(key.endswith(".jsonl.gz") for _, key in counting.asked) < 100


CHANGES: dict[str, Callable[[MemoryStore, str], object]] = {
    "gone": lambda store, key: store.objects.pop(key),
    "altered": lambda store, key: store.objects.update({key: store.objects[key][:-1] + b"?"}),
    "another's": lambda store, key: store.objects.update({key: store.objects[min(store.objects)]}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("kind", ["ledger/", "state.json"])
def test_a_damaged_part_of_the_chain_ends_the_reading_with_its_name(
    store: MemoryStore, kind: str, change: Callable[[MemoryStore, str], object]
) -> None:
    """An audit that skips in silence is none."""
    key = next(key for key in sorted(store.objects) if kind in key and "/0000000002-" in key)
    change(store, key)

    with pytest.raises(Damaged, match=key):
        list(LineageReader(store, "news").ledger())


def test_a_whole_ledger_of_another_checkpoint_is_not_taken(store: MemoryStore) -> None:
    """It reads well, and is not what this one has seen."""
    second, third = sorted(key for key in store.objects if "ledger/" in key)[1:3]
    store.objects[second] = store.objects[third]

    with pytest.raises(Damaged, match=f"{second} is damaged"):
        list(LineageReader(store, "news").ledger())


def test_a_store_that_refuses_is_not_taken_for_damage(store: MemoryStore) -> None:
    class Forbidding(CountingStore):
        def get(self, key: str):  # type: ignore[no-untyped-def]
            if key.endswith("state.json"):
                raise StoreRefused("no permission")
            return super().get(key)

    with pytest.raises(StoreRefused, match="no permission"):
        list(LineageReader(Forbidding(store), "news").ledger())


# --- find ---------------------------------------------------------------------------


def test_an_event_is_in_every_version_that_passed_it(store: MemoryStore) -> None:
    """What a deletion request asks."""
    reader = LineageReader(store, "news")

    found, manifests = reader.versions_with("news:0:1")
    assert [line.kind for line in found] == ["event", "score"]
    assert names(manifests) == ["v000001", "v000002"]
    assert names(reader.versions_with("news:0:3")[1]) == ["v000002"]
    assert names(reader.versions_with("news:0:6")[1]) == []
    assert reader.versions_with("nobody") == ([], [])


def told_of(store: MemoryStore, *events: EventLine) -> LineageReader:
    """Commit these events, at offset 7 and behind, as v000003, and read."""
    lineage = begin(store)
    lineage.commit(draft(7 + len(events)), files(7), events, adapter_config=b"{}", before_swap=lambda: None)
    return LineageReader(store, "news")


@pytest.mark.parametrize("outcome", [Outcome.FILTERED, Outcome.DEAD_LETTER])
def test_what_was_not_learnt_is_in_no_version(store: MemoryStore, outcome: Outcome) -> None:
    found, manifests = told_of(store, event("mine", 7, outcome)).versions_with("mine")

    assert (len(found), manifests) == (1, [])


def test_a_duplicate_s_text_is_in_the_versions_that_passed_it(store: MemoryStore) -> None:
    """Its twin has another id, which whoever asks does not know."""
    assert names(told_of(store, event("mine", 7, Outcome.DUPLICATE)).versions_with("mine")[1]) == ["v000003"]


def test_an_id_that_came_twice_is_looked_for_at_both_places(store: MemoryStore) -> None:
    """The first time it was filtered, the second time learnt."""
    reader = told_of(store, event("mine", 7, Outcome.FILTERED), event("mine", 8))

    found, manifests = reader.versions_with("mine")

    assert (len(found), names(manifests)) == (2, ["v000003"])


def test_what_a_rollback_distrusts_is_in_no_version_from_then_on(store: MemoryStore) -> None:
    """The learner is as it was before it saw it, and replay draws on it no more."""
    lineage = begin(store)
    judgement = judged(promoted("v000002"), rolled_back("v000002", to="v000001"))
    lineage.commit(
        draft(8, judgement=judgement), files(8), lines(range(7, 8)), adapter_config=b"{}", before_swap=lambda: None
    )
    reader = LineageReader(store, "news")

    assert names(reader.versions_with("news:0:3")[1]) == ["v000002"]
    assert names(reader.versions_with("news:0:1")[1]) == ["v000001", "v000002", "v000003"]


# --- pull ----------------------------------------------------------------------------


def test_a_pulled_version_is_its_files_and_its_manifest(store: MemoryStore, tmp_path: Path) -> None:
    reader = LineageReader(store, "news")
    manifest = reader.manifest("latest")

    size = reader.pull(manifest, tmp_path / "deep" / "adapter")

    pulled = {path.name: path.read_bytes() for path in (tmp_path / "deep" / "adapter").iterdir()}
    assert pulled == {
        "adapter_model.safetensors": files(6)["adapter.safetensors"],
        "adapter_config.json": store.objects["news/versions/v000002/adapter_config.json"],
        "manifest.json": to_bytes(manifest),
    }
    assert size == sum(map(len, pulled.values()))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["adapter"]
    assert (tmp_path / "deep" / "adapter").stat().st_mode & 0o777 == 0o755


def test_an_empty_directory_is_filled(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    reader = LineageReader(store, "news")

    reader.pull(reader.manifest("1"), tmp_path / "adapter")

    assert len(list((tmp_path / "adapter").iterdir())) == 3


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json", "manifest.json"])
def test_a_damaged_version_never_appears(
    store: MemoryStore, tmp_path: Path, file: str, change: Callable[[MemoryStore, str], object]
) -> None:
    """Nobody serves half an adapter, or another's."""
    reader = LineageReader(store, "news")
    manifest = reader.manifest("2")
    key = f"news/versions/v000002/{file}"
    change(store, key)

    with pytest.raises(Damaged, match=key):
        reader.pull(manifest, tmp_path / "adapter")

    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_was_exchanged_meanwhile_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    reader = LineageReader(store, "news")
    manifest = reader.manifest("2")
    store.objects["news/versions/v000002/manifest.json"] = to_bytes(manifest.model_copy(update={"epoch": 9}))

    with pytest.raises(Damaged, match="a version never changes"):
        reader.pull(manifest, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_cannot_name_a_file_elsewhere(store: MemoryStore, tmp_path: Path) -> None:
    reader = LineageReader(store, "news")
    manifest = reader.manifest("2")
    evil = manifest.model_copy(update={"files": {"../../evil": manifest.files["adapter_config.json"]}})

    with pytest.raises(ValueError, match="is no name for a file of a version"):
        reader.pull(evil, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(store: MemoryStore, tmp_path: Path) -> None:
    reader = LineageReader(store, "news")
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="is there already"):
            reader.pull(reader.manifest("1"), taken)
    assert (tmp_path / "file").read_text() == "mine"
