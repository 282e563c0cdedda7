"""The chain of checkpoints: one writer, nothing half, nothing twice, on every store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from streamlearn.core.manifest import CheckpointState, EventLine, version_name
from streamlearn.ports import Fatal, Fenced, Lineage, NotFound, ObjectStore, Restored, StoredObject
from streamlearn.registry.aliases import move_alias, read_alias
from streamlearn.registry.documents import digest_of, verified
from streamlearn.registry.head import read_head
from streamlearn.registry.keys import Keys
from streamlearn.registry.lineage import StoreLineage
from streamlearn.registry.reader import LineageReader
from streamlearn.registry.retrying import RetryingStore
from tests.contract.making import (
    ADAPTER_CONFIG,
    TTL_S,
    Crash,
    CrashAt,
    SkewedClock,
    commit,
    draft,
    files,
    lines,
    never,
    writer,
)
from tests.contract.stores import KINDS, fresh_store
from tests.fakes.daemon import ManualClock, MemoryLineage, SilentTelemetry
from tests.fakes.store import CountingStore, UnreachableStore, Wrapped

KEYS = Keys("news")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return fresh_store(request.param, request)


def began(lineage: Lineage) -> Restored:
    """Become the writer, which nobody hinders."""
    restored = lineage.acquire(never)
    assert restored is not None
    return restored


def state_of(restored: Restored) -> CheckpointState:
    assert restored.state is not None
    return restored.state


def offsets(store: ObjectStore) -> list[int]:
    """Return the offsets of the committed ledger, in its order."""
    return [line.offset for line in LineageReader(store, "news").ledger() if isinstance(line, EventLine)]


def versions(store: ObjectStore) -> list[str]:
    return [version.manifest.version for version in LineageReader(store, "news").versions()]


def overwrite(store: ObjectStore, key: str, change: Callable[[bytes], bytes]) -> None:
    found = store.get(key)
    store.swap(key, change(found.body), found.etag)


# --- what the port promises, also of the daemon's fake -----------------------------

Reopen = Callable[[], Lineage]
FAKE_GAPS = {
    "parent": "MemoryLineage names no parent and gives every checkpoint one name",
    "epoch": "MemoryLineage shows the reader's epoch in the state, not the epoch of who wrote it",
    "manifest": "MemoryLineage publishes without manifests",
    "fence": "MemoryLineage has one writer by assumption and fences nobody",
}


@pytest.fixture(params=["fake", *KINDS])
def reopen(request: pytest.FixtureRequest) -> Reopen:
    """Open the lineage anew, as each start of a worker does."""
    if request.param == "fake":
        shared = MemoryLineage()
        return lambda: shared
    store, clock = fresh_store(request.param, request), ManualClock()
    return lambda: writer(store, clock)


def beyond_the_fake(gap: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "reopen",
        [pytest.param("fake", marks=pytest.mark.xfail(strict=True, reason=FAKE_GAPS[gap])), *KINDS],
        indirect=True,
    )


def test_a_new_lineage_begins_with_nothing(reopen: Reopen) -> None:
    restored = began(reopen())

    assert (restored.epoch, restored.state, dict(restored.files), restored.newest_version) == (1, None, {}, 0)


def test_who_is_told_to_stop_does_not_become_the_writer(reopen: Reopen) -> None:
    assert reopen().acquire(lambda: True) is None


def test_a_restart_continues_where_the_last_commit_was(reopen: Reopen) -> None:
    """Window, optimiser and offsets are those of one moment."""
    first = reopen()
    began(first)
    commit(first, 0, 3)
    commit(first, 3, 5)
    first.release()

    restored = began(reopen())

    state = state_of(restored)
    assert state.progress == {"news": {0: 5}}
    assert {name: getattr(state, name) for name in type(draft(5)).model_fields} == dict(draft(5))
    assert dict(restored.files) == files(5)
    assert (restored.epoch, state.seq, restored.newest_version) == (2, 2, 0)


def test_versions_are_numbered_without_gaps_across_restarts(reopen: Reopen) -> None:
    first = reopen()
    began(first)
    numbers = [commit(first, 0, 1, publish=True).version, commit(first, 1, 2).version]
    first.release()
    second = reopen()
    restored = began(second)
    numbers += [commit(second, 2, 3, publish=True).version, commit(second, 3, 4, publish=True).version]

    assert restored.newest_version == 1
    assert numbers == [1, None, 2, 3]


def test_dead_letters_are_flushed_before_the_commit(reopen: Reopen) -> None:
    """An offset that counts as seen is in the window or in the topic."""
    lineage = reopen()
    began(lineage)

    def refuse() -> None:
        raise Crash("the flush failed")

    with pytest.raises(Crash):
        lineage.commit(draft(3), files(3), lines(range(3)), adapter_config=ADAPTER_CONFIG, before_swap=refuse)
    lineage.release()

    restored = began(reopen())
    assert (restored.state, restored.newest_version) == (None, 0)


@beyond_the_fake("parent")
def test_each_checkpoint_names_the_one_before(reopen: Reopen) -> None:
    lineage = reopen()
    began(lineage)
    names = [commit(lineage, 0, 1).checkpoint, commit(lineage, 1, 2).checkpoint]
    lineage.release()

    assert state_of(began(reopen())).parent == names[0]
    assert names[0] != names[1]


@beyond_the_fake("epoch")
def test_a_state_tells_the_epoch_of_who_wrote_it(reopen: Reopen) -> None:
    first = reopen()
    began(first)
    commit(first, 0, 1)
    first.release()

    assert state_of(began(reopen())).epoch == 1


@beyond_the_fake("manifest")
def test_a_published_version_has_a_manifest(reopen: Reopen) -> None:
    lineage = reopen()
    began(lineage)
    committed = commit(lineage, 0, 3, publish=True)

    manifest = lineage.manifest(1)

    assert (manifest.version, manifest.checkpoint) == ("v000001", committed.checkpoint)
    assert manifest.progress == {"news": {0: 3}}


def test_a_version_that_was_never_published_is_not_found(reopen: Reopen) -> None:
    lineage = reopen()
    began(lineage)
    commit(lineage, 0, 3)

    with pytest.raises(NotFound):
        lineage.manifest(1)


@beyond_the_fake("fence")
def test_of_two_writers_the_earlier_is_fenced(reopen: Reopen) -> None:
    first, second = reopen(), reopen()
    began(first)
    began(second)

    with pytest.raises(Fenced):
        commit(first, 0, 3)
    with pytest.raises(Fenced):
        first.renew()


# --- what is on the store ----------------------------------------------------------


def test_a_commit_writes_what_the_design_says(store: ObjectStore) -> None:
    lineage = writer(store)
    began(lineage)
    committed = commit(lineage, 0, 3, publish=True)

    name = committed.checkpoint
    folder = f"news/checkpoints/{name}"
    sizes = dict(store.list("news/"))
    assert sorted(sizes) == sorted(
        [
            "news/head.json",
            *(f"{folder}/{file}" for file in ("state.json", *files(3))),
            f"news/ledger/{name}.jsonl.gz",
            *(f"news/versions/v000001/{file}" for file in ("adapter_model.safetensors", "adapter_config.json")),
            "news/versions/v000001/manifest.json",
            "news/aliases/latest.json",
        ]
    )
    assert committed.bytes_written == sum(
        size for key, size in sizes.items() if key.startswith((folder, "news/ledger/"))
    )
    assert committed.publish_bytes == sum(size for key, size in sizes.items() if key.startswith("news/versions/"))
    assert name.startswith("0000000001-")
    assert name.endswith(digest_of(store.get(f"{folder}/state.json").body).sha256[:12])


def test_a_version_is_the_checkpoint_s_adapter_with_digests_and_parent(store: ObjectStore) -> None:
    lineage = writer(store)
    began(lineage)
    commit(lineage, 0, 3, publish=True)
    commit(lineage, 3, 5)
    commit(lineage, 5, 9, publish=True)

    found = lineage.manifest(2)

    for name, body in (("adapter_model.safetensors", files(9)["adapter.safetensors"]), *CONFIG_FILE):
        stored = store.get(f"news/versions/v000002/{name}").body
        assert verified(name, stored, found.files[name]) == body
    assert (found.parent, lineage.manifest(1).parent) == ("v000001", None)
    assert (found.totals.events, found.since_parent.events) == (9, 6)
    assert lineage.manifest(1).since_parent == lineage.manifest(1).totals


CONFIG_FILE = [("adapter_config.json", ADAPTER_CONFIG)]


def test_latest_follows_the_newest_version_and_remembers_the_earlier(store: ObjectStore) -> None:
    clock = ManualClock()
    lineage = writer(store, clock)
    began(lineage)
    commit(lineage, 0, 1, publish=True)
    clock.time += 3_600.0
    commit(lineage, 1, 2, publish=True)

    alias, _ = read_alias(store, KEYS, "latest")

    assert alias.version == "v000002"
    assert [(move.from_version, move.to_version, move.by) for move in alias.history] == [
        (None, "v000001", "first"),
        ("v000001", "v000002", "first"),
    ]
    assert [move.at[11:16] for move in alias.history] == ["00:16", "01:16"]


def test_a_restart_alone_is_no_move_of_an_alias(store: ObjectStore) -> None:
    """History tells what was served when, not when a worker was restarted."""
    for _ in range(3):
        lineage = writer(store)
        if began(lineage).state is None:
            commit(lineage, 0, 1, publish=True)
        lineage.release()

    alias, _ = read_alias(store, KEYS, "latest")
    assert (len(alias.history), alias.epoch) == (1, 3)


# --- one writer ----------------------------------------------------------------------


def test_a_standby_waits_while_the_lease_is_kept_and_takes_over_when_it_is_not(store: ObjectStore) -> None:
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3)
    waited: list[float] = []

    def wait(seconds: float) -> None:
        clock.time += seconds
        waited.append(seconds)
        # Kept for three times its length, then the process hangs.
        if sum(waited) < 3 * TTL_S and len(waited) % 8 == 0:
            first.renew()

    second = writer(store, clock, owner="second", wait=wait)
    restored = began(second)

    assert 3 * TTL_S <= sum(waited) <= 4 * TTL_S + 2.0
    assert restored.epoch == 2
    assert state_of(restored).progress == {"news": {0: 3}}


def test_a_fenced_writer_commits_nothing(store: ObjectStore) -> None:
    """It may have hung for an hour and not know that somebody else went on."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3, publish=True)
    second = writer(store, clock, owner="second")
    began(second)
    commit(second, 3, 6)

    with pytest.raises(Fenced, match=r"taken over by second \(epoch 2, ours was 1\)"):
        commit(first, 3, 9, publish=True)
    with pytest.raises(Fenced):
        first.renew()
    first.release()

    assert offsets(store) == list(range(6))
    assert versions(store) == ["v000001"]
    head, _ = read_head(store, KEYS)
    assert head.lease is not None
    assert (head.epoch, head.lease.owner) == (2, "second")
    commit(second, 6, 7)
    assert offsets(store) == list(range(7))


def test_a_writer_that_is_fenced_after_its_swap_moves_no_alias(store: ObjectStore) -> None:
    """What it committed stays; the version is finished by whoever came after, byte for byte the same."""
    clock = ManualClock()
    second = writer(store, clock, owner="second")

    def overtake(point: str, /) -> None:
        if point == "version:half" and clock.time < 2_000.0:
            clock.time += 1_000.0
            began(second)
            commit(second, 3, 4, publish=True)

    first = writer(store, clock, fault=overtake)
    began(first)

    with pytest.raises(Fenced, match="alias 'latest' belongs to a writer of epoch 2"):
        commit(first, 0, 3, publish=True)

    alias, _ = read_alias(store, KEYS, "latest")
    assert alias.version == "v000002"
    assert [move.to_version for move in alias.history] == ["v000001", "v000002"]
    assert {move.by for move in alias.history} == {"second"}
    assert versions(store) == ["v000001", "v000002"]
    assert offsets(store) == list(range(4))


def test_a_takeover_fences_the_earlier_writer_from_every_alias(store: ObjectStore) -> None:
    """Also from those that a commit does not move."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3, publish=True)
    move_alias(store, KEYS, "champion", 1, epoch=1, by="first", at="then", reason="won")

    began(writer(store, clock, owner="second"))

    with pytest.raises(Fenced, match="alias 'champion' belongs to a writer of epoch 2"):
        move_alias(store, KEYS, "champion", 2, epoch=1, by="first", at="later", reason="won")


def test_a_release_lets_the_standby_in_at_once(store: ObjectStore) -> None:
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3)
    first.release()
    first.release()
    before = clock.time

    restored = began(writer(store, clock, owner="second"))

    assert (restored.epoch, clock.time) == (2, before)


def test_nothing_is_committed_after_a_release(store: ObjectStore) -> None:
    """A checkpoint that was in flight at shutdown is learnt again rather than half there."""
    lineage = writer(store)
    began(lineage)
    commit(lineage, 0, 3)

    def let_go() -> None:
        lineage.release()

    with pytest.raises(Fenced, match="was given up"):
        lineage.commit(draft(5), files(5), lines(range(3, 5)), adapter_config=None, before_swap=let_go)

    assert offsets(store) == list(range(3))


def test_a_standby_that_is_told_to_stop_leaves_the_lease_alone(store: ObjectStore) -> None:
    clock = ManualClock()
    first = writer(store, clock)
    began(first)

    assert writer(store, clock, owner="second").acquire(lambda: clock.time > 1_010.0) is None

    commit(first, 0, 3)
    assert offsets(store) == [0, 1, 2]


@pytest.mark.parametrize("skew_s", [-60.0, 60.0, 86_400.0])
def test_a_clock_that_is_off_robs_nobody_and_delays_nothing(store: ObjectStore, skew_s: float) -> None:
    """A live writer is not robbed, and a dead one is replaced in time: a minute off, or a day."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3)
    waited: list[float] = []

    def wait(seconds: float) -> None:
        clock.time += seconds
        waited.append(seconds)
        if sum(waited) < 2 * TTL_S and len(waited) % 8 == 0:
            first.renew()

    restored = began(writer(store, SkewedClock(clock, skew_s), owner="second", wait=wait))

    assert 2 * TTL_S <= sum(waited) <= 3 * TTL_S + 2.0
    assert state_of(restored).progress == {"news": {0: 3}}
    with pytest.raises(Fenced):
        commit(first, 3, 4)


def test_a_start_long_after_a_crash_waits_for_the_length_of_a_lease(store: ObjectStore) -> None:
    """No longer, and no shorter: only its own watching tells a standby that nobody is there."""
    clock = ManualClock()
    began(writer(store, clock))
    clock.time += 86_400.0
    before = clock.time

    began(writer(store, clock, owner="second"))

    assert TTL_S <= clock.time - before <= TTL_S + 2.0


def test_a_writer_whose_clock_stands_is_seen_to_renew(store: ObjectStore) -> None:
    """Each renewal is another head, or a standby that watches would take the writer for dead."""
    clock, standing = ManualClock(), ManualClock()
    first = writer(store, standing)
    began(first)
    etags = set()
    for _ in range(3):
        first.renew()
        etags.add(read_head(store, KEYS)[1])
    standing.time -= 3_600.0
    first.renew()
    commit(first, 0, 1)
    etags.add(read_head(store, KEYS)[1])

    assert len(etags) == 4
    assert standing.time < clock.time


def test_an_etag_of_a_head_is_never_another_head_s(store: ObjectStore) -> None:
    """Equal bytes have equal etags on S3: a write that was under way for long must not find its old head again."""
    clock = ManualClock()
    seen: list[str] = []

    def look() -> None:
        seen.append(read_head(store, KEYS)[1])

    for turn in range(3):
        # The same process name, the same clock, the same lease: only what the registry itself changes is left.
        lineage = writer(store, clock)
        restored = began(lineage)
        look()
        lineage.renew()
        look()
        done = 0 if restored.state is None else state_of(restored).progress["news"][0]
        if turn != 1:
            commit(lineage, done, done + 1)
            look()
        lineage.release()
        look()

    assert len(set(seen)) == len(seen)


def test_a_standby_hears_at_once_that_it_shall_stop(store: ObjectStore) -> None:
    clock = ManualClock()
    began(writer(store, clock))
    told: list[float] = []

    def wait(seconds: float) -> None:
        told.append(seconds)

    assert writer(store, clock, owner="second", wait=wait).acquire(lambda: len(told) >= 3) is None
    assert sum(told) < 0.5


def test_who_reads_for_longer_than_the_lease_keeps_it(request: pytest.FixtureRequest) -> None:
    """Or two that stand by would take a large checkpoint from each other for ever."""
    inner, clock = fresh_store("memory", request), ManualClock()
    first = writer(inner, clock)
    began(first)
    commit(first, 0, 3)
    first.release()
    epochs: list[str] = []
    changed = threading.Event()

    class Slow(Wrapped):
        def get(self, key: str) -> StoredObject:
            if key.endswith("window.safetensors"):
                assert changed.wait(60), "the lease is renewed meanwhile"
            return super().get(key)

        def swap(self, key: str, body: bytes, etag: str) -> str:
            found = super().swap(key, body, etag)
            epochs.append(key)
            if epochs.count(KEYS.head) >= 4:
                changed.set()
            return found

    slow = StoreLineage(Slow(inner), "news", ttl_s=0.05, clock=clock, telemetry=SilentTelemetry(), owner="slow")

    assert state_of(began(slow)).progress == {"news": {0: 3}}


def test_who_was_overtaken_while_reading_hears_it_before_it_begins(store: ObjectStore) -> None:
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3, publish=True)
    second = writer(store, clock, owner="second")

    class Overtaken(Wrapped):
        def get(self, key: str) -> StoredObject:
            if key.endswith("window.safetensors"):
                clock.time += 1_000.0
                began(second)
            return super().get(key)

    with pytest.raises(Fenced, match=r"taken over by second \(epoch 3, ours was 2\)"):
        writer(Overtaken(store), clock, owner="slow").acquire(never)

    commit(second, 3, 4)
    assert offsets(store) == list(range(4))


def test_renewals_that_a_store_holds_up_harm_nobody_who_was_not_replaced(store: ObjectStore) -> None:
    """An outage longer than the lease, whose last answers are lost, is over when the store is back."""
    clock = ManualClock()
    flaky = UnreachableStore(store)
    lineage = writer(
        RetryingStore(flaky, budget_s=600.0, clock=clock, telemetry=SilentTelemetry(), wait=passing(clock)), clock
    )
    began(lineage)
    commit(lineage, 0, 3)
    before = clock.time
    flaky.failures = 12
    lineage.renew()
    flaky.failures, flaky.late = 1, True
    lineage.renew()
    flaky.failures = 1
    commit(lineage, 3, 5)

    assert clock.time - before > TTL_S
    assert offsets(store) == list(range(5))


def passing(clock: ManualClock) -> Callable[[float], None]:
    """Return a wait that moves `clock` on."""

    def wait(seconds: float) -> None:
        clock.time += seconds

    return wait


def test_who_knows_that_it_is_fenced_asks_the_store_no_more(store: ObjectStore) -> None:
    """One thread has heard it; the others end by it too, and shutting down says nothing else."""
    clock, counting = ManualClock(), CountingStore(store)
    first = writer(counting, clock)
    began(first)
    commit(first, 0, 3, publish=True)
    began(writer(store, clock, owner="second"))
    with pytest.raises(Fenced):
        first.renew()
    counting.asked.clear()

    with capture_logs() as logs:
        with pytest.raises(Fenced, match=r"taken over by second \(epoch 2, ours was 1\)"):
            commit(first, 3, 4, publish=True)
        first.release()

    assert counting.asked == []
    assert logs == []


def test_of_many_that_want_to_begin_a_lineage_one_does(store: ObjectStore) -> None:
    start, stop = threading.Barrier(6), threading.Event()
    winners: list[str] = []

    def try_it(name: str) -> None:
        lineage = writer(store, owner=name, wait=lambda _: stop.wait(0.01))
        start.wait()
        # Its clock stands still, so nobody's lease runs out meanwhile.
        if lineage.acquire(stop.is_set) is not None:
            winners.append(name)
            stop.set()

    threads = [threading.Thread(target=try_it, args=(f"writer {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    head, _ = read_head(store, KEYS)
    assert head.lease is not None
    assert (winners, head.epoch) == ([head.lease.owner], 1)


# --- a head that is not what it must be ---------------------------------------------

MEND = r"restore the newest head.json .* or begin another stream.name"


@pytest.mark.parametrize("left", ["checkpoints", "ledger", "versions", "aliases"])
def test_a_lineage_whose_head_is_gone_is_not_begun_anew(store: ObjectStore, left: str) -> None:
    """A second chain over the first would overwrite nothing and mean nothing."""
    clock = ManualClock()
    three_commits(store, clock)
    for key, _ in list(store.list("news/")):
        if not key.startswith(f"news/{left}/"):
            store.delete(key)
    first = next(key for key, _ in store.list("news/"))

    with pytest.raises(Fatal, match=f"news/head.json is gone: it does not know of {first}, which is there; {MEND}"):
        writer(store, clock, owner="after").acquire(never)

    assert not list(store.list("news/head.json"))


@pytest.mark.parametrize(("publish", "unknown"), [(True, "versions/v000001/manifest"), (False, "aliases/champion")])
def test_a_head_that_was_put_back_is_not_written_over_what_came_after(
    store: ObjectStore, publish: bool, unknown: str
) -> None:
    """A version never changes, so a writer under an old head could only fail later, and less clearly."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    old = store.get("news/head.json").body
    if publish:
        commit(first, 0, 3, publish=True)
    else:
        move_alias(store, KEYS, "champion", 1, epoch=1, by="first", at="then", reason="won")
        began(writer(store, clock, owner="second"))
    overwrite(store, "news/head.json", lambda _: old)

    older = f"is an older one that was put back: it does not know of news/{unknown}.json, which is there; {MEND}"
    with pytest.raises(Fatal, match=older):
        writer(store, clock, owner="after").acquire(never)

    assert store.get("news/head.json").body == old
    if publish:
        with pytest.raises(Fenced, match="was changed while we were writing to it, and by no writer"):
            commit(first, 3, 5)


def test_a_head_may_move_on_while_it_is_looked_at(store: ObjectStore) -> None:
    """What another writer makes meanwhile is no sign of a lost head."""
    clock = ManualClock()
    first = writer(store, clock)

    class Meanwhile(Wrapped):
        def list(self, prefix: str) -> Iterator[tuple[str, int]]:
            if prefix == KEYS.checkpoints and clock.time < 2_000.0:
                clock.time = 2_000.0
                began(first)
                commit(first, 0, 3, publish=True)
            return super().list(prefix)

    restored = began(writer(Meanwhile(store), clock, owner="second"))

    assert restored.epoch == 2
    assert state_of(restored).progress == {"news": {0: 3}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: b"", "news/head.json is damaged"),
        (lambda body: b"{nonsense", "news/head.json is damaged"),
        (lambda body: body[:-9], "news/head.json is damaged"),
        (lambda body: b"[" * 100_000, "news/head.json is damaged"),
        (lambda body: body.replace(b'"epoch":1', b'"epoch":0'), "news/head.json is damaged .* epoch"),
        (lambda body: body.replace(b'"epoch"', b'"era"'), "news/head.json is damaged"),
        (lambda body: body.replace(b'"lineage":"news"', b'"lineage":"olds"'), "belongs to another lineage, 'olds'"),
    ],
    ids=["empty", "no JSON", "cut short", "deep", "no epoch", "a field nobody knows", "another lineage's"],
)
def test_a_head_that_cannot_be_used_is_refused_and_left_alone(
    store: ObjectStore, change: Callable[[bytes], bytes], said: str
) -> None:
    """One line that says what is wrong and how to mend it."""
    clock = ManualClock()
    lineage = writer(store, clock)
    began(lineage)
    commit(lineage, 0, 3)
    lineage.release()
    overwrite(store, "news/head.json", change)
    broken = store.get("news/head.json").body

    with pytest.raises(Fatal, match=f"{said}.*{MEND}") as refused:
        writer(store, clock, owner="after").acquire(never)

    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    assert store.get("news/head.json").body == broken


def test_a_head_of_a_newer_release_says_so(store: ObjectStore) -> None:
    clock = ManualClock()
    began(writer(store, clock))
    overwrite(store, "news/head.json", lambda body: body.replace(b'"schema_number":1', b'"schema_number":7'))

    with pytest.raises(Fatal, match=r"was written by a newer release of streamlearn \(schema 7, this one knows 1\)"):
        writer(store, clock, owner="after").acquire(never)


def test_a_head_that_points_at_nothing_is_refused(store: ObjectStore) -> None:
    clock = ManualClock()
    lineage = writer(store, clock)
    began(lineage)
    name = commit(lineage, 0, 3).checkpoint
    lineage.release()
    for key, _ in list(store.list(f"news/checkpoints/{name}/")):
        store.delete(key)

    with pytest.raises(Fatal, match=r"state.json is missing; no checkpoint before it can be used. Restore"):
        writer(store, clock, owner="after").acquire(never)


def test_an_alias_that_is_damaged_says_how_to_go_on(store: ObjectStore) -> None:
    clock = ManualClock()
    three_commits(store, clock)
    overwrite(store, "news/aliases/latest.json", truncated)

    with pytest.raises(Fatal, match=r"aliases/latest.json is damaged .*restore it .* or remove it"):
        writer(store, clock, owner="after").acquire(never)
    store.delete("news/aliases/latest.json")

    began(writer(store, clock, owner="after"))
    assert read_alias(store, KEYS, "latest")[0].version == "v000002"


# --- crashes ----------------------------------------------------------------------------

POINTS = [("uploaded", 1), ("swapped", 1), ("version:half", 1), ("version:half", 2)]


@pytest.mark.parametrize(("point", "nth"), POINTS)
def test_a_crash_anywhere_in_a_commit_leaves_all_of_it_or_nothing(store: ObjectStore, point: str, nth: int) -> None:
    """Every offset is in the ledger once, and the version has the bytes that its writer would have given it."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 2, publish=True)
    first.release()
    dying = writer(store, clock, owner="dying", fault=CrashAt(point, nth))
    began(dying)
    with pytest.raises(Crash):
        commit(dying, 2, 5, publish=True)

    third = writer(store, clock, owner="third")
    restored = began(third)

    done = state_of(restored).progress["news"][0]
    assert done == (2 if point == "uploaded" else 5)
    assert restored.newest_version == (1 if point == "uploaded" else 2)
    assert versions(store) == [version_name(number + 1) for number in range(restored.newest_version)]
    if done < 5:
        commit(third, done, 5, note="again")
    commit(third, 5, 8, publish=True)
    assert offsets(store) == list(range(8))
    assert versions(store) == [version_name(number + 1) for number in range(restored.newest_version + 1)]
    assert read_alias(store, KEYS, "latest")[0].version == versions(store)[-1]
    manifests = [version.manifest for version in LineageReader(store, "news").versions()]
    assert [after.parent for _, after in pairwise(manifests)] == [before.version for before, _ in pairwise(manifests)]
    assert sum(manifest.since_parent.events for manifest in manifests) == 8
    for manifest in manifests:
        for name, expected in manifest.files.items():
            verified(name, store.get(f"news/versions/{manifest.version}/{name}").body, expected)


def test_a_version_is_finished_with_the_bytes_of_its_first_writer(request: pytest.FixtureRequest) -> None:
    """Readers that got the first half from one and the rest from another hold one version."""
    whole, broken = fresh_store("memory", request), fresh_store("memory", request)
    steady = writer(whole)
    began(steady)
    commit(steady, 0, 3, publish=True)
    clock = ManualClock()
    dying = writer(broken, clock, fault=CrashAt("version:half"))
    began(dying)
    with pytest.raises(Crash):
        commit(dying, 0, 3, publish=True)
    assert [key for key, _ in broken.list("news/versions/")] == ["news/versions/v000001/adapter_model.safetensors"]

    began(writer(broken, clock, owner="second"))

    listed = list(whole.list("news/versions/"))
    assert list(broken.list("news/versions/")) == listed
    assert all(broken.get(key).body == whole.get(key).body for key, _ in listed)


def test_an_alias_that_its_writer_did_not_move_is_moved_by_the_next(store: ObjectStore) -> None:
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 3, publish=True)
    store.delete("news/aliases/latest.json")
    clock.time += 7_200.0

    began(writer(store, clock, owner="second"))

    alias, _ = read_alias(store, KEYS, "latest")
    assert alias.version == "v000001"
    # When readers could first see it, not when the version was made.
    assert alias.history[0].at[11:13] == "02"


def test_a_writer_that_failed_half_way_commits_no_more(store: ObjectStore) -> None:
    """Or its version would stay unfinished behind the next."""
    lineage = writer(store, fault=CrashAt("version:half"))
    began(lineage)
    with pytest.raises(Crash):
        commit(lineage, 0, 3, publish=True)

    with pytest.raises(Fatal, match="version 1 was left unfinished"):
        commit(lineage, 3, 5)

    assert offsets(store) == [0, 1, 2]


# --- damage -----------------------------------------------------------------------------


def truncated(body: bytes) -> bytes:
    return body[: len(body) // 2]


def altered(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


def three_commits(store: ObjectStore, clock: ManualClock) -> tuple[StoreLineage, list[str]]:
    """Offsets 0-1 in v000001, 2-4 in a mere checkpoint, 5-8 in v000002."""
    lineage = writer(store, clock)
    began(lineage)
    names = [
        commit(lineage, 0, 2, publish=True).checkpoint,
        commit(lineage, 2, 5).checkpoint,
        commit(lineage, 5, 9, publish=True).checkpoint,
    ]
    lineage.release()
    return lineage, names


@pytest.mark.parametrize("change", [truncated, altered, None], ids=["truncated", "altered", "gone"])
@pytest.mark.parametrize("file", ["state.json", *files(0)])
def test_a_damaged_checkpoint_is_left_for_the_one_before_and_loudly(
    store: ObjectStore, file: str, change: Callable[[bytes], bytes] | None
) -> None:
    """A flipped bit costs the events of one checkpoint, which are learnt again, and is never learnt from."""
    clock, telemetry = ManualClock(), SilentTelemetry()
    _, names = three_commits(store, clock)
    key = f"news/checkpoints/{names[2]}/{file}"
    if change is None:
        store.delete(key)
    else:
        overwrite(store, key, change)

    after = writer(store, clock, owner="after", telemetry=telemetry)
    with capture_logs() as logs:
        restored = began(after)

    assert dict(restored.files) == files(5)
    assert state_of(restored).progress == {"news": {0: 5}}
    assert telemetry.counts["streamlearn_checkpoints_damaged_total"] == 1
    loud = [entry for entry in logs if entry["log_level"] == "error"]
    assert any(key in str(entry) for entry in loud)
    assert any("CONTINUING FROM AN OLDER CHECKPOINT" in entry["event"] for entry in loud)
    commit(after, 5, 10, publish=True)
    assert offsets(store) == list(range(10))
    # The abandoned version keeps its number; what comes after descends from what was learnt.
    found = after.manifest(3)
    assert (found.parent, found.since_parent.events) == ("v000001", 8)
    since = LineageReader(store, "news").ledger(found, since_parent=True)
    assert [line.offset for line in since if isinstance(line, EventLine)] == list(range(2, 10))
    again = began(writer(store, clock, owner="again"))
    assert (state_of(again).progress, again.newest_version) == ({"news": {0: 10}}, 3)


def test_the_place_before_a_damaged_state_is_told_from_leavings(store: ObjectStore) -> None:
    """A writer that died before its swap left a whole checkpoint at the same place; it was never committed."""
    clock = ManualClock()
    first = writer(store, clock)
    began(first)
    commit(first, 0, 2)
    dying = writer(store, clock, owner="dying", fault=CrashAt("uploaded"))
    began(dying)
    with pytest.raises(Crash):
        commit(dying, 2, 4, note="never committed")
    third = writer(store, clock, owner="third")
    began(third)
    committed = commit(third, 2, 5).checkpoint
    newest = commit(third, 5, 6).checkpoint
    overwrite(store, f"news/checkpoints/{newest}/state.json", altered)

    restored = began(writer(store, clock, owner="fourth"))

    assert state_of(restored).progress == {"news": {0: 5}}
    assert len({key.split("/")[2] for key, _ in store.list("news/checkpoints/0000000002-")}) == 2
    assert state_of(restored).stream == {"note": ""}
    assert committed.startswith("0000000002-")


def test_a_lineage_without_a_whole_checkpoint_says_what_can_be_done(store: ObjectStore) -> None:
    clock = ManualClock()
    _, names = three_commits(store, clock)
    for name in names:
        overwrite(store, f"news/checkpoints/{name}/window.safetensors", truncated)

    with pytest.raises(Fatal, match=r"window.safetensors is damaged.*[Rr]estore .*or begin a new lineage"):
        writer(store, clock, owner="after").acquire(never)


def test_a_state_of_another_release_is_not_taken_for_damage(store: ObjectStore) -> None:
    """Falling back from it would throw away what the newer release has learnt."""
    clock = ManualClock()
    lineage, names = three_commits(store, clock)
    old = store.get(f"news/checkpoints/{names[2]}/state.json").body
    body = old.replace(b'"schema_number":1', b'"schema_number":2')
    foreign = f"0000000004-{digest_of(body).sha256[:12]}"
    store.create(f"news/checkpoints/{foreign}/state.json", body)
    overwrite(store, "news/head.json", lambda head: head.replace(names[2].encode(), foreign.encode()))

    with pytest.raises(Fatal, match="another release of streamlearn wrote it"):
        writer(store, clock, owner=lineage._hold.owner).acquire(never)


def test_a_parent_s_lost_manifest_does_not_stop_publishing(store: ObjectStore) -> None:
    """Its counts are in its checkpoint too."""
    clock = ManualClock()
    three_commits(store, clock)
    overwrite(store, "news/versions/v000002/manifest.json", truncated)

    after = writer(store, clock, owner="after")
    with capture_logs() as logs:
        restored = began(after)
    commit(after, 9, 10)
    commit(after, 10, 12, publish=True)

    assert restored.newest_version == 2
    assert any("MANIFEST" in entry["event"] for entry in logs)
    assert (after.manifest(3).parent, after.manifest(3).since_parent.events) == ("v000002", 3)


# --- a store that comes and goes ---------------------------------------------------------


def test_a_release_does_not_wait_for_a_store_that_is_gone(request: pytest.FixtureRequest) -> None:
    """Shutdown has seconds; a standby waits for the lease to run out instead."""
    gone = threading.Event()

    class Hanging(UnreachableStore):
        def swap(self, key: str, body: bytes, etag: str) -> str:
            gone.wait(60)
            return super().swap(key, body, etag)

    store = fresh_store("memory", request)
    lineage = writer(Hanging(store))
    began(lineage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamlearn.registry.lineage._RELEASE_S", 0.05)
        with capture_logs() as logs:
            lineage.release()
    gone.set()

    assert any("not given up in time" in entry["event"] for entry in logs)
