"""Alias `champion` follows the rulings of committed checkpoints, each once, on every store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamlearn.core.judgement import Decision, Judgement, Ruling
from streamlearn.core.manifest import Alias, FileDigest, Manifest
from streamlearn.ports import Fatal, Fenced, NotFound, ObjectStore, StoreRefused
from streamlearn.registry.aliases import move_alias, read_alias
from streamlearn.registry.documents import Damaged, from_bytes, to_bytes
from streamlearn.registry.keys import Keys
from streamlearn.registry.reader import LineageReader
from tests.contract.making import (
    Crash,
    CrashAt,
    commit,
    draft,
    evidence,
    files,
    judged,
    lines,
    promoted,
    rolled_back,
    writer,
)
from tests.contract.stores import KINDS, fresh_store
from tests.contract.test_lineage import Reopen, altered, began, beyond_the_fake, overwrite, truncated
from tests.fakes.daemon import ManualClock, MemoryLineage
from tests.fakes.store import Wrapped

KEYS = Keys("news")
CHAMPION = "news/aliases/champion.json"


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return fresh_store(request.param, request)


@pytest.fixture(params=["fake", *KINDS])
def reopen(request: pytest.FixtureRequest) -> Reopen:
    """Open the lineage anew, as each start of a worker does."""
    if request.param == "fake":
        shared = MemoryLineage()
        return lambda: shared
    store, clock = fresh_store(request.param, request), ManualClock()
    return lambda: writer(store, clock)


def champion(store: ObjectStore) -> Alias | None:
    """Return the alias as it is on the store; None where nobody has made it."""
    try:
        return read_alias(store, KEYS, "champion")[0]
    except NotFound:
        return None


def moves(store: ObjectStore) -> list[tuple[int | None, str | None]]:
    """Return (number of the ruling, version moved to) of every move of the champion."""
    alias = champion(store)
    return [] if alias is None else [(move.ruling, move.to_version) for move in alias.history]


# --- what the port promises, also of the daemon's fake -----------------------------


def test_the_number_of_the_next_version_is_known_before_it_is_made(reopen: Reopen) -> None:
    """The judge names a candidate while its adapter is still on its way."""
    lineage = reopen()
    began(lineage)
    seen = [lineage.next_version]
    for first in range(3):
        published = commit(lineage, first, first + 1, publish=first != 1).version
        assert published in {None, seen[-1]}
        seen.append(lineage.next_version)
    lineage.release()
    again = reopen()
    began(again)

    assert [*seen, again.next_version] == [1, 2, 2, 3, 3]


def test_a_version_s_adapter_and_the_learner_s_state_behind_it_can_be_read_again(reopen: Reopen) -> None:
    """A rollback begins where the earlier version stood, optimiser and all."""
    lineage = reopen()
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    commit(lineage, 3, 5)
    commit(lineage, 5, 9, publish=True)
    lineage.release()
    again = reopen()
    began(again)

    for writer_then_or_now in (lineage, again):
        assert [writer_then_or_now.adapter(number) for number in (1, 2)] == [
            files(3)["adapter.safetensors"],
            files(9)["adapter.safetensors"],
        ]
        of_the_learner = [
            {name: body for name, body in files(behind).items() if name != "window.safetensors"} for behind in (3, 9)
        ]
        assert [dict(writer_then_or_now.learner_files(number)) for number in (1, 2)] == of_the_learner


def test_of_what_was_never_published_there_is_neither(reopen: Reopen) -> None:
    lineage = reopen()
    began(lineage)
    commit(lineage, 0, 3)

    with pytest.raises(NotFound):
        lineage.adapter(1)
    with pytest.raises(NotFound):
        lineage.learner_files(1)


def test_how_versions_stand_survives_a_restart_to_the_last_digit(reopen: Reopen) -> None:
    stands = judged(promoted("v000001", mean=0.1 + 0.2), candidate=evidence("v000002", "v000001", mean=1 / 3))
    lineage = reopen()
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    commit(lineage, 3, 5, judgement=stands)
    lineage.release()

    state = began(reopen()).state

    assert state is not None
    assert state.judgement == stands


@beyond_the_fake("manifest")
def test_a_manifest_tells_how_versions_stood(reopen: Reopen) -> None:
    stands = judged(promoted("v000001"), watched=evidence("v000001"))
    lineage = reopen()
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    commit(lineage, 3, 6, publish=True, judgement=stands)

    assert lineage.manifest(2).judgement == stands
    assert lineage.manifest(1).judgement == Judgement()


# --- a ruling moves the alias ------------------------------------------------------


def test_a_promotion_moves_the_champion_only_when_its_checkpoint_is_committed(store: ObjectStore) -> None:
    """Nobody serves what a crash may still unmake."""
    seen: list[Alias | None] = []
    lineage = writer(store, fault=lambda point, /: seen.append(champion(store)))
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    ruling = promoted("v000001")

    lineage.commit(
        draft(5, judgement=judged(ruling)),
        files(5),
        lines(range(3, 5)),
        adapter_config=None,
        before_swap=lambda: seen.append(champion(store)),
    )

    assert len(seen) >= 4
    assert set(seen) == {None}
    alias = champion(store)
    assert alias is not None
    assert alias.version == "v000001"
    (move,) = alias.history
    assert (move.from_version, move.to_version, move.by, move.epoch) == (None, "v000001", "first", 1)
    assert move.reason == "promote: better by 0.08 nats/token"
    assert (move.ruling, move.evidence) == (1, ruling.evidence)
    assert move.at == "1970-01-01T00:16:40.000+00:00"


def test_a_ruling_that_several_checkpoints_tell_is_carried_out_once(store: ObjectStore) -> None:
    """Each checkpoint repeats all rulings since the newest version, and every start looks at them again."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    stands = judged(promoted("v000001"))
    commit(first, 0, 3, publish=True)
    for offset in (3, 4, 5):
        commit(first, offset, offset + 1, judgement=stands)
    for owner in ("second", "third"):
        began(writer(store, clock, owner=owner))

    assert moves(store) == [(1, "v000001")]


def test_what_was_moved_by_hand_since_stays_where_it_was_put(store: ObjectStore) -> None:
    """An operator who serves something else for a reason is not overruled by a restart."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    stands = judged(promoted("v000002"))
    commit(first, 0, 3, publish=True)
    commit(first, 3, 6, publish=True)
    commit(first, 6, 7, judgement=stands)
    move_alias(store, KEYS, "champion", 1, epoch=1, by="Ada", at="2026-11-24T12:00:00Z", reason="a customer complained")
    commit(first, 7, 8, judgement=stands)
    began(writer(store, clock, owner="second"))

    alias = champion(store)
    assert alias is not None
    assert alias.version == "v000001"
    assert moves(store) == [(1, "v000002"), (None, "v000001")]


def test_a_rollback_to_the_base_points_the_champion_at_no_version(store: ObjectStore) -> None:
    """Servers that ask for the champion then serve the base alone."""
    lineage = writer(store)
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    commit(lineage, 3, 6, judgement=judged(promoted("v000001")))
    fall = rolled_back("v000001")
    commit(lineage, 6, 7, judgement=judged(promoted("v000001"), fall))

    alias = champion(store)
    assert alias is not None
    assert alias.version is None
    assert moves(store) == [(1, "v000001"), (2, None)]
    assert alias.history[-1].reason == "roll back: worse by 0.3 nats/token"
    assert alias.history[-1].evidence == fall.evidence
    with pytest.raises(NotFound, match="points to no version: the base is champion"):
        LineageReader(store, "news").manifest("champion")


def test_rulings_that_came_together_are_carried_out_in_their_order(store: ObjectStore) -> None:
    """A promotion and its fall may lie between two checkpoints."""
    lineage = writer(store)
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    commit(lineage, 3, 6, publish=True)
    three = (promoted("v000001"), promoted("v000002", 2, over="v000001"), rolled_back("v000002", 3, to="v000001"))
    commit(lineage, 6, 9, publish=True, judgement=judged(*three))

    assert moves(store) == [(1, "v000001"), (2, "v000002"), (3, "v000001")]
    assert LineageReader(store, "news").manifest("champion").version == "v000001"


@pytest.mark.parametrize("decision", [Decision.HOLD, Decision.REFUSE, Decision.KEEP])
def test_a_ruling_that_leaves_the_champion_leaves_the_alias(decision: Decision, request: pytest.FixtureRequest) -> None:
    store = fresh_store("memory", request)
    lineage = writer(store)
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    ruling = Ruling(decision=decision, reason="because", evidence=evidence("v000001"), number=1, chunk=9, champion=None)
    commit(lineage, 3, 6, judgement=judged(ruling))

    assert champion(store) is None


# --- crashes and other writers -----------------------------------------------------


@pytest.mark.parametrize(("point", "publish"), [("swapped", False), ("swapped", True), ("version:half", True)])
def test_a_ruling_whose_writer_died_before_the_move_is_carried_out_by_the_next(
    store: ObjectStore, point: str, publish: bool
) -> None:
    """Exactly once, whoever comes after that."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3, publish=True)
    first.release()
    dying = writer(store, clock, owner="dying", fault=CrashAt(point))
    began(dying)
    ruling = promoted("v000001")
    with pytest.raises(Crash):
        commit(dying, 3, 6, publish=publish, judgement=judged(ruling))
    assert moves(store) == []
    clock.time += 3_600.0

    began(writer(store, clock, owner="next"))
    after = writer(store, clock, owner="after")
    began(after)
    commit(after, 6, 7, judgement=judged(ruling) if not publish else None)

    alias = champion(store)
    assert alias is not None
    (move,) = alias.history
    assert (move.to_version, move.by, move.epoch, move.ruling, move.evidence) == (
        "v000001", "next", 3, 1, ruling.evidence,
    )  # fmt: skip
    # When readers could first see it, not when it was ruled.
    assert move.at[11:13] == "01"


def test_a_ruling_that_was_never_committed_was_never_made(store: ObjectStore) -> None:
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3, publish=True)
    first.release()
    dying = writer(store, clock, fault=CrashAt("uploaded"))
    began(dying)
    with pytest.raises(Crash):
        commit(dying, 3, 6, judgement=judged(promoted("v000001")))

    began(writer(store, clock, owner="next"))

    assert moves(store) == []


def test_a_writer_that_was_fenced_moves_no_champion(store: ObjectStore) -> None:
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3, publish=True)
    began(writer(store, clock, owner="second"))

    with pytest.raises(Fenced):
        commit(first, 3, 6, judgement=judged(promoted("v000001")))

    assert moves(store) == []


def test_who_is_overtaken_between_swap_and_move_leaves_the_move_to_the_other(store: ObjectStore) -> None:
    """Both know of the ruling; the alias is moved by the one that may."""
    clock = ManualClock()
    second = writer(store, clock, owner="second")
    overtaken = promoted("v000001")

    def overtake(point: str, /) -> None:
        if point == "swapped" and armed:
            armed.clear()
            clock.time += 1_000.0
            began(second)
            commit(second, 6, 7, judgement=judged(overtaken, rolled_back("v000001")))

    armed: list[bool] = []
    first = writer(store, clock, fault=overtake)
    began(first)
    commit(first, 0, 3, publish=True)
    armed.append(True)

    with pytest.raises(Fenced, match="alias 'champion' belongs to a writer of epoch 2"):
        commit(first, 3, 6, judgement=judged(overtaken))

    alias = champion(store)
    assert alias is not None
    assert [(move.ruling, move.by) for move in alias.history] == [(1, "second"), (2, "second")]
    assert alias.version is None


def test_a_champion_that_nobody_has_made_yet_is_not_for_a_fenced_writer_to_make(store: ObjectStore) -> None:
    """Its successor could not read the checkpoint, went on from the one before, and knows of no promotion."""
    clock = ManualClock()

    def overtake(point: str, /) -> None:
        if point == "swapped" and names:
            name = next(key for key, _ in store.list("news/checkpoints/0000000002-") if key.endswith("state.json"))
            overwrite(store, name, altered)
            clock.time += 1_000.0
            began(writer(store, clock, owner="second"))

    names: list[str] = []
    first = writer(store, clock, fault=overtake)
    began(first)
    names.append(commit(first, 0, 3, publish=True).checkpoint)

    with pytest.raises(Fenced, match="alias 'champion' belongs to a writer of epoch 2"):
        commit(first, 3, 6, judgement=judged(promoted("v000001")))

    assert moves(store) == []


def test_a_number_that_is_given_again_after_damage_is_another_ruling(store: ObjectStore) -> None:
    """The worker goes on from an older checkpoint and comes to another decision: the alias must follow it."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3, publish=True)
    commit(first, 3, 6, publish=True)
    damaged = commit(first, 6, 7, judgement=judged(promoted("v000001"))).checkpoint
    overwrite(store, f"news/checkpoints/{damaged}/state.json", altered)
    after = writer(store, clock, owner="after")
    restored = began(after)
    assert restored.state is not None
    assert restored.state.judgement.rulings == ()

    commit(after, 6, 8, judgement=judged(promoted("v000002", mean=0.07)))

    assert moves(store) == [(1, "v000001"), (1, "v000002")]


def test_a_writer_that_could_not_move_the_champion_commits_no_more(request: pytest.FixtureRequest) -> None:
    """Its next checkpoint would tell of no ruling before the version, and the move would be lost."""

    class Refusing(Wrapped):
        def create(self, key: str, body: bytes) -> str:
            if key == CHAMPION:
                raise StoreRefused("no permission")
            return super().create(key, body)

    store, clock = fresh_store("memory", request), ManualClock()
    lineage = writer(Refusing(store), clock)
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    with pytest.raises(StoreRefused):
        commit(lineage, 3, 6, publish=True, judgement=judged(promoted("v000001")))

    with pytest.raises(Fatal, match="was left unfinished"):
        commit(lineage, 6, 7)

    began(writer(store, clock, owner="next"))
    assert moves(store) == [(1, "v000001")]


# --- damage ------------------------------------------------------------------------


def gone(store: ObjectStore, key: str) -> None:
    store.delete(key)


CHANGES: dict[str, Callable[[ObjectStore, str], None]] = {
    "gone": gone,
    "truncated": lambda store, key: overwrite(store, key, truncated),
    "altered": lambda store, key: overwrite(store, key, altered),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_damaged_adapter_is_compared_with_nobody(
    store: ObjectStore, change: Callable[[ObjectStore, str], None]
) -> None:
    """A flipped bit would be judged as if the version were bad."""
    lineage = writer(store)
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    key = "news/versions/v000001/adapter_model.safetensors"
    change(store, key)

    with pytest.raises(Fatal, match=key):
        lineage.adapter(1)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("file", ["state.json", "optimizer.safetensors"])
def test_a_damaged_checkpoint_is_not_gone_back_to(
    file: str, change: Callable[[ObjectStore, str], None], request: pytest.FixtureRequest
) -> None:
    store = fresh_store("memory", request)
    lineage = writer(store)
    began(lineage)
    name = commit(lineage, 0, 3, publish=True).checkpoint
    commit(lineage, 3, 6)
    key = f"news/checkpoints/{name}/{file}"
    change(store, key)

    with pytest.raises(Fatal, match=key):
        lineage.learner_files(1)


def test_a_manifest_that_names_no_adapter_is_damaged(request: pytest.FixtureRequest) -> None:
    store = fresh_store("memory", request)
    lineage = writer(store)
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    key = "news/versions/v000001/manifest.json"
    other: dict[str, FileDigest] = {}
    overwrite(store, key, lambda body: to_bytes(from_bytes(Manifest, key, body).model_copy(update={"files": other})))

    with pytest.raises(Damaged, match=r"it names no adapter_model\.safetensors"):
        lineage.adapter(1)


def test_a_version_of_before_there_was_a_gate_is_read_as_one_without_judgement(request: pytest.FixtureRequest) -> None:
    """Manifests and states of earlier releases lack the field; histories lack rulings and evidence."""
    store, clock = fresh_store("memory", request), ManualClock()
    lineage = writer(store, clock)
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    lacks = b'"judgement":' + to_bytes(Judgement()) + b","
    lacking = b',"evidence":null', b'"evidence":null,', b',"ruling":null', b'"ruling":null,'

    def older(body: bytes) -> bytes:
        assert lacks in body or b"history" in body
        for part in (lacks, *lacking):
            body = body.replace(part, b"")
        return body

    for key in ("news/versions/v000001/manifest.json", "news/aliases/latest.json"):
        overwrite(store, key, older)

    (version,) = LineageReader(store, "news").versions()
    assert version.manifest.judgement == Judgement()
    assert version.aliases == ("latest",)
    assert b"ruling" not in store.get("news/aliases/latest.json").body
    assert b"judgement" not in store.get("news/versions/v000001/manifest.json").body
    began(writer(store, clock, owner="next"))
