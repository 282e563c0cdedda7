import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.core.arrays import from_bytes, to_bytes
from streamlearn.core.near_duplicates import PERMUTATIONS, NearDuplicates, signature

LENGTH_S = 100.0


def text(number: int, words: int = 120) -> str:
    """A text of its own."""
    return " ".join(f"w{word}" for word in np.random.default_rng(number).integers(0, 100_000, size=words))


def changed(original: str, every: int) -> str:
    """The text with one word in `every` another."""
    words = original.split()
    words[every // 2 :: every] = [f"x{place}" for place in range(len(words[every // 2 :: every]))]
    return " ".join(words)


def memory(capacity: int = 1000) -> NearDuplicates:
    return NearDuplicates(LENGTH_S, capacity)


def resumed(before: NearDuplicates, capacity: int = 1000) -> NearDuplicates:
    other = memory(capacity)
    other.restore(from_bytes(to_bytes(before.arrays())))
    return other


def test_a_reprint_with_small_changes_is_learnt_once() -> None:
    """Case, punctuation, spacing and a word in sixty make no new text."""
    near = memory()
    original = text(1)

    assert not near.repeats(signature(original), 0.0)
    assert near.repeats(signature(changed(original, 60)), 1.0)
    assert near.repeats(signature(original.upper().replace(" ", ",\n ")), 1.0)
    assert len(near) == 1


def test_a_text_that_shares_less_is_news() -> None:
    """One word in twelve changes a quarter of all runs of three words, and more."""
    near = memory()
    near.repeats(signature(text(1)), 0.0)

    assert not near.repeats(signature(changed(text(1), 12)), 1.0)
    assert not near.repeats(signature(text(2)), 1.0)
    assert len(near) == 3


def test_a_template_with_other_values_is_news() -> None:
    """Short notices alike in form differ in what they say."""
    near = memory()
    host = "The disk of host {} in rack {} is {} percent full and must be looked after by the team on duty today"

    assert [near.repeats(signature(host.format(i, i, i)), 0.0) for i in range(5)] == [False] * 5


def test_too_short_a_text_is_near_nothing() -> None:
    """Two words in common are no copy; exact repeats are told elsewhere."""
    near = memory()

    assert signature("ok, thanks!") is None
    assert signature("") is None
    assert not near.repeats(None, 0.0)
    assert not near.repeats(None, 0.0)


def test_scripts_without_spaces_are_compared_by_character() -> None:
    near = memory()
    near.repeats(signature("今日は天気がとても良いので、公園まで歩いて行き、友達と一緒に昼ご飯を食べました。" * 2), 0.0)

    assert near.repeats(
        signature("今日は天気がとても良いので、公園まで歩いて行き、友達と一緒に昼ご飯を食べました" * 2), 0.0
    )
    assert not near.repeats(
        signature("昨日は雨がひどく降っていたので、家で本を読みながら静かに過ごしていたのです。"), 0.0
    )


def test_a_text_is_news_again_after_the_window() -> None:
    """A yearly notice comes back next year."""
    near = memory()
    near.repeats(signature(text(1)), 0.0)

    assert near.repeats(signature(text(1)), LENGTH_S)
    assert near.repeats(signature(text(1)), 2 * LENGTH_S)
    assert not near.repeats(signature(text(1)), 3 * LENGTH_S + 1.0)


def test_a_late_copy_from_before_the_window_is_news() -> None:
    """The window reaches as far back from a text as it reaches forward."""
    near = memory()
    near.repeats(signature(text(1)), 200.0)

    assert near.repeats(signature(text(1)), 200.0 - LENGTH_S)
    assert not near.repeats(signature(text(1)), 200.0 - LENGTH_S - 1.0)


def test_what_the_index_takes_for_near_is_compared() -> None:
    """datasketch's index alone would drop one in twelve texts that share 0.7 of their runs of words."""
    near = memory()
    for number in range(60):
        near.repeats(signature(text(number)), 0.0)

    assert sum(near.repeats(signature(changed(text(number), 17)), 0.0) for number in range(60)) <= 1


def test_of_two_near_texts_the_nearest_is_kept_alive_after_a_restart_too() -> None:
    """Which one is forgotten first must not hang on the numbers that the index gave them."""
    tried = 0
    for number in range(12):
        words = text(number).split()
        one, other = list(words), list(words)
        one[10], one[30] = "x", "y"
        other[50], other[70], other[90] = "x", "y", "z"
        whole = memory()
        if [whole.repeats(signature(" ".join(each)), 0.0) for each in (one, other, one)] != [False, False, True]:
            continue
        second = resumed(whole)
        if whole.repeats(signature(text(number)), 1.0):
            tried += 1
            second.repeats(signature(text(number)), 1.0)
            assert to_bytes(second.arrays()) == to_bytes(whole.arrays())

    assert tried >= 5


def test_small_changes_do_not_add_up() -> None:
    """Each copy is compared with the first, so that a chain leads nowhere far."""
    near = memory()
    words = text(1).split()
    found = []
    for step in range(0, 60, 2):
        words[step] = f"x{step}"
        found.append(near.repeats(signature(" ".join(words)), 0.0))

    assert found[0] is False
    assert True in found
    assert found.count(False) > 1


def test_a_signature_is_the_same_on_every_machine() -> None:
    """It is compared with those of a checkpoint from another process."""
    made = signature("the quick brown fox jumps over the lazy dog again")

    assert made is not None
    assert (str(made.dtype), made.shape) == ("uint32", (PERMUTATIONS,))
    assert made[:3].tolist() == [1277757202, 167850897, 251885177]


def test_lone_surrogates_and_endless_texts_are_taken_as_they_come() -> None:
    """No text of a stream may stop it, nor hold it up."""
    assert signature("one \ud800 two three four five six seven eight") is not None
    assert signature("word " * 1_000_000 + text(1)) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 300)), max_size=40), st.integers(0, 40), st.integers(1, 6))
def test_memory_is_bounded_and_a_restart_leaves_no_trace(
    texts: list[tuple[int, float]], cut: int, capacity: int
) -> None:
    """The same texts are told after a crash as without one."""
    whole, first = memory(capacity), memory(capacity)
    signatures = [signature(changed(text(number // 3), 50 + number)) for number in range(10)]
    expected = [whole.repeats(signatures[number], ts) for number, ts in texts]
    before = [first.repeats(signatures[number], ts) for number, ts in texts[:cut]]
    second = resumed(first, capacity)
    after = [second.repeats(signatures[number], ts) for number, ts in texts[cut:]]

    assert before + after == expected
    assert len(whole) <= capacity
    assert to_bytes(second.arrays()) == to_bytes(whole.arrays())


@pytest.mark.parametrize("count", [0, 3])
def test_the_whole_state_is_plain_arrays(count: int) -> None:
    """Nothing of a checkpoint is ever unpickled."""
    near = memory()
    for number in range(count):
        near.repeats(signature(text(number)), float(number))
    arrays = near.arrays()

    assert {name: array.shape for name, array in arrays.items()} == {
        "near.signatures": (count, PERMUTATIONS),
        "near.ts": (count,),
        "near.newest": (1,),
    }
    assert len(resumed(near)) == count
