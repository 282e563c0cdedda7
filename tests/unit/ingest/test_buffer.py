"""Between two threads, bounded."""

from __future__ import annotations

import threading

import numpy as np

from streamlearn.core.events import Arrival, Chunk, Outcome
from streamlearn.ingest.buffer import Buffer, size_of
from tests.unit.ingest.making import DEADLINE_S, record


def arrival(offset: int, *, tokens: int = 0, value: bytes | None = None) -> Arrival:
    chunk = Chunk(ids=np.zeros(tokens, np.int32), scored=np.zeros(tokens, np.bool_), text_bytes=tokens)
    return Arrival(
        id=str(offset),
        topic="news",
        partition=0,
        offset=offset,
        ts=0.0,
        source="news",
        outcome=Outcome.ADMITTED,
        chunks=(chunk,) if tokens else (),
        record=record(value) if value is not None else None,
    )


def test_what_goes_in_comes_out_in_order() -> None:
    buffer = Buffer(max_records=10, max_bytes=10**6)
    for offset in range(5):
        buffer.put(arrival(offset))

    assert [taken.offset for _ in range(5) if (taken := buffer.take(0.0))] == [0, 1, 2, 3, 4]
    assert buffer.take(0.0) is None
    assert (buffer.records, buffer.bytes, buffer.waiting()) == (0, 0, {})


def test_it_is_full_at_either_bound_and_low_below_half_of_both() -> None:
    buffer = Buffer(max_records=4, max_bytes=10**9)
    states = []
    for offset in range(4):
        buffer.put(arrival(offset))
        states.append((buffer.low, buffer.full))
    assert states == [(True, False), (False, False), (False, False), (False, True)]

    heavy = Buffer(max_records=100, max_bytes=100_000)
    heavy.put(arrival(0, value=b"x" * 60_000))
    assert (heavy.low, heavy.full) == (False, False)
    heavy.put(arrival(1, tokens=10_000))
    assert heavy.full


def test_one_arrival_larger_than_the_bound_still_passes() -> None:
    """A bound below the largest event must not stop the stream for ever."""
    buffer = Buffer(max_records=10, max_bytes=10)
    assert not buffer.full
    buffer.put(arrival(0, tokens=1_000))
    assert buffer.full
    assert buffer.take(0.0) is not None
    assert buffer.low


def test_bytes_are_those_of_arrays_and_originals() -> None:
    assert size_of(arrival(0, tokens=1_000)) - size_of(arrival(0, tokens=1)) == 5 * 999
    assert size_of(arrival(0, value=b"x" * 1_000)) - size_of(arrival(0, value=b"")) == 1_000


def test_taking_waits_for_an_arrival() -> None:
    buffer = Buffer(max_records=10, max_bytes=10**6)
    taken: list[Arrival | None] = []
    waiting = threading.Thread(target=lambda: taken.append(buffer.take(DEADLINE_S)))
    waiting.start()

    buffer.put(arrival(3))
    waiting.join(DEADLINE_S)

    assert [a.offset for a in taken if a] == [3]


def test_closing_wakes_everybody_and_keeps_what_is_there() -> None:
    buffer = Buffer(max_records=1, max_bytes=10**6)
    buffer.put(arrival(0))
    blocked = threading.Thread(target=buffer.wait_not_full, args=(DEADLINE_S,))
    blocked.start()

    buffer.close()
    blocked.join(DEADLINE_S)

    assert not blocked.is_alive()
    assert buffer.take(0.0) is not None
    assert buffer.take(DEADLINE_S) is None, "returns at once"


def test_a_partition_is_passed_when_its_last_arrival_is_taken_or_only_a_gap_is_left() -> None:
    buffer = Buffer(max_records=10, max_bytes=10**6)
    buffer.put(arrival(4))
    assert not buffer.passed("news", 0, 5, reached=7)
    buffer.take(0.0)
    assert buffer.passed("news", 0, 5, reached=0), "taken"
    assert not buffer.passed("news", 0, 7, reached=6)
    assert buffer.passed("news", 0, 7, reached=7), "5 and 6 are a gap"
    assert buffer.passed("news", 1, 0, reached=0), "an empty partition"
