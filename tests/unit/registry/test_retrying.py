"""Patience: how long, how often, and what a lost answer meant."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from streamlearn.ports import Conflict, Fatal, NotFound, ObjectStore, StoredObject, StoreRefused, StoreUnavailable
from streamlearn.registry.reader import LineageReader
from streamlearn.registry.retrying import RetryingStore
from tests.contract.making import commit, never, writer
from tests.fakes.daemon import ManualClock, SilentTelemetry
from tests.fakes.store import MemoryStore, UnreachableStore, Wrapped


class Patience:
    """A retrying store whose waiting costs no time; `waits` are its pauses in seconds."""

    def __init__(
        self, store: ObjectStore, budget_s: float = 300.0, should_stop: Callable[[], bool] | None = None
    ) -> None:
        self.clock, self.telemetry = ManualClock(), SilentTelemetry()
        self._asked_at: list[float] = []
        self.store = RetryingStore(
            Noted(store, self._note),
            budget_s=budget_s,
            clock=self.clock,
            telemetry=self.telemetry,
            should_stop=should_stop,
            wait=self._pass_time,
        )

    @property
    def waits(self) -> list[float]:
        return [after - before for before, after in pairwise(self._asked_at)]

    def _note(self) -> None:
        self._asked_at.append(self.clock.time)

    def _pass_time(self, seconds: float) -> None:
        self.clock.time += seconds


class Noted(UnreachableStore):
    """Says when it is asked."""

    def __init__(self, store: ObjectStore, note: Callable[[], None]) -> None:
        super().__init__(store)
        self._note = note

    def _answer(self, ask: Callable[[], Any]) -> Any:
        self._note()
        return ask()


def test_what_is_asked_in_an_outage_is_answered_after_it() -> None:
    inner = UnreachableStore(MemoryStore(), failures=5)
    patience = Patience(inner)

    patience.store.create("news/a", b"1")

    assert patience.store.get("news/a").body == b"1"
    assert patience.telemetry.counts == {"streamlearn_store_retries_total": 5}


def test_pauses_grow_to_a_bound_and_differ() -> None:
    """A store that comes back is not met by a fleet in step."""
    patience = Patience(UnreachableStore(MemoryStore(), failures=12), budget_s=1_000.0)

    patience.store.delete("news/a")

    bounds = [min(0.2 * 2**turn, 20.0) for turn in range(12)]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(patience.waits, bounds, strict=True))
    assert len({wait / bound for wait, bound in zip(patience.waits, bounds, strict=True)}) > 1


def test_patience_ends_with_the_budget_and_says_so() -> None:
    patience = Patience(UnreachableStore(MemoryStore(), failures=10**6), budget_s=60.0)

    with pytest.raises(
        StoreUnavailable, match=r"the line is cut \(tried \d+ times in \d+ s; store.retry_budget_s = 60\)"
    ):
        patience.store.get("news/a")

    assert sum(patience.waits) == pytest.approx(60.0), "a store that is back just in time is still met"


def test_without_a_budget_the_first_absence_is_told() -> None:
    """What a command that a person waits for wants."""
    patience = Patience(UnreachableStore(MemoryStore(), failures=1), budget_s=0.0)

    with pytest.raises(StoreUnavailable, match="tried 1 times in 0 s"):
        patience.store.get("news/a")
    assert patience.waits == []


def test_a_process_that_was_held_in_a_request_asks_once_more() -> None:
    """The minutes of a SIGSTOP are its own: it must hear that it was replaced, not end for a store that answers."""
    inner = MemoryStore()

    class Held(Wrapped):
        def get(self, key: str) -> StoredObject:
            if patience.clock.time < 1_100.0:
                patience.clock.time += 600.0
                raise StoreUnavailable("a request that timed out while we were held")
            return super().get(key)

    patience = Patience(Held(inner), budget_s=30.0)
    inner.create("news/a", b"1")

    assert patience.store.get("news/a").body == b"1"


def test_an_answer_begins_the_budget_anew() -> None:
    """A commit of many requests outlives many short absences; only an outage of that length ends it."""
    inner = UnreachableStore(MemoryStore())
    patience = Patience(inner, budget_s=5.0)

    for number in range(10):
        inner.failures = 3
        patience.store.create(f"news/{number}", b"1")

    assert sum(patience.waits) > 5.0


def test_who_is_told_to_stop_waits_no_longer() -> None:
    """SIGTERM in an outage does not wait out five minutes; and it is an absence still, not a refusal."""
    stopping = threading.Event()
    inner = UnreachableStore(MemoryStore(), failures=10**6)
    patience = Patience(inner, should_stop=stopping.is_set)
    inner_answer = inner._answer

    def answer(ask: Callable[[], Any]) -> Any:
        if inner.asked == 4:
            stopping.set()
        return inner_answer(ask)

    inner._answer = answer  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable, match="the line is cut"):
        patience.store.get("news/a")

    assert inner.asked == 5, "the pause is cut short, and nothing is asked again"


def test_a_pause_is_cut_short_when_told_to_stop() -> None:
    patience = Patience(
        UnreachableStore(MemoryStore(), failures=10**6), should_stop=lambda: patience.clock.time >= 1_030.0
    )

    with pytest.raises(StoreUnavailable, match="the line is cut"):
        patience.store.get("news/a")

    assert 1_030.0 <= patience.clock.time < 1_030.5, "pauses are of 20 seconds by then"


class Silent(Wrapped):
    """Takes the question and says nothing until `answered`."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.asked, self.answered = threading.Event(), threading.Event()

    def swap(self, key: str, body: bytes, etag: str) -> str:
        self.asked.set()
        assert self.answered.wait(60)
        return self.store.swap(key, body, etag)


def test_a_question_without_an_answer_holds_nobody_who_is_told_to_stop() -> None:
    """A blackholed store keeps a connection for a minute, whatever signals arrive."""
    stopping = threading.Event()
    inner = Silent(MemoryStore())
    etag = inner.create("news/head.json", b"1")
    store = Patience(inner, should_stop=lambda: inner.asked.is_set() and stopping.is_set()).store
    stopping.set()

    with pytest.raises(StoreUnavailable, match="no answer when told to stop"):
        store.swap("news/head.json", b"2", etag)
    inner.answered.set()


def test_what_the_store_says_is_raised_as_it_was_said_also_aside() -> None:
    store = Patience(Refusing(StoreRefused("no")), should_stop=lambda: False).store

    with pytest.raises(StoreRefused, match="no"):
        store.get("news/a")
    assert Patience(MemoryStore(), should_stop=lambda: False).store.create("news/a", b"1")


class Refusing(Wrapped):
    """Answers everything with `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(MemoryStore())
        self.asked = 0
        self._error = error

    def get(self, key: str) -> StoredObject:
        self.asked += 1
        raise self._error

    def create(self, key: str, body: bytes) -> str:
        self.asked += 1
        raise self._error


@pytest.mark.parametrize("error", [StoreRefused("no"), NotFound("no"), ValueError("no")])
def test_a_refusal_is_final(error: Exception) -> None:
    """No permission today is none in five minutes."""
    inner = Refusing(error)

    with pytest.raises(type(error), match="no"):
        Patience(inner).store.get("news/a")
    assert inner.asked == 1


# --- lost answers -------------------------------------------------------------


def test_a_create_whose_answer_was_lost_has_happened() -> None:
    """The conflict that a second attempt meets is our own first."""
    inner = MemoryStore()
    patience = Patience(UnreachableStore(inner, failures=1, late=True))

    etag = patience.store.create("news/a", b"ours")

    assert inner.objects == {"news/a": b"ours"}
    assert patience.store.swap("news/a", b"next", etag)


def test_a_swap_whose_answer_was_lost_has_happened() -> None:
    """A writer is not fenced by itself."""
    inner = MemoryStore()
    first = inner.create("news/head.json", b"1")
    patience = Patience(UnreachableStore(inner, failures=2, late=False))
    patience.store.get("news/head.json")
    late = Patience(UnreachableStore(inner, failures=1, late=True))

    second = late.store.swap("news/head.json", b"2", first)

    assert inner.objects["news/head.json"] == b"2"
    assert late.store.swap("news/head.json", b"3", second)


def test_a_conflict_at_the_first_attempt_is_another_s_even_with_our_bytes() -> None:
    """Nothing was lost, so nothing can be our own."""
    inner = MemoryStore()
    inner.create("news/a", b"same")

    with pytest.raises(Conflict):
        Patience(inner).store.create("news/a", b"same")


@pytest.mark.parametrize("operation", ["create", "swap"])
def test_a_conflict_with_other_bytes_after_an_outage_is_another_writer_s(operation: str) -> None:
    """Who was cut off while somebody took over is told."""
    inner = MemoryStore()
    etag = inner.create("news/b", b"1") if operation == "swap" else ""
    inner.objects["news/b" if etag else "news/a"] = b"theirs"
    store = Patience(UnreachableStore(inner, failures=1)).store

    with pytest.raises(Conflict):
        store.swap("news/b", b"ours", etag) if etag else store.create("news/a", b"ours")


def test_a_swap_of_what_was_removed_meanwhile_is_a_conflict() -> None:
    inner = MemoryStore()
    etag = inner.create("news/a", b"1")
    inner.delete("news/a")

    with pytest.raises(Conflict):
        Patience(UnreachableStore(inner, failures=1)).store.swap("news/a", b"2", etag)


class CutAt(UnreachableStore):
    """Loses the answer of call number `number`, which took place."""

    def __init__(self, store: ObjectStore, number: int) -> None:
        super().__init__(store, late=True)
        self.number = number

    def _answer(self, ask: Callable[[], object]) -> object:  # type: ignore[override]
        self.failures = int(self.asked + 1 == self.number)
        return super()._answer(ask)


def test_any_one_lost_answer_changes_nothing_of_what_is_committed() -> None:
    """A commit is some dozen round trips; whichever is cut, the lineage is the same."""
    number, cut = 0, True
    while cut:
        number += 1
        inner = MemoryStore()
        flaky = CutAt(inner, number)
        lineage = writer(Patience(flaky).store)
        lineage.acquire(never)
        commit(lineage, 0, 3, publish=True)
        commit(lineage, 3, 5)
        commit(lineage, 5, 6, publish=True)
        cut = flaky.asked >= number

        reader = LineageReader(inner, "news")
        assert [version.manifest.version for version in reader.versions()] == ["v000001", "v000002"]
        assert [line.id for line in reader.ledger() if line.kind == "event"] == [f"news:0:{each}" for each in range(6)]
        assert len(list(inner.list("news/checkpoints/"))) == 12
    assert number > 25


def test_an_outage_longer_than_the_budget_in_a_commit_leaves_the_one_before() -> None:
    inner = MemoryStore()
    flaky = UnreachableStore(inner)
    lineage = writer(Patience(flaky, budget_s=10.0).store)
    lineage.acquire(never)
    commit(lineage, 0, 3)
    flaky.failures = 10**6

    with pytest.raises(StoreUnavailable, match=r"retry_budget_s = 10"):
        commit(lineage, 3, 6)

    assert len(list(LineageReader(inner, "news").ledger())) == 6
    assert not issubclass(StoreUnavailable, Fatal)
