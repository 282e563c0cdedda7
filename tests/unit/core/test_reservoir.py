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
            reservoir.offer(chunk(number, tokens=1), random)
        held[reservoir.arrays()["reservoir.ids"][::2]] += 1

    # 750 expected, standard deviation 24: five of them.
    assert held == pytest.approx(np.full(40, 750.0), abs=120)


@given(st.integers(0, 30), st.integers(0, 60))
def test_it_never_holds_more_than_its_capacity(capacity: int, offered: int) -> None:
    """Memory is bounded whatever the length of the stream."""
    reservoir, random = Reservoir(capacity), np.random.default_rng(0)
    for number in range(offered):
        reservoir.offer(chunk(number), random)

    assert len(reservoir) == min(capacity, offered)
    assert reservoir.offered == offered
    assert (reservoir.draw(random) is None) == (len(reservoir) == 0)
