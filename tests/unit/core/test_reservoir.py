"""A sample of the whole past in which no source is lost."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.reservoir import Reservoir
from tests.unit.core.making import chunk


def test_every_chunk_of_the_past_is_equally_likely_to_be_held() -> None:
    """Replay knows no favourite period."""
    random = np.random.default_rng(0)
    held = np.zeros(40)
    for _ in range(3_000):
        reservoir = Reservoir(10)
        for number in range(40):
            reservoir.offer(chunk(number, tokens=1), "one", number, random)
        held[reservoir.arrays()["reservoir.ids"][::2]] += 1

    # 750 expected, standard deviation 24: five of them.
    assert held == pytest.approx(np.full(40, 750.0), abs=120)


def test_every_chunk_of_the_past_is_equally_likely_to_be_drawn_whatever_its_source() -> None:
    """A source that spoke nine times as much is replayed nine times as often, though it holds no more room."""
    random = np.random.default_rng(0)
    drawn = np.zeros(40)
    for _ in range(1_500):
        reservoir = Reservoir(8)
        for number in range(40):
            # One chunk in ten is the minority's, and it comes late.
            reservoir.offer(chunk(number, tokens=1), "minority" if number >= 36 else "majority", number, random)
        for _ in range(4):
            drawn[int(reservoir.draw(random).ids[0])] += 1  # type: ignore[union-attr]

    # 150 expected. Draws of one reservoir hang together (4 of 36 held), so the spread is up to 21: five of them.
    assert drawn == pytest.approx(np.full(40, 150.0), abs=105)
    assert drawn[36:].sum() == pytest.approx(600, abs=120)


def test_a_minority_is_kept_however_long_the_others_talk() -> None:
    """A source that spoke long ago and little is not lost by bad luck."""
    random = np.random.default_rng(0)
    for _ in range(50):
        reservoir = Reservoir(16)
        for number in range(4):
            reservoir.offer(chunk(number), "early", number, random)
        for number in range(4, 2_000):
            reservoir.offer(chunk(number), "loud", number, random)
        held = {int(ids) for ids in reservoir.arrays()["reservoir.ids"]}
        assert held >= {0, 1, 2, 3}


def test_more_sources_than_it_can_tell_apart_share_a_sample() -> None:
    """A thousand names do not leave each other with a chunk and the memory with a thousand."""
    random = np.random.default_rng(0)
    reservoir = Reservoir(200)
    for number in range(3_000):
        reservoir.offer(chunk(number % 1_000), f"source {number % 1_000}", number, random)

    assert len(reservoir) == 200, "and none of it is left empty because each of them says little"
    assert len(reservoir.document()) == 50
    assert reservoir.offered == 3_000


@given(st.integers(0, 30), st.lists(st.integers(0, 40), max_size=60))
def test_it_never_holds_more_than_its_capacity(capacity: int, sources: list[int]) -> None:
    """Memory is bounded whatever the length of the stream."""
    reservoir, random = Reservoir(capacity), np.random.default_rng(0)
    for number, source in enumerate(sources):
        reservoir.offer(chunk(number), str(source), number, random)

    assert len(reservoir) <= capacity
    assert reservoir.offered == (len(sources) if capacity else 0)
    assert (reservoir.draw(random) is None) == (len(reservoir) == 0)
    assert len(reservoir) == min(capacity, len(sources))


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 60))
def test_a_restored_reservoir_goes_on_as_the_one_before(sources: list[int], cut: int) -> None:
    """A restart leaves no trace."""
    one, other = Reservoir(7), Reservoir(7)
    random, twin = np.random.default_rng(1), np.random.default_rng(1)
    for number, source in enumerate(sources[:cut]):
        one.offer(chunk(number), str(source), number, random)
    other.restore(json.loads(json.dumps(one.document())), one.arrays())
    twin.bit_generator.state = random.bit_generator.state

    for number, source in enumerate(sources[cut:]):
        one.offer(chunk(number), str(source), number, random)
        other.offer(chunk(number), str(source), number, twin)

    assert other.document() == one.document()
    assert other.arrays()["reservoir.ids"].tolist() == one.arrays()["reservoir.ids"].tolist()


@pytest.mark.parametrize(
    "told",
    [
        [],
        [{"source": "a", "chunks": 1, "offered": 9}],
        [{"source": "a", "chunks": 2, "offered": 1}],
        [{"source": "a", "chunks": 3, "offered": 9}, {"source": "b", "chunks": -1, "offered": 9}],
        [{"source": "a", "chunks": 1, "offered": 9}, {"source": "a", "chunks": 1, "offered": 9}],
    ],
)
def test_sources_that_do_not_fit_the_chunks_are_refused(told: list[dict[str, object]]) -> None:
    """Somebody else's state is no state of ours."""
    reservoir, random = Reservoir(4), np.random.default_rng(0)
    reservoir.offer(chunk(0), "a", 0, random)
    reservoir.offer(chunk(1), "a", 1, random)

    with pytest.raises(ValueError, match="reservoir"):
        Reservoir(4).restore(told, reservoir.arrays())


def test_what_is_dropped_is_drawn_no_more_and_the_rest_as_before() -> None:
    """Chunks of a version that was taken back are not replayed, and their source does not outweigh the others."""
    random = np.random.default_rng(3)
    reservoir = Reservoir(64)
    for number in range(40):
        reservoir.offer(chunk(number), "good" if number < 20 else "bad", number, random)

    reservoir.drop(30, 40)

    drawn = drawn_from(reservoir, 600, random)
    assert set(drawn) == set(range(30))
    assert 330 < sum(number < 20 for number in drawn) < 470, "two thirds, as of what is left"
    restored = Reservoir(64)
    restored.restore(json.loads(json.dumps(reservoir.document())), reservoir.arrays())
    restored.drop(0, 25)
    assert set(drawn_from(restored, 200, random)) == set(range(25, 30))


def drawn_from(reservoir: Reservoir, times: int, random: np.random.Generator) -> list[int]:
    return [int(drawn.ids[0]) for _ in range(times) if (drawn := reservoir.draw(random)) is not None]
