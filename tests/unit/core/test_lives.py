"""A stream lived in many short lives, each ended anywhere, is the stream lived in one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamlearn.core.arrays import from_bytes, to_bytes
from streamlearn.core.batches import Draw, StepPlan, StepResult
from streamlearn.core.caps import CapSettings
from streamlearn.core.clipping import ClipSettings
from streamlearn.core.drift import DriftSettings
from streamlearn.core.events import Arrival, Chunk, Outcome, Progress
from streamlearn.core.junk import JunkSettings
from streamlearn.core.manifest import LEDGER_LINE, EventLine, ScoreLine, Totals
from streamlearn.core.mix import Shares
from streamlearn.core.near_duplicates import Signature, signature
from streamlearn.core.proof import ProofSettings
from streamlearn.core.reaction import ReactionSettings
from streamlearn.core.stream import StreamState
from streamlearn.core.vigilance import VigilanceSettings
from streamlearn.lessons import Lessons, LessonSettings
from tests.fakes.daemon import NumberLearner
from tests.unit.core.making import arrival, bounds, chunk, result_of, settings
from tests.unit.core.replay import replay

# Everything small enough to overflow or to strike within one example: window by age and tokens, reservoir, memory of
# texts, sources, junk, shares of sources, clipping.
TIGHT = settings(
    step_chunks=3,
    shares=Shares(window=0.25, reservoir=0.2, anchor=0.1),
    window=bounds(half_life_s=5.0, length_s=20.0, min_effective_chunks=3, max_tokens=60, max_visits=2),
    reservoir_chunks=3,
    base_sample=0.4,
    max_sources=1,
    vigilance=VigilanceSettings(
        junk=JunkSettings(z=1.0, near_zero=0.1, min_tokens=1, fading=0.9, warmup_chunks=6, recent=8),
        drift=DriftSettings(delta=0.5, min_chunks_apart=5),
        reaction=ReactionSettings(
            past_weight=0.1, half_life=0.25, doubling_chunks=5, rate=3.0, rate_steps=4, hold_blocks=2
        ),
        proof=ProofSettings(full_gain=0.5, least=0.1, fading=0.5),
    ),
    caps=CapSettings(half_life_s=10.0, share=0.5, fair_parts=1.0, free_tokens=60, max_chunks=100, max_sources=2),
    near_duplicates=True,
)
LESSONS = LessonSettings(
    learning_rate=0.1,
    warmup_steps=4,
    fade_half_life_s=30.0,
    clip=ClipSettings(max_norm=3.0, z=0.5, fading=0.9, warmup_steps=3, recent=8),
)
ANCHOR = [chunk(number, tokens) for number, tokens in ((901, 3), (902, 8), (903, 5))]


class Weight(NumberLearner):
    """A model of one number: every score depends on all steps before it, and on how each was taken."""

    def step(self, batch: Sequence[Draw], plan: StepPlan) -> StepResult:
        if self.weight > 0.0 and int(self.weight * 1e6) % 7 == 0:
            # Now and then a loss is not finite, as on a real model; never twice in a row, as that ends the worker.
            self.weight = -self.weight
            return result_of([math.nan, *(self.nll(draw.chunk) for draw in batch[1:])], applied=False)
        return super().step(batch, plan)

    def nll(self, chunk: Chunk) -> float:
        return float(chunk.ids.sum() % 97) / 7 * (1.5 + 0.2 * math.sin(self.weight))

    def base_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        return np.array([float(chunk.ids.sum() % 13) for chunk in chunks])


@dataclass(frozen=True)
class Saved:
    """A checkpoint, as bytes."""

    document: bytes
    arrays: bytes
    progress: Progress
    totals: bytes
    event_time: tuple[float, float] | None
    lessons: bytes
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
        self.state, self.weight = StreamState(TIGHT), Weight()
        self.lessons = Lessons(self.weight, self.state, LESSONS)
        if (saved := kept.saved) is None:
            self.state.rehearse(ANCHOR)
        else:
            # Without the anchor: that is the lineage's own, wherever it goes on.
            self.state.restore(
                json.loads(saved.document),
                from_bytes(saved.arrays),
                progress=saved.progress,
                totals=Totals.model_validate_json(saved.totals),
                event_time=saved.event_time,
            )
            self.lessons.restore(json.loads(saved.lessons))
            self.weight.weight = float.fromhex(saved.weight)
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
        self.lessons.take(batch)
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
            lessons=json.dumps(self.lessons.document(), sort_keys=True).encode(),
            weight=self.weight.weight.hex(),
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
        events.append(replace(made, partition=partition, id=f"news:{partition}:{offset}", signature=signed(text)))
    return events


def signed(text: int) -> Signature | None:
    """Texts in pairs, the second of which is a reprint of the first."""
    words = [f"{text // 2} {place}" for place in range(40)]
    return signature(" ".join([*words, "again" if text % 2 else "first"]))


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

    state, weight = StreamState(TIGHT), Weight()
    state.rehearse(ANCHOR)
    lessons = Lessons(weight, state, LESSONS)
    arrivals = {(event.topic, event.partition, event.offset): event for event in events}
    lines = replay(state, kept.lines, arrivals, lessons.take)

    assert [line.model_dump_json().encode() for line in lines] == kept.ledger
    assert kept.saved is not None
    assert to_bytes(state.arrays()) == kept.saved.arrays
    assert json.dumps(state.document(), sort_keys=True).encode() == kept.saved.document
    assert json.dumps(lessons.document(), sort_keys=True).encode() == kept.saved.lessons
    assert weight.weight.hex() == kept.saved.weight


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


def a_stream_with_everything_in_it() -> list[Arrival]:
    """180 events of three halves: usual ones, some noise and reprints among them, a flood by one source, another
    subject."""
    random = np.random.default_rng(3)
    events = []
    for offset in range(180):
        flood = 90 <= offset < 110
        made = arrival(offset, chunks=5 if flood else int(random.integers(1, 4)), ts=float(offset))
        loss = 40 + int(random.integers(0, 9)) + (30 if offset >= 120 else 0) + (20 if offset % 17 == 16 else 0)
        text = offset - 1 if offset % 13 == 12 else 2 * offset
        chunks = tuple(replace(each, ids=np.where(each.scored, 0, loss).astype(np.int32)) for each in made.chunks)
        source = "flood" if flood else made.source
        events.append(replace(made, chunks=chunks, source=source, signature=signed(text)))
    return events


def test_the_lives_of_a_stream_with_noise_reprints_a_flood_and_a_change_are_one_life() -> None:
    """Each watch strikes, and strikes the same wherever the worker was killed."""
    events = a_stream_with_everything_in_it()
    whole = Kept()
    life = Life(whole, events)
    life.run()
    kept = Kept()
    for turns in (7, 40, 41, 90, 13, 100):
        for _ in lived(kept, events, turns, {turns // 2, turns - 2}):
            pass
    Life(kept, events).run()

    assert kept.ledger == whole.ledger
    assert kept.saved == whole.saved
    totals = life.state.totals
    assert min(totals.duplicate, totals.filtered, totals.chunks_passed_over) > 0
    assert life.lessons.document()["clip"]["clipped"] > 0
    assert {alarm.signal for alarm in life.state.vigilance.alarms} >= {"live"}
    assert any(plan.turn for plan in life.weight.plans)
    assert any(plan.keep < 1.0 for plan in life.weight.plans)
