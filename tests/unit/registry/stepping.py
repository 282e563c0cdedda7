"""Writers of one lineage that a test moves by single operations of the store, and a store that watches them.

Each writer runs in a thread of its own and waits before every operation until
it is let through; so between any two operations of one, any number of others
may do anything, which is what pauses, crashes and zombies are.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from streamlearn.core.manifest import Alias, CheckpointState, EventLine, Head, Manifest, version_name, version_number
from streamlearn.ports import Fatal, Fenced, ObjectStore, Restored, StoredObject, StoreUnavailable
from streamlearn.registry.aliases import move_alias, read_alias
from streamlearn.registry.documents import digest_of
from streamlearn.registry.keys import MANIFEST, Keys
from streamlearn.registry.reader import LineageReader
from streamlearn.registry.retrying import RetryingStore
from tests.contract.making import SkewedClock, commit, writer
from tests.fakes.daemon import ManualClock, SilentTelemetry
from tests.fakes.store import MemoryStore, Wrapped

KEYS = Keys("news")
CHAMPION = "champion"
"""An alias that a commit does not move."""
HANGS_S = 60.0
"""After which a thread that does not come to its next operation hangs."""
Answer = TypeVar("Answer")
How = Literal["pass", "lose", "die"]
"""The operation is done; is done, and its answer is lost; is not done, and the process is gone."""


class Killed(BaseException):
    """The process is gone."""


class Witness(MemoryStore):
    """A store that notes every write which should not have been: the promises of the lineage, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[Head] = []
        self.faults: list[str] = []
        self.begun = 0
        """Highest epoch whose writer has begun to write."""
        self._bodies: set[bytes] = set()
        self._aliases: dict[str, Alias] = {}

    def create(self, key: str, body: bytes) -> str:
        etag = super().create(key, body)
        self._saw(key, body, new=True)
        return etag

    def swap(self, key: str, body: bytes, etag: str) -> str:
        found = super().swap(key, body, etag)
        self._saw(key, body, new=False)
        return found

    def _saw(self, key: str, body: bytes, *, new: bool) -> None:
        if key == KEYS.head:
            self._holds(body not in self._bodies, "the head has the bytes, and so the etag, of an earlier one")
            self._bodies.add(body)
            self._saw_head(Head.model_validate_json(body))
        elif key.startswith(KEYS.aliases):
            self._saw_alias(key, Alias.model_validate_json(body))
        else:
            self._holds(new, f"{key} never changes")
            if key.endswith(MANIFEST):
                self._saw_manifest(Manifest.model_validate_json(body))

    def _saw_head(self, head: Head) -> None:
        last = self.heads[-1] if self.heads else None
        self.heads.append(head)
        if last is None:
            self._holds((head.epoch, head.checkpoint, head.version) == (1, None, 0), "a lineage begins with nothing")
            return
        self._holds(head.epoch in (last.epoch, last.epoch + 1), f"epoch {head.epoch} after {last.epoch}")
        if head.epoch == last.epoch:
            self._holds(last.lease is not None, "who has given the lease up writes no more")
            if head.lease is not None and last.lease is not None:
                self._holds(head.lease.owner == last.lease.owner, "an epoch has one writer")
        if head.checkpoint == last.checkpoint:
            self._holds(head.version == last.version, "a version is allocated by a commit")
            return
        self._holds(head.epoch == last.epoch, "a take-over commits nothing")
        self._saw_commit(head, last)

    def _saw_commit(self, head: Head, last: Head) -> None:
        assert head.checkpoint is not None
        state = CheckpointState.model_validate_json(self.objects[KEYS.checkpoint(head.checkpoint, "state.json")])
        seq = 0 if last.checkpoint is None else int(last.checkpoint.partition("-")[0])
        self._holds(state.parent == last.checkpoint, "the chain is linear")
        self._holds(state.seq == seq + 1, f"place {state.seq} after {seq}")
        self._holds(state.epoch == head.epoch, "a checkpoint is committed by who made it")
        self._holds(head.version == last.version + (state.version is not None), "each version has its own number")
        self._holds(state.version in (None, head.version), "the number is the one in the checkpoint")
        for name, expected in state.files.items():
            whole = digest_of(self.objects[KEYS.checkpoint(head.checkpoint, name)]) == expected
            self._holds(whole, f"{name} is there before the commit")

    def _saw_alias(self, key: str, alias: Alias) -> None:
        last = self._aliases.get(key)
        self._aliases[key] = alias
        self._holds(alias.epoch >= self.begun, f"epoch {alias.epoch} wrote {key} after epoch {self.begun} had begun")
        self._holds(alias.epoch <= self.heads[-1].epoch, "an epoch is the head's first")
        epochs = [move.epoch for move in alias.history]
        self._holds(epochs == sorted(epochs), "history goes forward")
        if last is not None:
            self._holds(alias.epoch >= last.epoch, f"{key} went back from epoch {last.epoch} to {alias.epoch}")
            self._holds(alias.history[: len(last.history)] == last.history, "history is never rewritten")
            self._holds(_number(alias) >= _number(last), f"{key} went back to {alias.version} from {last.version}")
        if alias.version is not None:
            self._holds(
                KEYS.version(_number(alias), MANIFEST) in self.objects, f"{key} points to a version that is whole"
            )

    def _saw_manifest(self, manifest: Manifest) -> None:
        committed = {head.checkpoint for head in self.heads}
        self._holds(manifest.checkpoint in committed, "only what is committed is published")
        for name, expected in manifest.files.items():
            body = self.objects[KEYS.version(version_number(manifest.version), name)]
            self._holds(digest_of(body) == expected, f"{name} of {manifest.version} is there before its manifest")

    def _holds(self, condition: bool, promise: str) -> None:
        if not condition:
            self.faults.append(promise)


class Gate(Wrapped):
    """Where a writer waits before each operation."""

    def __init__(self, store: ObjectStore, arrive: Callable[[], How]) -> None:
        super().__init__(store)
        self._arrive = arrive

    def get(self, key: str) -> StoredObject:
        return self._through(lambda: self.store.get(key))

    def create(self, key: str, body: bytes) -> str:
        return self._through(lambda: self.store.create(key, body))

    def swap(self, key: str, body: bytes, etag: str) -> str:
        return self._through(lambda: self.store.swap(key, body, etag))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return iter(self._through(lambda: list(self.store.list(prefix))))

    def _through(self, operation: Callable[[], Answer]) -> Answer:
        how = self._arrive()
        if how == "lose":
            operation()
            raise StoreUnavailable("the answer is lost")
        return operation()


class Writer:
    """A process that may be the writer; at rest, before an operation, or gone."""

    def __init__(self, witness: Witness, clock: ManualClock, name: str, *, skew_s: float = 0.0) -> None:
        self.name = name
        self._witness = witness
        self._clock = clock
        self._stop = self._hurried = False
        self._how: How = "pass"
        self._passes = 0.0
        self._go, self._here = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._ended: BaseException | None = None
        patience = ManualClock()
        store = RetryingStore(
            Gate(witness, self._arrive),
            budget_s=60.0,
            # Of its own: between two attempts others may do as much as they like, and that is up to the test.
            clock=patience,
            telemetry=SilentTelemetry(),
            wait=lambda seconds: setattr(patience, "time", patience.time + seconds),
        )
        self._store = store
        self._lineage = writer(store, SkewedClock(clock, skew_s), owner=name, wait=self._wait)
        self.epoch: int | None = None
        """Set when it has become the writer."""
        self.events = 0
        self.over = False
        """Whether the process has ended."""

    @property
    def busy(self) -> bool:
        """Whether it is before an operation."""
        return self._thread is not None

    # --- what it may do next ---

    def acquire(self) -> None:
        """Begin to stand by."""

        def job() -> None:
            if (restored := self._lineage.acquire(lambda: self._stop)) is not None:
                self._begun(restored)

        self._start(job)

    def commit(self, *, publish: bool) -> None:
        """Begin to commit one event more."""

        def job() -> None:
            commit(self._lineage, self.events, self.events + 1, publish=publish, note=self.name)
            self.events += 1

        self._start(job)

    def promote(self) -> None:
        """Begin to point an alias at the newest version."""

        def job() -> None:
            assert self.epoch is not None
            newest = version_number(read_alias(self._store, KEYS, "latest")[0].version or "v0")
            move_alias(self._store, KEYS, CHAMPION, newest, epoch=self.epoch, by=self.name, at="now", reason="won")

        self._start(job)

    def renew(self) -> None:
        self._start(self._lineage.renew)

    def release(self) -> None:
        """Begin to give the lease up, and end."""

        def job() -> None:
            self._lineage.release()
            self.over = True

        self._start(job)

    # --- time ---

    def step(self, operations: float = 1, how: How = "pass") -> None:
        """Let it through so many operations, or to the end of what it does."""
        assert self.busy
        self._how, self._passes = how, operations - 1
        self._go.release()
        self._until_here()

    def finish(self) -> None:
        """Let it come to the end of what it does; a standby gives up."""
        self._stop = True
        if self.busy:
            self.step(math.inf)
        self._stop = False

    def take_over(self) -> None:
        """Let it stand by until the lease is over, and begin."""
        self._hurried = True
        if self.busy:
            self.step(math.inf)
        self._hurried = False

    def kill(self) -> None:
        """End the process where it is."""
        self.over = True
        if self.busy:
            self.step(how="die")

    def _begun(self, restored: Restored) -> None:
        self.epoch = restored.epoch
        self.events = restored.state.progress["news"][0] if restored.state is not None else 0
        self._witness.begun = max(self._witness.begun, restored.epoch)
        head = self._witness.heads[-1]
        if head.epoch == restored.epoch and restored.newest_version != head.version:
            self._witness.faults.append(f"begun with version {restored.newest_version}, allocated were {head.version}")

    def _start(self, job: Callable[[], object]) -> None:
        assert not self.busy
        assert not self.over

        def run() -> None:
            try:
                job()
            except BaseException as ended:  # noqa: BLE001 - looked at by the test, in its own thread
                self._ended = ended
            self._thread, self._passes = None, 0.0
            self._here.release()

        self._thread = threading.Thread(target=run, name=self.name, daemon=True)
        self._thread.start()
        self._until_here()

    def _until_here(self) -> None:
        assert self._here.acquire(timeout=HANGS_S), f"{self.name} hangs"
        ended, self._ended = self._ended, None
        if isinstance(ended, Fenced):
            self.over = True
            epoch = self._witness.heads[-1].epoch
            if self.epoch is not None and epoch <= self.epoch:
                self._witness.faults.append(f"{self.name} was fenced by nobody: {ended}")
        elif ended is not None and not isinstance(ended, Killed):
            raise ended

    def _wait(self, seconds: float) -> None:
        if self._hurried:
            self._clock.time += seconds

    def _arrive(self) -> How:
        if threading.current_thread().name == "registry-lease":
            # Renews by the machine's clock, which is none of the test's.
            raise StoreUnavailable("not now")
        if self._passes > 0:
            self._passes -= 1
            return "pass"
        self._here.release()
        self._go.acquire()
        if self._how == "die":
            # A thread that only helps is let end quietly: the process is gone all the same.
            raise Killed if threading.current_thread() is self._thread else Fatal("gone")
        return self._how


class World:
    """A store, its writers, and time."""

    def __init__(self) -> None:
        self.witness = Witness()
        self.clock = ManualClock()
        self.writers: list[Writer] = []

    def writer(self, *, skew_s: float = 0.0) -> Writer:
        """Return a new process."""
        self.writers.append(Writer(self.witness, self.clock, f"writer-{len(self.writers)}", skew_s=skew_s))
        return self.writers[-1]

    def check(self) -> None:
        """Fail where a promise was broken so far."""
        assert self.witness.faults == []

    def check_whole(self) -> None:
        """Let a last writer begin; then everything there is must be whole, and stay so when the others wake."""
        asleep = [each for each in self.writers if not each.over]
        last = self.writer()
        last.acquire()
        last.take_over()
        self._check_all_there()
        for each in asleep:
            each.finish()
            if not each.over and each.epoch is not None:
                each.commit(publish=True)
                each.finish()
                assert each.over, f"{each.name} has committed after a later writer began"
        self._check_all_there()
        last.commit(publish=True)
        last.finish()
        self._check_all_there()
        offsets = [line.offset for line in LineageReader(self.witness, "news").ledger() if isinstance(line, EventLine)]
        assert offsets == list(range(last.events)), "every event once"

    def _check_all_there(self) -> None:
        self.check()
        head, reader = self.witness.heads[-1], LineageReader(self.witness, "news")
        numbers = [version_number(found.manifest.version) for found in reader.versions()]
        assert numbers == list(range(1, head.version + 1)), "no number is skipped"
        if head.version:
            assert reader.manifest("latest").version == version_name(head.version)


def _number(alias: Alias) -> int:
    return 0 if alias.version is None else version_number(alias.version)
