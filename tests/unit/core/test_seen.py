from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.seen import Seen


def digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_a_text_repeats_within_the_window_only() -> None:
    """A yearly notice is news again next year."""
    seen = Seen(length_s=10.0)

    assert not seen.repeats(digest(1), 0.0)
    assert seen.repeats(digest(1), 5.0)
    assert not seen.repeats(digest(1), 100.0)


def test_a_late_repeat_is_a_repeat() -> None:
    """Producers need not be in step for their copies to be told."""
    seen = Seen(length_s=10.0)
    seen.repeats(digest(1), 20.0)

    assert seen.repeats(digest(1), 15.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100)), max_size=60), st.integers(1, 6))
def test_memory_is_bounded_and_restored_exactly(texts: list[tuple[int, float]], capacity: int) -> None:
    """A restart leaves no trace, and a flood no mark."""
    seen = Seen(length_s=20.0, capacity=capacity)
    for number, ts in texts:
        seen.repeats(digest(number), ts)
        assert len(seen) <= capacity
    other = Seen(length_s=20.0, capacity=capacity)
    other.restore(seen.arrays())

    assert [key.tolist() for key in other.arrays().values()] == [key.tolist() for key in seen.arrays().values()]
