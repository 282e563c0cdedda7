from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.caps import SourceCaps
from tests.unit.core.judging import CAPS, through_json

TOKENS = 100


def test_a_flood_is_held_to_its_share() -> None:
    """One of forty sources sends nine events in ten and gets a tenth of the learning."""
    caps = SourceCaps(CAPS)
    learnt: dict[str, int] = {}
    for number in range(8000):
        source = f"s{number // 10 % 39}" if number % 10 == 0 else "flood"
        if caps.admits(source, TOKENS, float(number)):
            learnt[source] = learnt.get(source, 0) + 1

    assert learnt.pop("flood") / (800 + sum(learnt.values())) < 0.12
    # Those who write at their usual pace lose nothing.
    assert sum(learnt.values()) == 800


def test_a_stream_of_one_source_is_learnt_whole() -> None:
    """A cap on shares must not starve a stream that has but one topic."""
    caps = SourceCaps(CAPS)

    assert all(caps.admits("only", TOKENS, float(number)) for number in range(3000))


def test_with_few_sources_twice_a_fair_part_is_allowed() -> None:
    """Six projects of unlike size are a stream, not an attack: the largest may have a third."""
    caps = SourceCaps(CAPS)
    for number in range(6000):
        caps.admits(f"s{number % 5}", TOKENS, float(number))
        for _ in range(9):
            caps.admits("large", TOKENS, float(number))

    assert caps.shares()["large"] == pytest.approx(1 / 3, abs=0.01)


def test_a_young_stream_has_no_shares_to_speak_of() -> None:
    """The first events of a source among many pass, whoever was faster."""
    caps = SourceCaps(replace(CAPS, fair_parts=0.0))

    assert [caps.admits("first", TOKENS, 0.0) for _ in range(11)] == [True] * 10 + [False]


def test_a_source_may_have_no_more_chunks_than_configured() -> None:
    caps = SourceCaps(replace(CAPS, max_chunks=5))

    assert [caps.admits("only", TOKENS, 0.0) for _ in range(6)] == [True] * 5 + [False]


def test_what_was_learnt_is_forgotten_by_half_lives() -> None:
    """A source that was loud last week is not held to it."""
    caps = SourceCaps(replace(CAPS, max_chunks=4))
    assert [caps.admits("only", TOKENS, 0.0) for _ in range(5)] == [True] * 4 + [False]

    assert [caps.admits("only", TOKENS, 1000.0) for _ in range(3)] == [True, True, False]
    assert caps.admits("other", TOKENS, 50_000.0)
    assert caps.shares() == {"other": 1.0}


def test_names_without_number_take_no_memory_without_bound() -> None:
    """Whoever invents a source for every event fills no checkpoint."""
    caps = SourceCaps(replace(CAPS, max_sources=10))
    for number in range(1000):
        caps.admits(f"s{number}", TOKENS + number, 0.0)

    assert len(caps.document()["counts"]) == 10


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 500), st.floats(0, 5000)), max_size=80), st.integers(0, 80))
def test_a_restart_leaves_no_trace(chunks: list[tuple[int, int, float]], cut: int) -> None:
    """Whatever the order of event times, and of keys in the checkpoint."""
    settings = replace(CAPS, free_tokens=300, max_sources=3)
    whole, first, second = SourceCaps(settings), SourceCaps(settings), SourceCaps(settings)
    expected = [whole.admits(f"s{9 - source}", tokens, ts) for source, tokens, ts in chunks]
    before = [first.admits(f"s{9 - source}", tokens, ts) for source, tokens, ts in chunks[:cut]]
    second.restore(through_json(first.document()))
    after = [second.admits(f"s{9 - source}", tokens, ts) for source, tokens, ts in chunks[cut:]]

    assert before + after == expected
    assert second.document() == whole.document()
    assert second.shares() == whole.shares()
