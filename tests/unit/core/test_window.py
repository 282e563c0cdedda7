import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.window import Window
from tests.unit.core.making import bounds, chunk


def filled(window: Window, times: list[float]) -> Window:
    for number, ts in enumerate(times):
        window.add(chunk(number), ts, number)
    return window


@given(st.lists(st.floats(0, 1e6), max_size=60), st.integers(1, 20), st.integers(20, 400))
def test_the_window_keeps_its_bounds(times: list[float], floor: int, max_tokens: int) -> None:
    """Memory and checkpoints stay as small as configured, whatever the order of event times."""
    window = filled(
        Window(bounds(half_life_s=1e4, length_s=3e4, min_effective_chunks=floor, max_tokens=max_tokens)), times
    )

    assert window.tokens <= max(max_tokens, 9)
    assert len(window) * 9 == window.tokens
    held = window.arrays()["window.ts"]
    young = (max(times, default=0.0) - held) <= 3e4
    assert young.all() or len(window) <= floor


def test_draws_follow_the_decay() -> None:
    """A chunk one half-life older is replayed half as often."""
    window = filled(Window(bounds(half_life_s=100.0)), [0.0, 100.0, 200.0])
    random = np.random.default_rng(0)

    drawn = [window.draw(random) for _ in range(14_000)]

    counts = np.bincount([int(item.ids[0]) for item in drawn if item is not None])
    assert counts / 14_000 == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=0.02)


def test_no_chunk_is_visited_more_often_than_allowed() -> None:
    """Replay is rehearsal, not memorising."""
    window = filled(Window(bounds(max_visits=2)), [0.0, 1.0, 2.0])
    random = np.random.default_rng(0)

    drawn = [window.draw(random) for _ in range(7)]

    assert np.bincount([int(item.ids[0]) for item in drawn if item is not None]).tolist() == [2, 2, 2]
    assert drawn[6] is None


def test_chunks_that_are_dropped_are_drawn_no_more() -> None:
    """What a version learnt that was taken back is not taught again, and its room is given back."""
    window = filled(Window(bounds(half_life_s=100.0)), [0.0, 1.0, 2.0, 3.0, 4.0])
    random = np.random.default_rng(0)

    window.drop(1, 3)

    assert {int(drawn.ids[0]) for _ in range(60) if (drawn := window.draw(random)) is not None} == {0, 3, 4}
    assert window.tokens == 3 * 9


def test_a_very_old_chunk_can_still_be_drawn_alone() -> None:
    """Weights that underflow do not end in a division by nothing."""
    window = filled(Window(bounds(half_life_s=1e-9, max_visits=1)), [0.0, 1e9])
    random = np.random.default_rng(0)

    assert {int(item.ids[0]) for item in (window.draw(random), window.draw(random)) if item is not None} == {0, 1}


def test_a_restored_window_knows_the_newest_event_it_no_longer_holds() -> None:
    """Age is against the newest event seen, which may have left for want of tokens."""
    tight = bounds(length_s=50.0, max_tokens=45)
    whole, resumed = Window(tight), filled(Window(tight), [])
    filled(whole, [100.0, 60.0, 60.0, 60.0, 60.0, 60.0])
    resumed.restore(whole.arrays())
    for window in (whole, resumed):
        window.add(chunk(9), 20.0, 9)
    assert resumed.arrays()["window.ts"].tolist() == whole.arrays()["window.ts"].tolist()


@given(st.lists(st.floats(0, 1e6), max_size=20), st.integers(0, 5))
def test_a_restored_window_draws_as_the_one_before(times: list[float], draws: int) -> None:
    """A restart leaves no trace."""
    one, random = filled(Window(bounds(max_visits=3)), times), np.random.default_rng(1)
    for _ in range(draws):
        one.draw(random)
    other = Window(bounds(max_visits=3))
    other.restore(one.arrays())
    twin = np.random.default_rng(1)
    twin.bit_generator.state = random.bit_generator.state

    for _ in range(10):
        mine, theirs = one.draw(random), other.draw(twin)
        assert (mine is None) == (theirs is None)
        assert mine is None or theirs is None or mine.ids.tolist() == theirs.ids.tolist()
    assert one.tokens == other.tokens
