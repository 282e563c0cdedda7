"""An alias belongs to the latest writer and keeps its history."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamlearn.core.manifest import Alias
from streamlearn.ports import Fenced, StoredObject
from streamlearn.registry.aliases import alias_names, move_alias, read_alias, touch_aliases
from streamlearn.registry.keys import Keys
from tests.fakes.store import MemoryStore, Wrapped

KEYS = Keys("news")


def move(store: Wrapped | MemoryStore, version: int, epoch: int = 1, name: str = "latest") -> None:
    move_alias(store, KEYS, name, version, epoch=epoch, by=f"writer {epoch}", at=f"day {version}", reason="published")


def alias(store: Wrapped | MemoryStore, name: str = "latest") -> Alias:
    return read_alias(store, KEYS, name)[0]


class Meanwhile(Wrapped):
    """Lets somebody else act once, between our look and our write."""

    def __init__(self, store: MemoryStore, act: Callable[[], None]) -> None:
        super().__init__(store)
        self._acts = [act]

    def create(self, key: str, body: bytes) -> str:
        self._let_act()
        return super().create(key, body)

    def swap(self, key: str, body: bytes, etag: str) -> str:
        self._let_act()
        return super().swap(key, body, etag)

    def get(self, key: str) -> StoredObject:
        return super().get(key)

    def _let_act(self) -> None:
        if self._acts:
            self._acts.pop()()


def test_a_move_is_remembered_with_who_when_and_why() -> None:
    store = MemoryStore()
    move(store, 1)
    move(store, 2, epoch=3)

    found = alias(store)

    assert (found.version, found.epoch) == ("v000002", 3)
    assert [(each.from_version, each.to_version, each.by, each.at, each.epoch) for each in found.history] == [
        (None, "v000001", "writer 1", "day 1", 1),
        ("v000001", "v000002", "writer 3", "day 2", 3),
    ]


def test_pointing_where_it_points_writes_nothing() -> None:
    store = MemoryStore()
    move(store, 1)
    before = dict(store.objects)

    move(store, 1)

    assert store.objects == before


def test_an_earlier_writer_moves_nothing() -> None:
    store = MemoryStore()
    move(store, 1, epoch=1)
    touch_aliases(store, KEYS, epoch=2)

    with pytest.raises(Fenced, match="alias 'latest' belongs to a writer of epoch 2; ours was 1"):
        move(store, 2, epoch=1)
    with pytest.raises(Fenced):
        touch_aliases(store, KEYS, epoch=1)

    assert (alias(store).version, len(alias(store).history)) == ("v000001", 1)


def test_a_touch_is_on_every_alias_and_in_no_history() -> None:
    store = MemoryStore()
    for name in ("latest", "champion"):
        move(store, 1, name=name)

    touch_aliases(store, KEYS, epoch=5)

    assert list(alias_names(store, KEYS)) == ["champion", "latest"]
    assert {(alias(store, name).epoch, len(alias(store, name).history)) for name in ("latest", "champion")} == {(5, 1)}


def test_who_is_overtaken_between_look_and_write_is_fenced() -> None:
    store = MemoryStore()
    move(store, 1)

    with pytest.raises(Fenced):
        move(Meanwhile(store, lambda: touch_aliases(store, KEYS, epoch=2)), 2)

    assert alias(store).version == "v000001"


@pytest.mark.parametrize("there", [True, False])
def test_the_rightful_writer_is_not_fenced_by_the_last_move_of_an_earlier_one(there: bool) -> None:
    """The earlier one was still under way when we took over; ours comes after it and stands."""
    store = MemoryStore()
    if there:
        move(store, 1)

    move(Meanwhile(store, lambda: move(store, 2, epoch=1)), 3, epoch=2)

    assert (alias(store).version, alias(store).epoch) == ("v000003", 2)
    assert alias(store).history[-1].from_version == "v000002"


def test_a_touch_outlasts_a_move_that_was_under_way() -> None:
    store = MemoryStore()
    move(store, 1)

    touch_aliases(Meanwhile(store, lambda: move(store, 2, epoch=1)), KEYS, epoch=2)

    assert (alias(store).version, alias(store).epoch, len(alias(store).history)) == ("v000002", 2, 2)
