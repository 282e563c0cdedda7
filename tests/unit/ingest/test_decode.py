"""Whatever the bytes are, the answer is an event or a reason."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamlearn.config import Ingest
from streamlearn.core.events import Completion, Content, Conversation, Message, Plain
from streamlearn.ingest.decode import Decoded, Decoder
from streamlearn.ingest.rejecting import Rejected
from tests.fakes.daemon import ManualClock
from tests.unit.ingest.making import ingest, record

MAPPED = {"text": "payload.body", "id": "meta.id", "ts": "ts", "source": "meta.feed"}


CLOCK = ManualClock()
CLOCK.time = 1_800_000_000.0


def decode(value: bytes | None, **knobs: Any) -> Decoded:
    return Decoder(ingest(**knobs), CLOCK).decode(record(value))


def stamped(seconds: float, **knobs: Any) -> Decoded:
    """Decode a good record that producer or broker stamped with `seconds`."""
    return Decoder(ingest(**knobs), CLOCK).decode(replace(record(b'{"text": "x", "ts": 1}'), timestamp=seconds))


def content(document: Any, **fields: str) -> Content:
    return decode(json.dumps(document).encode(), fields=fields).content


def error_of(value: bytes | None, **knobs: Any) -> tuple[str, str]:
    with pytest.raises(Rejected) as caught:
        decode(value, **knobs)
    rejection = caught.value.rejection
    assert rejection.message
    return rejection.stage, rejection.error


# --- what is read ----------------------------------------------------------------------


def test_text_is_the_value_itself() -> None:
    decoded = decode("naïve {".encode(), format="text")

    assert decoded == Decoded(content=Plain(text="naïve {"), id="news:2:7", ts=1_700_000_000.5, source="news")


def test_a_byte_order_mark_is_no_text() -> None:
    assert decode(b"\xef\xbb\xbfx", format="text").content == Plain(text="x")
    assert decode(b'\xef\xbb\xbf{"text": "x"}').content == Plain(text="x")


def test_fields_are_found_by_dotted_path() -> None:
    document = {"payload": {"body": "x"}, "meta": {"id": 41, "feed": "wire"}, "ts": 1_600_000_000.25}

    decoded = decode(json.dumps(document).encode(), fields=MAPPED)

    assert decoded == Decoded(content=Plain(text="x"), id="41", ts=1_600_000_000.25, source="wire")


def test_prompts_and_conversations_are_found_at_the_top_level_where_the_path_is_absent() -> None:
    pair = {"prompt": "p", "completion": "c"}
    turns = {"messages": [{"role": "user", "content": "u", "name": "ignored"}, {"role": "assistant", "content": "a"}]}
    talk = Conversation(messages=(Message(role="user", content="u"), Message(role="assistant", content="a")))

    assert content(pair) == content(pair, text="payload.body") == Completion(prompt="p", completion="c")
    assert content(turns) == talk


def test_prompts_and_conversations_may_stand_at_the_path() -> None:
    assert content({"payload": {"body": {"prompt": "p", "completion": "c"}}}, text="payload.body") == Completion(
        prompt="p", completion="c"
    )
    assert content({"text": {"messages": [{"role": "assistant", "content": "a"}]}}) == Conversation(
        messages=(Message(role="assistant", content="a"),)
    )


def test_a_text_that_is_there_wins_over_a_prompt_beside_it() -> None:
    assert content({"text": "t", "prompt": "p", "completion": "c"}) == Plain(text="t")


@pytest.mark.parametrize(
    ("ts", "seconds"),
    [
        (1_700_000_000, 1_700_000_000.0),
        (1_700_000_000_123, 1_700_000_000.123),
        (1.5, 1.5),
        (-5_679_676_800, -5_679_676_800.0),
        ("2026-11-01T12:00:00Z", 1_793_534_400.0),
        ("2026-11-01T13:00:00+01:00", 1_793_534_400.0),
        ("2026-11-01 12:00:00", 1_793_534_400.0),
        ("2026-11-01", 1_793_491_200.0),
        ("20261101", 1_793_491_200.0),
        ("1790-01-08", -5_679_590_400.0),
        ("1700000000", 1_700_000_000.0),
        (" 1700000000123 ", 1_700_000_000.123),
    ],
)
def test_times_are_seconds_milliseconds_or_iso(ts: Any, seconds: float) -> None:
    value = json.dumps({"text": "x", "ts": ts}).encode()

    assert decode(value, fields={"ts": "ts"}).ts == pytest.approx(seconds, abs=1e-6)


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "stage", "error"),
    [
        (None, "decode", "NullValue"),
        (b"", "decode", "EmptyValue"),
        (b"\xff", "decode", "NotUtf8"),
        (b"\xed\xa0\x80", "decode", "NotUtf8"),
        (b"x", "decode", "NotJson"),
        (b'{"text": "x"', "decode", "NotJson"),
        (b'{"text": "a\nb"}', "decode", "NotJson"),
        (b'{"text": "x", "n": -Infinity}', "decode", "NotJson"),
        (b"{}{}", "decode", "NotJson"),
        (b"[" * 100_000, "decode", "TooDeep"),
        (b'{"a":' * 100_000, "decode", "TooDeep"),
        (b"1" * 100_000, "decode", "HugeNumber"),
        (b"0." + b"1" * 100_000, "decode", "HugeNumber"),
        (b"null", "decode", "NotObject"),
        (b"true", "decode", "NotObject"),
        (b"[1]", "decode", "NotObject"),
        (b"{}", "fields", "MissingField"),
        (b'{"text": null}', "fields", "NullField"),
        (b'{"text": ["x"]}', "fields", "WrongType"),
        (b'{"text": {}}', "fields", "MissingField"),
        (b'{"completion": "c"}', "fields", "MissingField"),
        (b'{"prompt": "p", "completion": 1}', "fields", "WrongType"),
        (b'{"messages": "x"}', "fields", "WrongType"),
        (b'{"messages": []}', "fields", "Empty"),
        (b'{"messages": ["x"]}', "fields", "WrongType"),
        (b'{"messages": [{"role": "user"}]}', "fields", "MissingField"),
        (b'{"messages": [{"role": "user", "content": null}]}', "fields", "NullField"),
        (b'{"messages": [{"role": "a b", "content": "x"}]}', "fields", "BadRole"),
    ],
)
def test_a_bad_record_has_a_stable_name_for_what_is_wrong(value: bytes | None, stage: str, error: str) -> None:
    """Alerts and dead-letter tools go by it."""
    assert error_of(value) == (stage, error)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("id", None, "NullField"),
        ("id", "", "EmptyField"),
        ("id", 1.5, "WrongType"),
        ("id", True, "WrongType"),
        ("id", "x" * 1_001, "TooLong"),
        ("id", "\ud800", "LoneSurrogate"),
        ("source", {"a": 1}, "WrongType"),
        ("source", "x" * 201, "TooLong"),
        ("ts", True, "WrongType"),
        ("ts", [], "WrongType"),
        ("ts", "soon", "BadTime"),
        ("ts", "12345678", "BadTime"),
        ("ts", 1e300, "BadTime"),
        ("ts", int("9" * 299), "BadTime"),
        ("ts", "9" * 64, "BadTime"),
        ("ts", "1" * 100, "BadTime"),
        ("ts", "0001-01-01T00:00:00+23:59", "BadTime"),
    ],
)
def test_a_configured_field_must_be_there_and_right(field: str, value: Any, error: str) -> None:
    """An event with somebody else's time would be learnt at the wrong place."""
    document = json.dumps({"text": "x", field: value}).encode()

    assert error_of(document, fields={field: field}) == ("fields", error)
    assert error_of(b'{"text": "x"}', fields={field: field}) == ("fields", "MissingField")


@pytest.mark.parametrize("kind", ["text", "json"])
@pytest.mark.parametrize("seconds", [1.7e12, 9_223_372_036_854_775.807, 253_402_300_800.0, -62_135_596_801.0])
def test_a_records_own_time_stamp_in_the_wrong_unit_is_refused(kind: str, seconds: float) -> None:
    """Microseconds for milliseconds would be the year 55840, which no calendar and no window can bear."""
    with pytest.raises(Rejected, match=r"no time between the years 1 and 9999: .*ingest\.fields\.ts") as caught:
        stamped(seconds, format=kind)

    assert (caught.value.rejection.stage, caught.value.rejection.error) == ("decode", "BadTime")


def test_a_records_own_time_stamp_does_not_matter_where_a_field_has_the_time() -> None:
    """That is how a topic with wrong time stamps can be read."""
    assert stamped(1.7e12, fields={"ts": "ts"}).ts == 1.0


@pytest.mark.parametrize("ts", [0.0, 1_800_000_000.0, 1_800_086_400.0])
def test_a_time_up_to_a_day_ahead_is_taken(ts: float) -> None:
    """A time zone mistaken for UTC is no reason to lose an event; 0.0 is a record without a time stamp."""
    assert stamped(ts).ts == ts
    assert decode(json.dumps({"text": "x", "ts": ts}).encode(), fields={"ts": "ts"}).ts == ts


@pytest.mark.parametrize("ts", [1_800_086_401.0, 253_402_300_799.0, 253_402_300_799.99997])
def test_a_time_more_than_a_day_ahead_is_refused(ts: float) -> None:
    """One such event would make all the rest of the window look old for ever."""
    value = json.dumps({"text": "x", "ts": datetime.fromtimestamp(int(ts), UTC).isoformat()}).encode()
    with pytest.raises(Rejected, match=r"^the record's own time stamp, .* is more than a day ahead of this machine"):
        stamped(ts)
    with pytest.raises(Rejected, match=r"^ts, .* is more than a day ahead of this machine"):
        decode(value, fields={"ts": "ts"})

    assert error_of(value, fields={"ts": "ts"}) == ("fields", "BadTime")


def test_a_replay_admits_what_was_ahead_before() -> None:
    """The clock can only let more in, so nothing that was learnt is refused when it is read again."""
    clock = ManualClock()
    decoder = Decoder(ingest(), clock)
    early = replace(record(b'{"text": "x"}'), timestamp=100_000.0)
    with pytest.raises(Rejected, match="ahead"):
        decoder.decode(early)

    clock.time = 13_600.0

    assert decoder.decode(early).ts == 100_000.0


def test_a_large_record_is_refused_unparsed() -> None:
    assert error_of(b"\xff" * 11, max_record_bytes=10) == ("decode", "RecordTooLarge")


def test_a_message_says_where_the_path_ends() -> None:
    with pytest.raises(Rejected, match=r"^payload is a string, no object, so that payload\.body is not there"):
        decode(b'{"payload": "x"}', fields={"text": "payload.body"})
    with pytest.raises(Rejected, match=r"^payload\.body is absent"):
        decode(b'{"payload": {}}', fields={"text": "payload.body"})


def test_a_message_never_holds_the_text() -> None:
    """Logs and headers are not where a record's contents belong."""
    secret = "s3cret " * 100
    for document in ({"title": secret}, {"text": [secret]}, {"text": "x", "ts": secret}, {"text": {secret: 1}}):
        with pytest.raises(Rejected) as caught:
            decode(json.dumps(document).encode(), fields={"ts": "ts"})
        assert len(caught.value.rejection.message) < 300
        assert caught.value.rejection.message.count("s3cret") <= 6


# --- never anything else ------------------------------------------------------------------


def answer(value: bytes | None, config: Ingest) -> None:
    """Decode; anything but an event or a rejection fails the test."""
    try:
        decoded = Decoder(config, CLOCK).decode(record(value))
    except Rejected as rejected:
        rejected.rejection.message.encode()
        return
    decoded.id.encode()
    decoded.source.encode()
    assert -1e12 < decoded.ts < 1e12


FORMATS = st.sampled_from([ingest(format="text"), ingest(), ingest(fields=MAPPED)])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", "2026-11-01", ""])
)
NAMES = st.sampled_from(
    ["text", "payload", "body", "meta", "id", "ts", "feed", "prompt", "completion", "messages", "role", "content"]
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=20
)


@given(st.binary(), FORMATS)
@example(b'{"text": "x", "text": 1}', ingest())
@example(b'\xef\xbb\xbf\xef\xbb\xbf{"text": "x"}', ingest())
@example(b'{"text": "x", "ts": 1e400, "meta": {}}', ingest(fields=MAPPED))
def test_any_bytes_are_answered(value: bytes, config: Ingest) -> None:
    """The worker never stops for a record."""
    answer(value, config)


@given(DOCUMENTS, FORMATS)
def test_any_json_is_answered(document: Any, config: Ingest) -> None:
    answer(json.dumps(document).encode(), config)


@given(st.text(alphabet='[]{}",:\\u0123456789eE.-+ntruefalsn ', max_size=200), FORMATS)
def test_anything_that_looks_like_json_is_answered(text: str, config: Ingest) -> None:
    answer(text.encode(), config)


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 2**22,
        b'{"":' * 2**20,
        b"9" * 2**22,
        b"1." + b"9" * 2**22,
        b"\\" * 2**22,
        b'"' + b"\\u0000" * 2**19 + b'"',
    ],
    ids=["lists", "objects", "digits", "decimals", "escapes", "controls"],
)
def test_the_largest_record_is_answered_in_a_moment(value: bytes) -> None:
    """One record must not hold up the stream."""
    began = time.monotonic()

    answer(value[: 4 * 2**20], ingest())

    assert time.monotonic() - began < 2.0
