"""A stream lived in many short lives, each ended anywhere, is the stream lived in one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.arrays import from_bytes, to_bytes
from streamlearn.core.batches import StepResult
from streamlearn.core.events import Arrival, Outcome, Progress
from streamlearn.core.manifest import LEDGER_LINE, EventLine, ScoreLine, Totals
from streamlearn.core.mix import Shares
from streamlearn.core.stream import Batch, StreamState
from tests.unit.core.making import arrival, bounds, chunk, settings
from tests.unit.core.replay import replay

# Everything small enough to overflow within one example: window by age and tokens, reservoir, memory of texts, sources.
TIGHT = settings(
    step_chunks=3,
    shares=Shares(window=0.25, reservoir=0.2, anchor=0.1),
    window=bounds(half_life_s=5.0, length_s=20.0, min_effective_chunks=3, max_tokens=60, max_visits=2),
    reservoir_chunks=3,
    base_sample=0.4,
    max_sources=1,
)
ANCHOR = [chunk(number, tokens) for number, tokens in ((901, 3), (902, 8), (903, 5))]


def new_stream() -> StreamState:
    return StreamState(TIGHT, ANCHOR)


class Weight:
    """A model of one number: every score depends on all steps before it."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def step(self, batch: Batch) -> tuple[StepResult, list[float]]:
        nll = tuple(float(draw.chunk.ids.sum() % 97) / 7 * self.value for draw in batch.draws)
        self.value = 1.0 + 0.9 * np.sin(self.value + sum(nll))
        # Now and then a loss is not finite, as on a real model.
        nll = tuple(float("nan") if int(score * 1e6) % 23 == 0 else score for score in nll)
        base = [float(batch.fresh[place].chunk.ids.sum() % 13) for place in batch.sampled]
        return StepResult(nll=nll, gradient_norm=1.0, applied=True, seconds=0.1), base


@dataclass(frozen=True)
class Saved:
    """A checkpoint, as bytes."""

    document: bytes
    arrays: bytes
    progress: Progress
    totals: bytes
    event_time: tuple[float, float] | None
    weight: str


@dataclass
class Kept:
    """What survives a crash: the newest checkpoint and the ledger up to it."""

    saved: Saved | None = None
    ledger: list[bytes] = field(default_factory=list)

    @property
    def lines(self) -> list[EventLine | ScoreLine]:
        return [LEDGER_LINE.validate_json(line) for line in self.ledger]


class Life:
    """One run: begins at the newest checkpoint, and ends whenever its owner lets go of it."""

    def __init__(self, kept: Kept, events: Sequence[Arrival]) -> None:
        self.kept = kept
        self.state = new_stream()
        self.weight = Weight()
        if (saved := kept.saved) is not None:
            self.state.restore(
                json.loads(saved.document),
                from_bytes(saved.arrays),
                progress=saved.progress,
                totals=Totals.model_validate_json(saved.totals),
                event_time=saved.event_time,
            )
            self.weight = Weight(float.fromhex(saved.weight))
        # The brokers know offsets, not what was seen: each partition goes on where progress says.
        passed = self.state.progress.get("news", {})
        self.coming = [event for event in events if event.offset >= passed.get(event.partition, 0)]

    def turn(self) -> bool:
        """One turn of the daemon's loop without its flush; whether anything happened."""
        admitted = self.state.wants_events and bool(self.coming)
        if admitted:
            self.state.admit(self.coming.pop(0))
        return self.learn(flush=False) or admitted

    def learn(self, *, flush: bool) -> bool:
        if (batch := self.state.next_batch(flush=flush)) is None:
            return False
        self.state.record(batch, *self.weight.step(batch))
        return True

    def run(self) -> None:
        """Until the end of the stream, as `run --until-end`."""
        while self.turn() or self.learn(flush=True):
            pass
        self.checkpoint()

    def checkpoint(self) -> None:
        state = self.state
        self.kept.saved = Saved(
            document=json.dumps(state.document(), sort_keys=True).encode(),
            arrays=to_bytes(state.arrays()),
            progress={topic: dict(offsets) for topic, offsets in state.progress.items()},
            totals=state.totals.model_dump_json().encode(),
            event_time=state.event_time,
            weight=self.weight.value.hex(),
        )
        self.kept.ledger += [line.model_dump_json().encode() for line in state.take_ledger()]


@st.composite
def streams(draw: st.DrawFn) -> list[Arrival]:
    """Events of two partitions, some out of order in time, some repeated, some no events."""
    shape = draw(
        st.lists(
            st.tuples(
                st.sampled_from([Outcome.ADMITTED] * 6 + [Outcome.DEAD_LETTER, Outcome.FILTERED]),
                st.integers(1, 5),  # chunks
                st.integers(0, 1),  # partition
                st.integers(-15, 10),  # late or early, in seconds
                st.integers(0, 40),  # which text
            ),
            min_size=1,
            max_size=40,
        )
    )
    offsets = [0, 0]
    events = []
    for place, (outcome, chunks, partition, late, text) in enumerate(shape):
        # Offsets with gaps, as transactions and compaction leave them.
        offset = offsets[partition] = offsets[partition] + 1 + place % 2
        made = arrival(offset, outcome=outcome, chunks=chunks, text=text, ts=float(place + late))
        events.append(replace(made, partition=partition, id=f"news:{partition}:{offset}"))
    return events


lives = st.lists(
    st.tuples(st.integers(0, 60), st.sets(st.integers(0, 60), max_size=4)),
    max_size=6,
)
"""How many turns each life has before it is killed, and after which of them it makes a checkpoint."""


def lived(kept: Kept, events: Sequence[Arrival], turns: int, checkpoints: set[int]) -> Iterator[Life]:
    """Live until killed, and say so after each turn."""
    life = Life(kept, events)
    for number in range(turns):
        if not life.turn():
            return
        yield life
        if number in checkpoints:
            life.checkpoint()


def in_one_go(events: Sequence[Arrival]) -> Kept:
    kept = Kept()
    Life(kept, events).run()
    return kept


@given(streams(), lives)
def test_any_number_of_lives_that_end_anywhere_are_one_life(
    events: list[Arrival], plan: list[tuple[int, set[int]]]
) -> None:
    """Ledger, scores, state and model after any crashes are those of an undisturbed run, byte for byte."""
    kept = Kept()
    for turns, checkpoints in plan:
        for _ in lived(kept, events, turns, checkpoints):
            pass
    Life(kept, events).run()

    whole = in_one_go(events)
    assert kept.ledger == whole.ledger
    assert kept.saved == whole.saved


@given(streams(), lives, st.sets(st.integers(0, 200), max_size=12))
def test_a_flush_counts_where_the_ledger_has_it_and_nowhere_else(
    events: list[Arrival], plan: list[tuple[int, set[int]]], timer: set[int]
) -> None:
    """The timer may strike anywhere, and what a crash threw away may come out otherwise the second time; but the
    committed ledger is that of one undisturbed run whose timer struck where its lines say `flushed`."""
    kept = Kept()
    turn = 0
    for turns, checkpoints in plan:
        for life in lived(kept, events, turns, checkpoints):
            turn += 1
            if turn in timer:
                life.learn(flush=True)
    Life(kept, events).run()

    state, weight = new_stream(), Weight()
    arrivals = {(event.topic, event.partition, event.offset): event for event in events}
    lines = replay(state, kept.lines, arrivals, weight.step)

    assert [line.model_dump_json().encode() for line in lines] == kept.ledger
    assert kept.saved is not None
    assert to_bytes(state.arrays()) == kept.saved.arrays
    assert json.dumps(state.document(), sort_keys=True).encode() == kept.saved.document
    assert weight.value.hex() == kept.saved.weight


@given(streams(), st.lists(st.sets(st.integers(0, 60), max_size=4), max_size=2))
def test_a_flush_that_was_committed_is_lived_once(events: list[Arrival], checkpoints: list[set[int]]) -> None:
    """What the timer decided is part of the state as soon as a checkpoint has it: no later crash decides it anew."""
    kept = Kept()
    life = Life(kept, events)
    for _ in range(len(events) // 2):
        life.turn()
    life.learn(flush=True)
    life.checkpoint()
    committed = list(kept.ledger)
    undisturbed = replace(kept, ledger=list(kept.ledger))
    Life(undisturbed, events).run()

    for made_after in checkpoints:
        for _ in lived(kept, events, 50, made_after):
            pass
    Life(kept, events).run()

    assert kept.ledger[: len(committed)] == committed
    assert kept.ledger == undisturbed.ledger
    assert kept.saved == undisturbed.saved
