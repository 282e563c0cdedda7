"""One stream lived in one go, from what a ledger says: the yardstick for lives that were interrupted.

A ledger names every event in the order in which it was admitted, and every
batch by its score lines. With the events themselves that is a recipe: whoever
follows it must come to the same lines and the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from streamlearn.core.events import Arrival
from streamlearn.core.manifest import EventLine, ScoreLine
from streamlearn.core.stream import Batch, StreamState


def replay(
    state: StreamState,
    ledger: Sequence[EventLine | ScoreLine],
    arrivals: Mapping[tuple[str, int, int], Arrival],
    learn: Callable[[Batch], object],
) -> list[EventLine | ScoreLine]:
    """Let `state`, which is new, live what `ledger` says and return the lines that it writes.

    Args:
        arrivals: by topic, partition and offset.
        learn: takes a step on a batch, and records it in `state`.

    Raises:
        AssertionError: the ledger says a step was taken where none can be, or where an event should have come first.
    """
    lines: list[EventLine | ScoreLine] = []
    while len(lines) < len(ledger):
        told = ledger[len(lines)]
        if isinstance(told, EventLine):
            assert state.wants_events, f"{told} was admitted while a whole batch waited"
            state.admit(arrivals[told.topic, told.partition, told.offset])
        else:
            batch = state.next_batch(flush=told.flushed)
            assert batch is not None, f"{told} was scored before a batch had come together, and not by a flush"
            learn(batch)
        lines.extend(state.take_ledger())
    return lines
