"""Fakes of everything the daemon speaks to, for tests without Kafka, store or model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.batches import Draw, Role, StepPlan, StepResult
from streamlearn.core.events import Arrival, Chunk, Progress
from streamlearn.core.manifest import (
    BaseModelCard,
    CheckpointState,
    Draft,
    EventLine,
    FileDigest,
    LoraShape,
    Manifest,
    Origin,
    ScoreLine,
)
from streamlearn.ports import Committed, IntakeStatus, NotFound, Restored


class ManualClock:
    """Time that moves when told; each look at it costs `tick_s`."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.time = 1_000.0
        self._tick_s = tick_s

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        self.time += self._tick_s
        return self.time


class SilentTelemetry:
    """Forgets everything but the counters."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        self.counts[name] = self.counts.get(name, 0.0) + amount

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def info(self, name: str, **labels: str) -> None: ...


@dataclass
class RecordingHealth:
    """Remembers what it was told."""

    states: list[str] = field(default_factory=list)
    beats: int = 0

    def beat(self) -> None:
        self.beats += 1

    def ready(self) -> None:
        self.states.append("ready")

    def not_ready(self, reason: str) -> None:
        self.states.append(reason)


class ListSource:
    """The arrivals of a list, from wherever progress says; `on_empty` is called when it runs out."""

    def __init__(self, arrivals: Sequence[Arrival], on_empty: Callable[[], None] = lambda: None) -> None:
        self._arrivals = list(arrivals)
        self._next = 0
        self._on_empty = on_empty
        self.end: int | None = None
        """What `ends` says, where events go on after it."""
        self.mirrored: Progress = {}
        self.looks_until_assigned = 0
        self.began_at: Progress = {}
        self.recalled: Origin | None = None
        self.passed: Progress = {}

    def recall(self, origin: Origin) -> None:
        self.recalled = origin

    def start(self, progress: Progress) -> None:
        start = progress.get("news", {}).get(0, 0)
        self._next = next((i for i, item in enumerate(self._arrivals) if item.offset >= start), len(self._arrivals))

    def take(self, timeout_s: float) -> Arrival | None:
        if self._next == len(self._arrivals):
            self._on_empty()
            return None
        self._next += 1
        return self._arrivals[self._next - 1]

    def begun(self) -> Progress:
        return self.began_at

    def origin(self) -> Origin:
        return Origin(topic_ids={"news": {0: "id of news"}}, entries=("news",), passed=self.passed)

    def ends(self, should_stop: Callable[[], bool]) -> Progress:
        last = self._arrivals[-1].offset + 1 if self._arrivals else 0
        return {"news": {0: last if self.end is None else self.end}}

    def caught_up(self, ends: Progress) -> bool:
        taken = self._arrivals[self._next - 1].offset + 1 if self._next else 0
        return self._next == len(self._arrivals) or taken >= ends["news"][0]

    def status(self) -> IntakeStatus:
        self.looks_until_assigned -= 1
        return IntakeStatus(
            assigned=self.looks_until_assigned < 0,
            buffered_records=0,
            buffered_bytes=0,
            paused=False,
            lag_records={("news", 0): len(self._arrivals) - self._next},
            last_poll_age_s=0.0,
        )

    def mirror(self, progress: Progress) -> None:
        self.mirrored = progress

    def close(self) -> None: ...


class ListDeadLetters:
    """Keeps what it is sent; `flushed` is what a flush has made durable."""

    def __init__(self) -> None:
        self.sent: list[Arrival] = []
        self.flushed = 0
        self.full = False
        self.trouble: str | None = None

    def room(self) -> bool:
        return not self.full

    def send(self, arrival: Arrival) -> None:
        self.sent.append(arrival)

    def flush(self, timeout_s: float) -> None:
        self.flushed = len(self.sent)

    def close(self) -> None: ...


DIGEST = "0" * 64


@dataclass(frozen=True)
class NumberSnapshot:
    """The state of a `NumberLearner`."""

    state: dict[str, float]

    def files(self) -> dict[str, bytes]:
        return {"adapter.safetensors": json.dumps(self.state).encode(), "optimizer.safetensors": b"{}"}


class NumberLearner:
    """A model of one number, moved by every chunk it learns in a way that depends on the order and on the plan."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.batches: list[tuple[Draw, ...]] = []
        self.plans: list[StepPlan] = []
        self.guests: dict[str, float] = {}
        self.finite = True
        self.weights_digest = DIGEST

    @property
    def base(self) -> BaseModelCard:
        return BaseModelCard(
            name="number",
            served_name="number",
            config_digest=DIGEST,
            weights_digest=self.weights_digest,
            tokenizer_digest=DIGEST,
            parameters=1,
        )

    @property
    def lora(self) -> LoraShape:
        return LoraShape(rank=8, alpha=16, target_modules=("n",), parameters=1)

    def step(self, batch: Sequence[Draw], plan: StepPlan) -> StepResult:
        self.batches.append(tuple(batch))
        self.plans.append(plan)
        if not self.finite:
            nan = tuple(float("nan") for _ in batch)
            return StepResult(nll=nan, passed_over=(), gradient_norm=0.0, scaled=1.0, applied=False, seconds=0.01)
        nll = tuple(self.nll(draw.chunk) for draw in batch)
        passed_over = tuple(
            place
            for place, draw in enumerate(batch)
            if draw.role is Role.FRESH and plan.accepted.junk(nll[place], draw.chunk.scored_tokens) is not None
        )
        taught = [float(draw.chunk.ids.sum() % 101) for place, draw in enumerate(batch) if place not in passed_over]
        norm = 0.1 + float(np.std([*taught, self.weight]))
        scaled = plan.clip(norm)
        self.weight *= plan.keep * (0.5 if plan.turn else 1.0)
        for lesson in taught:
            self.weight = 0.9 * self.weight + plan.learning_rate * scaled * lesson
        return StepResult(
            nll=nll, passed_over=passed_over, gradient_norm=norm, scaled=scaled, applied=True, seconds=0.01
        )

    def nll(self, chunk: Chunk) -> float:
        return float(chunk.scored_tokens * (1 + abs(self.weight)))

    def base_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        return np.array([float(chunk.scored_tokens * 2) for chunk in chunks])

    def seat(self, name: str, adapter: bytes) -> None:
        self.guests[name] = json.loads(adapter)["weight"]

    def leave(self, name: str) -> None:
        self.guests.pop(name, None)

    def guest_nll(self, name: str, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        own, self.weight = self.weight, self.guests[name]
        nll = np.array([self.nll(chunk) for chunk in chunks])
        self.weight = own
        return nll

    def begin_anew(self) -> None:
        self.weight = 0.0

    def snapshot(self) -> NumberSnapshot:
        return NumberSnapshot({"weight": self.weight})

    def restore(self, files: Mapping[str, bytes]) -> None:
        self.weight = json.loads(files["adapter.safetensors"])["weight"]

    def adapter_config(self) -> bytes:
        return b"{}"


@dataclass
class MemoryLineage:
    """A lineage in a list, shared by the daemons of a test; `fail` is raised by the next commits."""

    commits: list[tuple[Draft, dict[str, bytes], list[EventLine | ScoreLine], int | None]] = field(default_factory=list)
    epoch: int = 0
    fail: Exception | None = None
    on_commit: Callable[[], None] = lambda: None

    @property
    def versions(self) -> int:
        return sum(version is not None for *_, version in self.commits)

    @property
    def ledger(self) -> list[EventLine | ScoreLine]:
        return [line for _, _, lines, _ in self.commits for line in lines]

    def acquire(self, should_stop: Callable[[], bool]) -> Restored | None:
        if should_stop():
            return None
        self.epoch += 1
        if not self.commits:
            return Restored(epoch=self.epoch, state=None, files={}, newest_version=0)
        draft, files, _, _ = self.commits[-1]
        state = CheckpointState(
            **draft.model_dump(),
            lineage="news",
            epoch=self.epoch,
            seq=len(self.commits),
            parent=None,
            files={},
            ledger=FileDigest(sha256=DIGEST, size=0),
            version=self.commits[-1][3],
        )
        return Restored(epoch=self.epoch, state=state, files=files, newest_version=self.versions)

    def commit(
        self,
        draft: Draft,
        files: Mapping[str, bytes],
        ledger: Sequence[EventLine | ScoreLine],
        *,
        adapter_config: bytes | None,
        before_swap: Callable[[], None],
    ) -> Committed:
        if self.fail is not None:
            raise self.fail
        before_swap()
        version = self.versions + 1 if adapter_config is not None else None
        self.commits.append((draft, dict(files), list(ledger), version))
        self.on_commit()
        return Committed(checkpoint="0000000001-000000000000", seq=len(self.commits), version=version, bytes_written=1)

    def renew(self) -> None: ...

    def release(self) -> None: ...

    @property
    def next_version(self) -> int:
        return self.versions + 1

    def manifest(self, version: int) -> Manifest:
        raise NotFound(str(version))

    def adapter(self, version: int) -> bytes:
        return self.learner_files(version)["adapter.safetensors"]

    def learner_files(self, version: int) -> Mapping[str, bytes]:
        found = [files for _, files, _, number in self.commits if number == version]
        if not found:
            raise NotFound(f"version {version}")
        return {name: body for name, body in found[0].items() if name != "window.safetensors"}
