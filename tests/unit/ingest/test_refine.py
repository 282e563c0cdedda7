"""One record, one arrival."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.events import Outcome
from streamlearn.core.near_duplicates import signature
from streamlearn.ingest.refine import Refiner
from tests.unit.ingest.making import SystemClock, WordChunker, ingest, record

REFINER = Refiner(
    ingest(min_chars=3, fields={"id": "id", "ts": "ts", "source": "source"}), WordChunker(), SystemClock()
)


def value(text: object) -> bytes:
    return json.dumps({"id": "n1", "ts": 1_600_000_000, "source": "wire", "text": text}).encode()


def test_a_good_record_is_admitted_with_its_chunks_and_without_its_bytes() -> None:
    arrival = REFINER.refine(record(value("two words")), skipped=3)

    assert (arrival.id, arrival.ts, arrival.source) == ("n1", 1_600_000_000.0, "wire")
    assert (arrival.topic, arrival.partition, arrival.offset) == ("news", 2, 7)
    assert arrival.outcome is Outcome.ADMITTED
    assert [chunk.scored_tokens for chunk in arrival.chunks] == [2]
    assert len(arrival.digest) == 16
    assert (arrival.rejection, arrival.record, arrival.skipped) == (None, None, 3)


def test_a_text_is_signed_where_near_repeats_are_looked_for_and_only_there() -> None:
    """By its words alone, so that a reprint under another title has nearly the same."""
    text = "a b c d e f g h i j k l m n o p"
    signing = Refiner(ingest(fields={"id": "id"}), WordChunker(), SystemClock(), near_duplicates=True)

    signed, reprint = (signing.refine(record(value(each))).signature for each in (text, text.upper() + "!"))

    assert signed is not None
    assert signed.tolist() == signature(text).tolist()  # type: ignore[union-attr]
    assert reprint is not None
    assert (signed == reprint).all()
    assert REFINER.refine(record(value(text))).signature is None
    assert signing.refine(record(value("nothing"))).signature is None


@pytest.mark.parametrize("text", ["ok", "nothing"])
def test_what_is_too_short_or_has_nothing_to_score_is_filtered(text: str) -> None:
    arrival = REFINER.refine(record(value(text)))

    assert arrival.outcome is Outcome.FILTERED
    assert (arrival.chunks, arrival.rejection, arrival.record) == ((), None, None)
    assert arrival.id == "n1"


def test_a_bad_record_is_a_dead_letter_with_reason_and_original() -> None:
    """It has the broker's time and the place as its id, whatever its own say."""
    original = record(value(7))

    arrival = REFINER.refine(original, skipped=1)

    assert arrival.outcome is Outcome.DEAD_LETTER
    assert arrival.rejection is not None
    assert (arrival.rejection.stage, arrival.rejection.error) == ("fields", "WrongType")
    assert arrival.record is original
    assert (arrival.id, arrival.ts, arrival.source, arrival.skipped) == ("news:2:7", 1_700_000_000.5, "news", 1)


def test_what_the_tokenizer_cannot_take_is_a_dead_letter() -> None:
    """A stream of conversations for a model without chat template is told so, record by record."""
    arrival = REFINER.refine(record(value({"messages": [{"role": "assistant", "content": "hello"}]})))

    assert arrival.rejection is not None
    assert (arrival.rejection.stage, arrival.rejection.error) == ("chunk", "Unchunkable")
    assert "no chat template" in arrival.rejection.message


@given(st.one_of(st.binary(), st.text().map(value), st.text(alphabet="\ud800\u0301\r\n\x00 a").map(value)))
def test_any_record_becomes_an_arrival_at_its_offset(raw: bytes) -> None:
    arrival = REFINER.refine(record(raw))

    assert (arrival.topic, arrival.partition, arrival.offset) == ("news", 2, 7)
    assert (arrival.outcome is Outcome.DEAD_LETTER) == (arrival.rejection is not None) == (arrival.record is not None)
    assert (arrival.outcome is Outcome.ADMITTED) == bool(arrival.chunks)
