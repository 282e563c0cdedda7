"""What of a text is kept."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.events import Completion, Content, Conversation, Message, Plain
from streamlearn.ingest.clean import DIGEST_BYTES, Cleaned, Cleaner, clean_text
from streamlearn.ingest.rejecting import Rejected


def clean(content: Content, *, min_chars: int = 1, max_chars: int = 100) -> Cleaned:
    return Cleaner(min_chars=min_chars, max_chars=max_chars).clean(content)


def error_of(content: Content) -> str:
    with pytest.raises(Rejected) as caught:
        clean(content)
    assert caught.value.rejection.stage == "clean"
    return caught.value.rejection.error


def talk(*turns: tuple[str, str]) -> Conversation:
    return Conversation(messages=tuple(Message(role=role, content=text) for role, text in turns))


@given(st.text())
def test_a_cleaned_text_is_clean_and_stays_as_it_is(text: str) -> None:
    """Cleaning twice changes nothing, so that the digest is one of the text and not of its history."""
    cleaned = clean_text(text)

    assert unicodedata.is_normalized("NFC", cleaned)
    assert not {c for c in cleaned if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    assert clean_text(cleaned) == cleaned


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"])))
def test_nothing_else_is_touched(text: str) -> None:
    assert clean_text(text) == unicodedata.normalize("NFC", text)


def test_line_ends_become_one_kind() -> None:
    assert clean_text("a\r\nb\rc\n\r\nd") == "a\nb\nc\n\nd"


def test_texts_that_differ_only_in_what_cleaning_removes_are_the_same_text() -> None:
    one, other = clean(Plain(text="café\nx")), clean(Plain(text="cafe\u0301\r\n\x00x"))

    assert one.content == other.content
    assert one.digest == other.digest
    assert len(one.digest) == DIGEST_BYTES


def test_contents_that_differ_have_different_digests() -> None:
    """A duplicate that is none would never be learnt."""
    contents: list[Content] = [
        Plain(text="ab"),
        Plain(text="a b"),
        Completion(prompt="a", completion="b"),
        Completion(prompt="", completion="ab"),
        talk(("assistant", "ab")),
        talk(("assistant", "a"), ("assistant", "b")),
        talk(("user", "a"), ("assistant", "b")),
    ]

    assert len({clean(content).digest for content in contents}) == len(contents)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (Plain(text=""), "Empty"),
        (Plain(text=" \r\n\t\x00\u2003"), "Empty"),
        (Completion(prompt="p", completion=" "), "Empty"),
        (talk(("user", ""), ("assistant", " ")), "Empty"),
        (Plain(text="x" * 101), "TooLong"),
        (Completion(prompt="x" * 100, completion="y"), "TooLong"),
        (talk(("user", "x" * 60), ("assistant", "x" * 60)), "TooLong"),
        (Plain(text="x\ud800"), "LoneSurrogate"),
        (talk(("assistant", "\udfffx")), "LoneSurrogate"),
        (Plain(text="a" + "\u0301" * 101), "TooManyMarks"),
    ],
)
def test_a_bad_text_has_a_stable_name_for_what_is_wrong(content: Content, error: str) -> None:
    assert error_of(content) == error


def test_too_short_is_not_wrong_only_not_enough() -> None:
    """A one-word event is filtered, no dead letter."""
    assert not clean(Plain(text="  ok  "), min_chars=3).enough
    assert clean(Plain(text="okay"), min_chars=3).enough
    assert not clean(Completion(prompt="a long prompt", completion="ok"), min_chars=3).enough
    assert not clean(talk(("user", "only a question"))).enough


def test_length_counts_after_cleaning() -> None:
    assert clean(Plain(text="\x00" * 200 + "x" * 100)).enough


def test_hostile_marks_are_answered_in_a_moment() -> None:
    """Putting 200,000 combining marks in order would take half a minute."""
    began = time.monotonic()

    with pytest.raises(Rejected):
        clean(Plain(text="a" + "\u0301\u0316" * 100_000), max_chars=200_000)
    clean(Plain(text=("a" + "\u0301\u0316" * 45) * 2_000), max_chars=200_000)

    assert time.monotonic() - began < 2.0
