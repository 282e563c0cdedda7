"""Any bytes on a topic become one arrival: an event, or a dead letter that says why; soon, and within memory."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamlearn.core.events import Arrival, Outcome
from streamlearn.core.manifest import EventLine
from streamlearn.ingest.clean import clean_text
from streamlearn.ingest.refine import Refiner
from streamlearn.ingest.rejecting import Rejected
from tests.fuzz.hostile import LEAVES, as_json, mutations, within
from tests.unit.ingest.making import SystemClock, WordChunker, ingest, record

FIELDS = {"text": "text", "id": "id", "ts": "ts", "source": "source"}
REFINERS = {
    "json": Refiner(ingest(fields=FIELDS), WordChunker(), SystemClock()),
    "text": Refiner(ingest(format="text"), WordChunker(), SystemClock()),
    "json, of one field": Refiner(ingest(), WordChunker(), SystemClock()),
}
EVENTS: list[dict[str, Any]] = [
    {"id": "a", "ts": 1.7e9, "source": "s", "text": "some words"},
    {"id": 7, "ts": "2026-11-01T12:00:00Z", "source": "s", "text": {"prompt": "p", "completion": "words"}},
    {"id": "a", "ts": 1.7e12, "source": 3, "prompt": "p", "completion": "words", "label": True},
    {
        "id": "a",
        "ts": 1,
        "source": "s",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    },
]
EVERY = pytest.mark.parametrize("refiner", REFINERS.values(), ids=REFINERS.keys())


def refined(refiner: Refiner, value: bytes | None) -> Arrival:
    """Return the record's arrival, which can be admitted, and written to and read from a ledger."""
    arrival = refiner.refine(record(value))
    assert math.isfinite(arrival.ts)
    assert (arrival.topic, arrival.partition, arrival.offset) == ("news", 2, 7)
    assert len(arrival.id) <= 1_000
    assert len(arrival.source) <= 200
    if arrival.outcome is Outcome.DEAD_LETTER:
        assert arrival.rejection is not None
        assert arrival.rejection.error.isidentifier()
        assert len(arrival.rejection.message) < 1_000
        assert arrival.rejection.message.isprintable()
        assert arrival.rejection.message.encode()
    line = EventLine(
        id=arrival.id, topic="news", partition=2, offset=7, ts=arrival.ts, outcome=arrival.outcome,
        chunks=len(arrival.chunks), tokens=sum(c.scored_tokens for c in arrival.chunks),
    )  # fmt: skip
    assert EventLine.model_validate_json(line.model_dump_json()) == line
    return arrival


@EVERY
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(None)
@example(b"\xef\xbb\xbf")
@settings(deadline=None)
def test_any_bytes_become_one_arrival(refiner: Refiner, value: bytes | None) -> None:
    refined(refiner, value)


@EVERY
@pytest.mark.parametrize("event", EVENTS, ids=["text", "pair in a field", "pair", "chat"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_event_with_something_wrong_becomes_one_arrival(
    refiner: Refiner, event: dict[str, Any], data: st.DataObject
) -> None:
    refined(refiner, as_json(data.draw(mutations(event))))


@pytest.mark.parametrize("name", [*FIELDS, "prompt", "completion", "messages", "label"])
@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: repr(leaf)[:20])
def test_any_value_in_any_field_becomes_one_arrival(name: str, leaf: Any) -> None:
    for event in EVENTS:
        refined(REFINERS["json"], as_json(event | {name: leaf}))


@given(
    ts=st.floats()
    | st.integers(-(10**299), 10**299)
    | st.datetimes().map(str)
    | st.text("0123456789-:.TZ+W", max_size=40)
)
@example(ts=-62_135_596_800.0)
@example(ts=-62_135_596_800.1)
@example(ts=253_402_300_799.99997)
@example(ts="0001-01-01T00:00:00+23:59")
@example(ts="9999-12-31T23:59:59-23:59")
@example(ts=-0.0)
@settings(deadline=None, max_examples=200)
def test_any_time_becomes_one_arrival(ts: Any) -> None:
    """Year 1, year 9999, no number, infinity: never a time that a ledger or a window could not hold."""
    arrival = refined(REFINERS["json"], as_json(EVENTS[0] | {"ts": ts}))

    assert arrival.outcome is Outcome.DEAD_LETTER or -62_135_596_800.0 <= arrival.ts < 253_402_300_800.0


N = 10**5
BYTES = 4 * 2**20 - 100
"""Just under `ingest.max_record_bytes`."""
HOSTILE: dict[str, tuple[bytes, str]] = {
    "100 MB": (b"x" * 100_000_000, "RecordTooLarge"),
    "50 MB of text": (b'{"text": "' + b"word " * 10_000_000 + b'"}', "RecordTooLarge"),
    "lists, 10^5 deep": (b"[" * N, "TooDeep"),
    "lists, 10^5 deep, and closed": (b"[" * N + b"]" * N, "TooDeep"),
    "objects, 10^5 deep": (b'{"text":' * N + b"1" + b"}" * N, "TooDeep"),
    "a text below 10^5 lists": (b'{"x":' + b"[" * N + b"]" * N + b',"text":"a"}', "TooDeep"),
    "a number of 10^6 digits": (b'{"text": "a", "ts": ' + b"9" * 10**6 + b"}", "HugeNumber"),
    "a fraction of 10^6 digits": (b'{"text": "a", "n": 0.' + b"9" * 10**6 + b"}", "HugeNumber"),
    "an exponent of 10^6 digits": (b'{"text": "a", "n": 1e' + b"9" * 10**6 + b"}", "HugeNumber"),
    "a bare number of 10^6 digits": (b"-" + b"9" * 10**6, "HugeNumber"),
    "NaN": (b'{"text": "a", "ts": NaN}', "NotJson"),
    "a string without an end": (b'{"text": "' + b"a" * BYTES, "NotJson"),
    "quotes and backslashes": (b'{"text": "' + b"\\" * (BYTES - 20), "NotJson"),
    "a million keys": (b"{" + b",".join(b'"%d":0' % n for n in range(300_000)) + b"}", "MissingField"),
    "a million objects": (b"[" + b"{}," * (BYTES // 3 - 1) + b"{}]", "NotObject"),
    "a million objects of one": (b'{"x":[' + b'{"":0},' * (BYTES // 7 - 2) + b"{}]}", "MissingField"),
    "a million messages": (b'{"messages":[' + b"{}," * (BYTES // 3 - 20) + b"{}]}", "TooLong"),
    "a key of megabytes": (b'{"' + b"k" * (BYTES - 20) + b'":0}', "MissingField"),
    "half a character": (b'{"text": "\\ud83d", "id": "a", "ts": 1, "source": "s"}', "LoneSurrogate"),
    "half a character in an id": (b'{"text": "a", "id": "\\udc00", "ts": 1, "source": "s"}', "LoneSurrogate"),
    "half a UTF-8 sequence": ('{"text": "ä"}'.encode()[:-3], "NotUtf8"),
    "an overlong NUL": (b'{"text": "\xc0\x80"}', "NotUtf8"),
    "an encoded surrogate": (b'{"text": "\xed\xa0\x80"}', "NotUtf8"),
    "UTF-16": ('{"text": "a"}'.encode("utf-16"), "NotUtf8"),
    "gzip": (b"\x1f\x8b\x08\x00" + b"\x00" * 20, "NotUtf8"),
    "a pickle": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "NotUtf8"),
    "only a mark of byte order": (b"\xef\xbb\xbf", "NotJson"),
    "only NULs": (b'{"text": "' + b"\\u0000" * 1_000 + b'", "id": "a", "ts": 1, "source": "s"}', "Empty"),
    "an id of 10 kB": (b'{"text": "a", "ts": 1, "source": "s", "id": "' + b"i" * 10_240 + b'"}', "TooLong"),
    "a text that is longer than allowed": (
        b'{"id": "a", "ts": 1, "source": "s", "text": "' + b"w " * (BYTES // 2 - 40) + b'"}', "TooLong",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("value", "error"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_record_is_a_dead_letter_with_its_reason(value: bytes, error: str) -> None:
    """In time linear in its bytes, which are bounded, and about thirty times as many of memory at most."""
    with within(seconds=10, megabytes=160):
        arrival = refined(REFINERS["json"], value)

    assert arrival.rejection is not None
    assert arrival.rejection.error == error


def test_of_equal_keys_the_last_counts() -> None:
    """Every reader of the record must see the same text, so it is said which."""
    twice = REFINERS["json, of one field"].refine(record(b'{"text": "first one", "text": "nothing"}'))
    assert twice.outcome is Outcome.FILTERED


# --- Unicode ------------------------------------------------------------------

_CROWDS = {
    "one mark": "\u0301",
    "marks out of order": "\u0301\u0316",
    "zalgo": "".join(map(chr, range(0x300, 0x370))),
    "no marks that are two": "\u0f73",
    "more of them": "\u0f73\u0f75\u0f81",
    "Hebrew points": "\u05b0\u05bc\u05c1",
    "musical marks": "\U0001d165\U0001d16e",
}


@pytest.mark.parametrize("crowd", _CROWDS.values(), ids=_CROWDS.keys())
def test_marks_without_end_are_no_text(crowd: str) -> None:
    """Putting n of them in order takes n² steps: a megabyte would hold the stream up for hours."""
    text = "a" + crowd * (10**6 // len(crowd))
    with within(seconds=5), pytest.raises(Rejected) as refusal:
        clean_text(text)
    assert refusal.value.rejection.error == "TooManyMarks"


EXPANDING = {
    "18 letters under another form": "\ufdfa",
    "3 characters": "\ufb2c",
    "3 characters of music": "\U0001d160",
    "2 of Tibetan, with a base": "\u0f40\u0f73",
    "syllables that come together": "\u1100\u1161\u11a8",
    "marks as many as allowed": "a" + "\u0301\u0316" * 49,
    "a base that takes all marks after it": "\u1e9b\u0323",
    "not joined": "\u200d\u200c\u2060\ufeff",
    "flags": "\U0001f1e6",
    "tags": "\U000e0061",
    "no characters": "\ufdd0\U0010ffff",
}


@pytest.mark.parametrize("text", EXPANDING.values(), ids=EXPANDING.keys())
def test_no_text_becomes_much_more_by_cleaning(text: str) -> None:
    """NFC makes at most three characters of one (UAX 15); the form that makes 18 is not ours."""
    long = text * (10**6 // len(text))
    with within(seconds=10, megabytes=120):
        cleaned = clean_text(long)
    assert len(cleaned) <= 3 * len(long)


def test_no_character_slips_past_the_bound_on_marks() -> None:
    """Of this Python's Unicode: whatever a character comes apart into, many of it in a row are told."""
    with within(seconds=30):
        for code in range(0x20000):
            character = chr(code)
            apart = unicodedata.normalize("NFD", character)
            if apart != character or unicodedata.combining(character):
                try:
                    clean_text(character * 300)
                except Rejected as refusal:
                    if refusal.rejection.error != "TooManyMarks":
                        raise
                else:
                    assert not all(map(unicodedata.combining, apart)), f"U+{code:04X} is marks alone, and passes"
