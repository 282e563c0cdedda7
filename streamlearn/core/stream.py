"""Everything the lineage remembers of its stream, and what the next step reads.

A pure state machine: arrivals go in, batches come out, scores come back. The
same sequence of calls gives the same batches, byte for byte, whenever and
wherever it runs, and `document()`, `arrays()` and
`restore()` interrupt it without a trace.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.arrays import Arrays, pack, unpack
from streamlearn.core.batches import Draw, Role, StepPlan, StepResult
from streamlearn.core.caps import CapSettings, SourceCaps
from streamlearn.core.events import Arrival, Chunk, Outcome, Progress
from streamlearn.core.judgement import Alarm
from streamlearn.core.junk import Accepted
from streamlearn.core.manifest import EventLine, ScoreLine, Scores, Totals
from streamlearn.core.mix import REPLAYED, Mix, Shares
from streamlearn.core.near_duplicates import NearDuplicates
from streamlearn.core.prequential import Prequential
from streamlearn.core.reservoir import Reservoir
from streamlearn.core.seen import Seen
from streamlearn.core.vigilance import Vigilance, VigilanceSettings
from streamlearn.core.window import Window, WindowBounds

_FOUNDING_CHUNKS = 32
"""First chunks of a lineage, which the base scores all: the rate waits for proof that learning helps (`core.proof`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """The knobs of `StreamState`; see the configuration for their reasons."""

    seed: int
    step_chunks: int
    shares: Shares
    window: WindowBounds
    reservoir_chunks: int
    base_sample: float
    max_sources: int
    vigilance: VigilanceSettings
    caps: CapSettings | None
    near_duplicates: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """A chunk that waits for its first visit."""

    chunk: Chunk
    event_id: str
    index: int
    """Which chunk of its event, from 0."""
    ts: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step reads: the fresh chunks come first in `draws`."""

    fresh: tuple[Fresh, ...]
    draws: tuple[Draw, ...]
    sampled: tuple[int, ...]
    """Indices of the fresh chunks that the base scores too."""
    flushed: bool


class StreamState:
    """Queue, window, reservoir, memory of texts, scores, progress and random generator of one lineage."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self.step_chunks = settings.step_chunks
        """Fresh chunks of the next steps; set at checkpoints only, which keep it, or a resume would step otherwise."""
        self._anchor: Sequence[Chunk] = ()
        self._random = np.random.Generator(np.random.PCG64(settings.seed))
        self._queue: deque[Fresh] = deque()
        self.window = Window(settings.window)
        self.reservoir = Reservoir(settings.reservoir_chunks)
        self._seen = Seen(settings.window.length_s)
        self._near = NearDuplicates(settings.window.length_s) if settings.near_duplicates else None
        self._caps = SourceCaps(settings.caps) if settings.caps is not None else None
        self.vigilance = Vigilance(settings.vigilance)
        self._mix = Mix(settings.shares)
        self._prequential = Prequential(settings.max_sources)
        self._ledger: list[EventLine | ScoreLine] = []
        self._totals = dict.fromkeys(Totals.model_fields, 0)
        self.progress: Progress = {}
        self.event_time: tuple[float, float] | None = None

    # --- in -----------------------------------------------------------------

    def rehearse(self, anchor: Sequence[Chunk]) -> None:
        """Take the text that holds the adapter close to the base; when a lineage begins, as it then goes with it."""
        self._anchor = anchor

    @property
    def wants_events(self) -> bool:
        """Whether another event must be admitted before a whole step can be taken.

        Admitting no further keeps window and reservoir, at each step, a function
        of the sequence of events alone.
        """
        return len(self._queue) < self.step_chunks

    @property
    def waiting(self) -> int:
        """Chunks that wait for their first visit."""
        return len(self._queue)

    def admit(self, arrival: Arrival) -> Outcome:
        """Count `arrival` as passed for good and queue what it has to teach."""
        outcome = self._outcome(arrival)
        chunks = arrival.chunks if outcome is Outcome.ADMITTED else ()
        self._queue.extend(
            Fresh(chunk=chunk, event_id=arrival.id, index=index, ts=arrival.ts, source=arrival.source)
            for index, chunk in enumerate(chunks)
        )
        self.progress.setdefault(arrival.topic, {})[arrival.partition] = arrival.offset + 1
        if outcome is Outcome.ADMITTED:
            oldest, newest = self.event_time or (arrival.ts, arrival.ts)
            self.event_time = (min(oldest, arrival.ts), max(newest, arrival.ts))
        self._totals["events"] += 1
        self._totals[outcome.value] += 1
        self._totals["offsets_lost"] += arrival.skipped
        self._ledger.append(
            EventLine(
                id=arrival.id,
                topic=arrival.topic,
                partition=arrival.partition,
                offset=arrival.offset,
                ts=arrival.ts,
                outcome=outcome,
                chunks=len(chunks),
                tokens=sum(chunk.scored_tokens for chunk in chunks),
                bytes=sum(chunk.text_bytes for chunk in chunks),
            )
        )
        return outcome

    # --- out ----------------------------------------------------------------

    @property
    def accepted(self) -> Accepted:
        """Which fresh chunks the next step should learn from."""
        return self.vigilance.accepted

    def next_batch(self, *, flush: bool) -> Batch | None:
        """Return what the next step reads, or None where too little waits.

        `flush` takes what there is. A batch, once returned, must be recorded.
        """
        size = min(self.step_chunks, len(self._queue))
        if size == 0 or (size < self.step_chunks and not flush):
            return None
        fresh = tuple(self._queue.popleft() for _ in range(size))
        self._mix.earn(sum(item.chunk.scored_tokens for item in fresh))
        draws = [Draw(chunk=item.chunk, role=Role.FRESH) for item in fresh]
        for role in REPLAYED:
            draws.extend(self._replay(role))
        sampled = np.flatnonzero(self._random.random(size) < self._base_sample(size))
        return Batch(
            fresh=fresh,
            draws=tuple(draws),
            sampled=tuple(sampled.tolist()),
            flushed=size < self.step_chunks,
        )

    def _base_sample(self, size: int) -> NDArray[np.float64]:
        """Return for each of the next fresh chunks how likely the base scores it too, shape (size,)."""
        share = self._settings.base_sample
        founds = self._totals["chunks_learnt"] + np.arange(size) < _FOUNDING_CHUNKS
        return np.where(founds & (share > 0.0), 1.0, share)

    def record(self, batch: Batch, plan: StepPlan, result: StepResult, base_nll: Sequence[float]) -> list[Alarm]:
        """Write down what a step found, and return the drift alarms it gave; its fresh chunks become past.

        Args:
            base_nll: summed nats of the base for `batch.sampled`, in that order.
        """
        base = dict(zip(batch.sampled, base_nll, strict=True))
        alarms = []
        for place, (item, nll) in enumerate(zip(batch.fresh, result.nll, strict=False)):
            number = self._totals["chunks_learnt"]
            self._score(item, nll, base.get(place), flushed=batch.flushed)
            if place not in result.passed_over:
                self.window.add(item.chunk, item.ts, number)
                self.reservoir.offer(item.chunk, item.source, number, self._random)
            tokens = item.chunk.scored_tokens
            if (alarm := self.vigilance.observe(number, nll, base.get(place), tokens, plan.accepted)) is not None:
                alarms.append(alarm)
        if self.vigilance.reaction is not None:
            self.vigilance.reaction.step_passed()
        self._totals["chunks_passed_over"] += len(result.passed_over)
        self._totals["steps"] += 1
        self._totals["steps_dropped"] += not result.applied
        self._totals["tokens_trained"] += sum(
            draw.chunk.scored_tokens for place, draw in enumerate(batch.draws) if place not in result.passed_over
        )
        return alarms

    def distrust(self, first: int, behind: int) -> None:
        """Replay none of the chunks numbered from `first` up to before `behind`; what is counted stays counted."""
        self.window.drop(first, behind)
        self.reservoir.drop(first, behind)

    def take_ledger(self) -> list[EventLine | ScoreLine]:
        """Return the lines since the last call, in stream order, and forget them."""
        lines, self._ledger = self._ledger, []
        return lines

    @property
    def ledger_lines(self) -> int:
        """Lines that no checkpoint has taken yet."""
        return len(self._ledger)

    @property
    def totals(self) -> Totals:
        """Counts over the life of the lineage."""
        return Totals(**self._totals)

    @property
    def scores(self) -> Scores:
        """How live and base did over the life of the lineage."""
        return self._prequential.scores()

    # --- to a checkpoint and back -------------------------------------------

    def arrays(self) -> Arrays:
        """Return the part of the state that goes to `window.safetensors`; a copy."""
        queue = list(self._queue)
        return (
            pack("queue", [item.chunk for item in queue])
            | self.window.arrays()
            | self.reservoir.arrays()
            | self._seen.arrays()
            | (self._near.arrays() if self._near is not None else {})
            | pack("anchor", self._anchor)
        )

    def document(self) -> dict[str, Any]:
        """Return the rest of the state as JSON, for `state.json`; a copy."""
        generator = self._random.bit_generator.state
        return {
            "queue": [
                {"event_id": item.event_id, "index": item.index, "ts": item.ts, "source": item.source}
                for item in self._queue
            ],
            "step_chunks": self.step_chunks,
            "mix": self._mix.state(),
            "prequential": self._prequential.state(),
            "reservoir": self.reservoir.document(),
            "vigilance": self.vigilance.document(),
            "caps": self._caps.document() if self._caps is not None else None,
            # 128-bit integers are beyond what JSON readers agree on.
            "random": {key: hex(value) for key, value in generator["state"].items()}
            | {"has_uint32": generator["has_uint32"], "uinteger": generator["uinteger"]},
        }

    def restore(
        self,
        document: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        *,
        progress: Progress,
        totals: Totals,
        event_time: tuple[float, float] | None,
    ) -> None:
        """Continue from the parts of a checkpoint."""
        self._queue = deque(
            Fresh(chunk=chunk, **item) for chunk, item in zip(unpack("queue", arrays), document["queue"], strict=True)
        )
        self.window.restore(arrays)
        self.reservoir.restore(document["reservoir"], arrays)
        self._seen.restore(arrays)
        self._anchor = unpack("anchor", arrays)
        if self._near is not None and any(name.startswith("near.") for name in arrays):
            self._near.restore(arrays)
        if self._caps is not None and document["caps"] is not None:
            self._caps.restore(document["caps"])
        self.vigilance.restore(document["vigilance"])
        self.step_chunks = int(document["step_chunks"])
        self._mix.restore(document["mix"])
        self._prequential.restore(document["prequential"])
        random = document["random"]
        self._random.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {key: int(random[key], 16) for key in ("state", "inc")},
            "has_uint32": random["has_uint32"],
            "uinteger": random["uinteger"],
        }
        self.progress = {topic: dict(offsets) for topic, offsets in progress.items()}
        self._totals = totals.model_dump()
        self.event_time = event_time
        self._ledger = []

    # --- inside ---------------------------------------------------------------

    def _outcome(self, arrival: Arrival) -> Outcome:
        if arrival.outcome is not Outcome.ADMITTED:
            return arrival.outcome
        if self._seen.repeats(arrival.digest, arrival.ts):
            return Outcome.DUPLICATE
        if self._near is not None and self._near.repeats(arrival.signature, arrival.ts):
            return Outcome.DUPLICATE
        tokens = sum(chunk.scored_tokens for chunk in arrival.chunks)
        if self._caps is not None and not self._caps.admits(arrival.source, tokens, arrival.ts):
            return Outcome.FILTERED
        return Outcome.ADMITTED

    def _replay(self, role: Role) -> list[Draw]:
        draws: list[Draw] = []
        while self._mix.due(role):
            if (chunk := self._pick(role)) is None:
                self._mix.forgo(role)
                break
            self._mix.spend(role, chunk.scored_tokens)
            draws.append(Draw(chunk=chunk, role=role))
        return draws

    def _pick(self, role: Role) -> Chunk | None:
        match role:
            case Role.WINDOW:
                return self.window.draw(self._random, self.vigilance.reaction)
            case Role.RESERVOIR:
                return self.reservoir.draw(self._random)
            case _:
                return self._anchor[int(self._random.integers(len(self._anchor)))] if self._anchor else None

    def _score(self, item: Fresh, nll: float, base: float | None, *, flushed: bool) -> None:
        tokens, size = item.chunk.scored_tokens, item.chunk.text_bytes
        finite = math.isfinite(nll)
        base = base if base is not None and math.isfinite(base) else None
        self._totals["chunks_learnt"] += 1
        self._totals["tokens"] += tokens
        self._ledger.append(
            ScoreLine(
                id=item.event_id,
                chunk=item.index,
                tokens=tokens,
                bytes=size,
                nll=nll if finite else None,
                nll_base=base,
                flushed=flushed,
            )
        )
        if finite:
            self._prequential.add(item.source, tokens=tokens, text_bytes=size, live=nll, base=base)
