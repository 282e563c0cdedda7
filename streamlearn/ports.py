"""The seams: what the daemon asks of the world, and what the world may raise.

Each port has at least two implementations (a fake in the tests counts), and
one contract suite under `tests/contract/` runs on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.batches import Draw, StepPlan, StepResult
from streamlearn.core.events import Arrival, Chunk, Content, Progress, Record
from streamlearn.core.manifest import (
    BaseModelCard,
    CheckpointState,
    Draft,
    EventLine,
    LoraShape,
    Manifest,
    Origin,
    ScoreLine,
)


class StreamlearnError(Exception):
    """Anything streamlearn raises on purpose; the message is one clear line."""


class Fatal(StreamlearnError):
    """Waiting will not mend it: the process ends uncommitted with exit code 1."""


class Transient(StreamlearnError):
    """May pass by itself: retried with backoff within a budget, and counted."""


class Fenced(StreamlearnError):
    """Another writer owns the lineage now: the process ends with exit code 3."""


# --- events -----------------------------------------------------------------


class SourceUnavailable(Transient):
    """The brokers cannot be reached."""


class SourceRefused(Fatal):
    """The brokers answer, and the answer is no: unknown topic, no permission."""


class LostData(Fatal):
    """Offsets that we have not read are gone, and `kafka.on_lost_data = "fail"`.

    By retention, or with a topic that was deleted and made anew.
    """


class Records(Protocol):
    """Raw records of all partitions of some topics (Kafka, or a list in tests).

    Traps an implementation must keep clear of: offsets have gaps (transaction
    markers, compaction), so the next offset is the last one + 1; a paused
    partition must still be polled for the others.
    """

    def assign(self, progress: Progress, origin: Origin) -> None:
        """Take every partition; those in `progress` from there, others from `kafka.start`.

        Args:
            progress: next offset of every partition that a checkpoint knows.
            origin: what those are offsets of. Another topic under a name is lost data, and what came to match
                `kafka.topics` after its entries had been looked up is read from its beginning.
        """

    def poll(self, timeout_s: float) -> Sequence[Record]:
        """Return the next records, in offset order within a partition; empty after `timeout_s`.

        Raises:
            SourceRefused, LostData: see there. Outages are waited out, not raised.
        """

    def pause(self) -> None:
        """Stop fetching; `poll` goes on returning nothing."""

    def resume(self) -> None:
        """Fetch again."""

    def watermarks(self) -> Progress:
        """Return the high-water mark (next offset to be written) of every assigned partition.

        Raises:
            SourceUnavailable: the brokers do not answer within some seconds.
        """

    def positions(self) -> Progress:
        """Return the next offset to be read, gaps at the end of a partition included."""

    def origin(self) -> Origin:
        """Return what `positions` are offsets of, as far as the brokers tell."""

    def mirror(self, progress: Progress) -> None:
        """Show `progress` to lag tools as the group's commit; failures are logged, never raised."""

    def close(self) -> None:
        """Give everything back; idempotent."""


class DeadLetters(Protocol):
    """Where records go that are no events."""

    def room(self) -> bool:
        """Whether `send` would return at once; who finds it false admits nothing more meanwhile.

        Raises:
            SourceRefused: there is no such topic, or no permission.
        """

    @property
    def trouble(self) -> str | None:
        """What could not be made safe and is being tried again; None while all is well."""

    def send(self, arrival: Arrival) -> None:
        """Queue the record of a rejected arrival; returns at once while there is room.

        Raises:
            SourceUnavailable: too much is unacknowledged, for longer than the budget.
            SourceRefused: there is no such topic, or no permission.
        """

    def flush(self, timeout_s: float) -> None:
        """Return when everything queued so far is acknowledged.

        Args:
            timeout_s: length of one try; how often it is tried is the implementation's.

        Raises:
            SourceUnavailable: not within that; what is queued stays queued.
            SourceRefused: there is no such topic, or no permission.
        """

    def close(self) -> None:
        """Give everything back; idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeStatus:
    """Where ingest stands."""

    assigned: bool
    """Partitions are known and being read."""
    buffered_records: int
    buffered_bytes: int
    paused: bool
    lag_records: Mapping[tuple[str, int], int]
    """(topic, partition) -> records between our position and the high-water mark."""
    last_poll_age_s: float
    """Seconds since the poll loop last came round."""
    trouble: str | None = None
    """Why nothing can come from the brokers now; None while they answer."""


class EventSource(Protocol):
    """The stream as arrivals in order; owns the ingest thread.

    Every offset that exists in a partition yields exactly one arrival, in order.
    """

    def recall(self, origin: Origin) -> None:
        """Take what the offsets that `start` will be given are offsets of; before `start`, if at all."""

    def start(self, progress: Progress) -> None:
        """Begin to read from `progress`; returns at once."""

    def take(self, timeout_s: float) -> Arrival | None:
        """Return the next arrival, or None after `timeout_s`.

        Raises:
            StreamlearnError: whatever ended the ingest thread.
        """

    def ends(self, should_stop: Callable[[], bool]) -> Progress:
        """Return the high-water marks of all partitions now, waiting for the first metadata if need be.

        Returns nothing when `should_stop()` turned true first.
        """

    def caught_up(self, ends: Progress) -> bool:
        """Whether everything below `ends` has been taken (gaps at the end of a partition count as taken)."""

    def begun(self) -> Progress:
        """Return the offset at which reading began, of every partition known so far.

        What a checkpoint must know of partitions without a record yet: with `kafka.start = "latest"`, a restart
        would skip what came meanwhile.
        """

    def origin(self) -> Origin:
        """Return what the offsets of everything taken so far, and of `begun`, are offsets of.

        To be asked before `begun`, so that it never names more than that does.
        """

    def status(self) -> IntakeStatus:
        """Return a cheap snapshot, from any thread."""

    def mirror(self, progress: Progress) -> None:
        """Show `progress` to lag tools; never raises."""

    def close(self) -> None:
        """Stop the thread, leave the brokers; idempotent."""


class Chunker(Protocol):
    """Text to chunks, by the model's own tokenizer."""

    def chunk(self, content: Content) -> tuple[Chunk, ...]:
        """Cut `content` into chunks; empty when nothing would be scored.

        Raises:
            ValueError: the content does not fit the tokenizer (no chat template).
        """


# --- learning -----------------------------------------------------------------


ADAPTER: Final = "adapter.safetensors"
"""The file of a checkpoint that is published, byte for byte."""


class LearnerSnapshot(Protocol):
    """A copy of the learner's state on the CPU, no longer moved by learning."""

    def files(self) -> dict[str, bytes]:
        """Serialise: {ADAPTER: …, "optimizer.safetensors": …}; may run in another thread."""


class Learner(Protocol):
    """A base model with an adapter: scores first, then learns, in one forward."""

    @property
    def base(self) -> BaseModelCard:
        """Which model, exactly."""

    @property
    def lora(self) -> LoraShape:
        """The adapter's shape."""

    def step(self, batch: Sequence[Draw], plan: StepPlan) -> StepResult:
        """Score every chunk of `batch`, then take one optimiser step.

        Text is learnt by its mean loss per scored token; anchor chunks hold the adapter close to the base.
        """

    def base_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return the summed NLL of each chunk in nats with the adapter off, shape (B,)."""

    def begin_anew(self) -> None:
        """Forget what was learnt: the adapter changes nothing any more, as in a new lineage."""

    def snapshot(self) -> LearnerSnapshot:
        """Copy adapter and optimiser to the CPU."""

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Continue from the files of a snapshot.

        Raises:
            Fatal: they belong to another adapter shape, or are unreadable; names both shapes.
        """

    def adapter_config(self) -> bytes:
        """Return PEFT's `adapter_config.json` for the published directory."""


class Guests(Protocol):
    """Published adapters that are scored beside the live one, on the same loaded base; they never learn."""

    def seat(self, name: str, adapter: bytes) -> None:
        """Load a published adapter as guest `name` beside the live one, in place of whoever sat there.

        Raises:
            Fatal: it is unreadable, or of another shape than the live adapter; then nobody sits there.
        """

    def leave(self, name: str) -> None:
        """Give a guest's memory back; nobody there is no error."""

    def guest_nll(self, name: str, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return the summed NLL of each chunk in nats with a guest's adapter, shape (B,)."""


class Anchor(Protocol):
    """Makes the text that holds the adapter of a new lineage close to the base; it then goes with the lineage."""

    def __call__(self, go_on: Callable[[int, int], bool], /) -> Sequence[Chunk] | None:
        """Return its chunks, perhaps none; may take minutes.

        Args:
            go_on: told (tokens made, tokens in all) now and then; where it says no, None is returned.

        Raises:
            Fatal: the file it is to come from cannot be used; says how to mend it.
        """


# --- storage ------------------------------------------------------------------


class StoreUnavailable(Transient):
    """The store does not answer, or asks to slow down."""


class StoreRefused(Fatal):
    """The store answers, and the answer is no: no bucket, no permission, disk full."""


class NotFound(StreamlearnError):
    """No object at this key."""


class Conflict(StreamlearnError):
    """The object exists already, or is no longer the one we read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object's bytes and the tag that changes when they change."""

    body: bytes
    etag: str


class ObjectStore(Protocol):
    """Immutable blobs and a few small objects that change by compare-and-swap.

    Keys are relative, `/`-separated, without `..`, empty or hidden parts.
    Writes are atomic: a reader sees the old bytes or the new ones.
    All methods raise StoreUnavailable or StoreRefused when the store fails.
    """

    @property
    def url(self) -> str:
        """The store's address without secrets."""

    def get(self, key: str) -> StoredObject:
        """Return the object; raises NotFound."""

    def create(self, key: str, body: bytes) -> str:
        """Write a new object and return its etag; raises Conflict when the key exists."""

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """Replace the object that still has `etag`; raises Conflict otherwise, also when it is gone."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, bytes) of every object whose key starts with `prefix`, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is no error."""

    def probe(self) -> None:
        """Prove that the store is writable and honours conditions.

        Raises:
            StoreRefused: it does not; names the store and the way out.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Where the lineage stands when we become its writer."""

    epoch: int
    state: CheckpointState | None
    """None for a lineage without a checkpoint."""
    files: Mapping[str, bytes]
    """The checkpoint's objects by name, digests verified."""
    newest_version: int
    """0 when none was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a successful commit wrote."""

    checkpoint: str
    seq: int
    version: int | None
    """Number of the version that this commit published, if it did."""
    bytes_written: int
    """Of the checkpoint's objects and its ledger."""
    publish_bytes: int = 0
    """Of the version's objects."""
    publish_seconds: float = 0.0
    """From the swapped head to the moved alias."""


class Lineage(Protocol):
    """The chain of checkpoints of one stream, and our right to extend it.

    Methods may be called from any thread; commits are made one at a time.
    """

    def acquire(self, should_stop: Callable[[], bool]) -> Restored | None:
        """Become the writer, waiting as hot standby while another holds the lease.

        Also completes a version that the last writer allocated and did not finish.
        Returns None when `should_stop()` turned true first.
        """

    def commit(
        self,
        draft: Draft,
        files: Mapping[str, bytes],
        ledger: Sequence[EventLine | ScoreLine],
        *,
        adapter_config: bytes | None,
        before_swap: Callable[[], None],
    ) -> Committed:
        """Upload, call `before_swap` (dead letters flush there), swap the head.

        `adapter_config` given means: publish this checkpoint as the next version
        and move alias `latest` to it. Rulings in `draft` that move the champion
        move alias `champion`, once each.

        Raises:
            Fenced: another writer has taken over. Nothing was committed, unless it did so after the swap; then the
                checkpoint stands and the new writer finishes its version.
        """

    def renew(self) -> None:
        """Extend the lease; raises Fenced when it is no longer ours."""

    def release(self) -> None:
        """Give the lease up so that a standby need not wait; never raises."""

    @property
    def next_version(self) -> int:
        """Number of the version that the next publishing commit makes; ours to ask once the lineage is ours."""

    def manifest(self, version: int) -> Manifest:
        """Return the manifest of a published version; raises NotFound."""

    def adapter(self, version: int) -> bytes:
        """Return the published adapter of a version.

        Raises:
            NotFound: there is no such version.
            Fatal: it, or part of it, is damaged or gone.
        """

    def learner_files(self, version: int) -> Mapping[str, bytes]:
        """Return the learner's state as it was when a version was published, as `Learner.restore` takes it.

        Raises:
            NotFound: there is no such version.
            Fatal: it is damaged, or its checkpoint is damaged or gone.
        """


class Fault(Protocol):
    """A named point where a chaos test may stop the process; does nothing otherwise.

    Points: `uploaded` (objects are there, head not swapped), `swapped` (head swapped,
    offsets not mirrored), `version:half` (between two objects of a version),
    `dead_letters:flush` (some sent, not all acknowledged).
    """

    def __call__(self, point: str, /) -> None:
        """The process has come to `point`."""


def no_fault(point: str, /) -> None:
    """Let the process pass."""


# --- the rest -------------------------------------------------------------------


class Clock(Protocol):
    """Time, injected so that tests own it."""

    def now(self) -> float:
        """Wall clock, seconds since 1970."""

    def monotonic(self) -> float:
        """Seconds that never go back."""


class Health(Protocol):
    """What `/healthz` and `/readyz` answer; safe from any thread."""

    def beat(self) -> None:
        """The loop came round: a step was taken or the source was polled."""

    def ready(self) -> None:
        """Model loaded, head acquired, topics assigned."""

    def not_ready(self, reason: str) -> None:
        """Alive, but not learning, for `reason` (standby, store outage, starting)."""


class Telemetry(Protocol):
    """Numbers for Prometheus, by the names of `core/metrics.py`; safe from any thread."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram."""

    def info(self, name: str, **labels: str) -> None:
        """Set an info metric."""
