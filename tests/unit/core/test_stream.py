"""The state machine as a whole: what is visited, in which order, and that interrupting it leaves no trace."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.arrays import from_bytes, to_bytes
from streamlearn.core.batches import Role, StepPlan, StepResult
from streamlearn.core.events import Arrival, Outcome
from streamlearn.core.manifest import LEDGER_LINE, EventLine, ScoreLine
from streamlearn.core.mix import Shares
from streamlearn.core.stream import Batch, StreamState
from tests.unit.core import making
from tests.unit.core.making import arrival, bounds, settings

PLAN = StepPlan(learning_rate=0.1)


def result_of(batch: Batch) -> StepResult:
    """Losses that depend on what is in the batch, as a model's would."""
    return making.result_of([float(draw.chunk.ids.sum() % 97) / 7 for draw in batch.draws])


def learn(state: StreamState, arrivals: list[Arrival]) -> list[Batch]:
    """Run the daemon's loop over `arrivals`, flushing at the end."""
    batches: list[Batch] = []
    waiting = list(arrivals)
    while True:
        while state.wants_events and waiting:
            state.admit(waiting.pop(0))
        if (batch := state.next_batch(flush=not waiting)) is None:
            return batches
        state.record(batch, PLAN, result_of(batch), [0.5] * len(batch.sampled))
        batches.append(batch)


outcomes = st.lists(
    st.tuples(st.sampled_from([Outcome.ADMITTED] * 3 + [Outcome.DEAD_LETTER, Outcome.FILTERED]), st.integers(1, 4)),
    max_size=30,
)


def stream_of(shape: list[tuple[Outcome, int]]) -> list[Arrival]:
    return [arrival(offset, outcome=outcome, chunks=chunks) for offset, (outcome, chunks) in enumerate(shape)]


@given(outcomes)
def test_every_chunk_is_visited_once_as_fresh_and_in_order(shape: list[tuple[Outcome, int]]) -> None:
    """First in, first out, nothing twice, nothing left."""
    events = stream_of(shape)

    batches = learn(StreamState(settings()), events)

    visited = [(item.event_id, item.index) for batch in batches for item in batch.fresh]
    assert visited == [(event.id, index) for event in events for index in range(len(event.chunks))]


@given(outcomes)
def test_replay_draws_only_what_was_scored_before(shape: list[tuple[Outcome, int]]) -> None:
    """A chunk's score is never that of a model which has seen it."""
    seen: set[int] = set()
    for batch in learn(StreamState(settings()), stream_of(shape)):
        replayed = {id(draw.chunk) for draw in batch.draws if draw.role is not Role.FRESH}
        assert replayed <= seen
        seen |= {id(item.chunk) for item in batch.fresh}


@given(outcomes, st.integers(0, 29))
def test_an_interruption_leaves_no_trace(shape: list[tuple[Outcome, int]], cut: int) -> None:
    """Ledger, batches and state after a restart are those of an uninterrupted run, byte for byte."""
    events = stream_of(shape)
    whole = StreamState(settings())
    learn_until = StreamState(settings())
    before = _steps(learn_until, events[:cut])
    resumed = StreamState(settings())
    resumed.restore(
        json.loads(json.dumps(learn_until.document())),
        from_bytes(to_bytes(learn_until.arrays())),
        progress=learn_until.progress,
        totals=learn_until.totals,
        event_time=learn_until.event_time,
    )
    ledger = learn_until.take_ledger()

    after = learn(resumed, events[cut:])

    assert [_told(batch) for batch in before + after] == [_told(batch) for batch in learn(whole, events)]
    assert ledger + resumed.take_ledger() == whole.take_ledger()
    assert resumed.document() == whole.document()
    assert to_bytes(resumed.arrays()) == to_bytes(whole.arrays())


def _steps(state: StreamState, arrivals: list[Arrival]) -> list[Batch]:
    """As `learn`, without the flush: what a run does until it is interrupted."""
    batches: list[Batch] = []
    waiting = list(arrivals)
    while True:
        while state.wants_events and waiting:
            state.admit(waiting.pop(0))
        if (batch := state.next_batch(flush=False)) is None:
            return batches
        state.record(batch, PLAN, result_of(batch), [0.5] * len(batch.sampled))
        batches.append(batch)


def _told(batch: Batch) -> object:
    return (
        [(item.event_id, item.index) for item in batch.fresh],
        [(draw.role, draw.chunk.ids.tolist()) for draw in batch.draws],
        batch.sampled,
    )


@given(outcomes)
def test_the_ledger_has_one_line_for_every_offset_and_every_first_visit(shape: list[tuple[Outcome, int]]) -> None:
    """An auditor can count."""
    events = stream_of(shape)
    state = StreamState(settings())
    learn(state, events)

    lines = [LEDGER_LINE.validate_json(line.model_dump_json()) for line in state.take_ledger()]

    assert [line.offset for line in lines if isinstance(line, EventLine)] == [event.offset for event in events]
    visits = Counter((line.id, line.chunk) for line in lines if isinstance(line, ScoreLine))
    assert visits == Counter((event.id, index) for event in events for index in range(len(event.chunks)))
    assert state.totals.events == len(events)


def test_the_mix_is_kept_over_time() -> None:
    """75 % fresh, 15 % window, 10 % reservoir, by tokens."""
    shares = Shares(window=0.15, reservoir=0.10, anchor=0.0)
    state = StreamState(settings(shares=shares, window=bounds(max_visits=2)))

    batches = learn(state, [arrival(offset) for offset in range(2_000)])

    tokens: Counter[Role] = Counter()
    for batch in batches[10:]:
        for draw in batch.draws:
            tokens[draw.role] += draw.chunk.scored_tokens
    assert tokens[Role.WINDOW] / tokens.total() == pytest.approx(0.15, abs=0.01)
    assert tokens[Role.RESERVOIR] / tokens.total() == pytest.approx(0.10, abs=0.01)


@pytest.mark.parametrize(("share", "founding", "later"), [(0.1, 32, (0, 40)), (1.0, 32, (168, 168)), (0.0, 0, (0, 0))])
def test_the_base_scores_the_first_chunks_all(share: float, founding: int, later: tuple[int, int]) -> None:
    """Whether learning helps is to be known soon; where the base is never asked, not there either."""
    batches = learn(StreamState(settings(base_sample=share, step_chunks=4)), [arrival(offset) for offset in range(200)])

    sampled = [len(batch.sampled) for batch in batches]
    assert sum(len(batch.fresh) for batch in batches) == 200
    assert sum(sampled[:8]) == founding
    assert later[0] <= sum(sampled[8:]) <= later[1]


def test_a_repeated_text_is_learnt_once() -> None:
    """A producer's retry does not count double."""
    state = StreamState(settings())

    assert state.admit(arrival(0, text=5)) is Outcome.ADMITTED
    assert state.admit(arrival(1, text=5)) is Outcome.DUPLICATE
    assert state.waiting == 1
    assert state.progress == {"news": {0: 2}}


def test_a_loss_that_is_not_finite_is_a_null_in_the_ledger() -> None:
    """One broken chunk spoils neither the audit trail nor the averages."""
    state = StreamState(settings(base_sample=1.0))
    state.admit(arrival(0))
    batch = state.next_batch(flush=True)
    assert batch is not None

    state.record(batch, PLAN, making.result_of([float("nan")], applied=False), [1.0])

    line = state.take_ledger()[-1]
    assert isinstance(line, ScoreLine)
    assert line.nll is None
    assert line.flushed
    assert state.scores.live is None
    assert state.totals.steps_dropped == 1
