"""From a record's bytes to the content of an event, or to the reason why it is none.

Whatever the bytes are, the answer comes in time linear in their number and is
never an exception other than `Rejected`. JSON is RFC 8259's: no NaN; of equal
keys the last counts. Lengths of text are `clean.py`'s.

An event time more than a day ahead of this machine's clock is refused. Age is
counted from the newest event time seen: one such event would make all the rest
of the window look old for ever. It is the one place where ingest looks at the
clock; as time goes on, a replay can only admit more, never less.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from streamlearn.config import Ingest
from streamlearn.core.events import Content, Plain, Record
from streamlearn.ingest.fields import STAGE as FIELDS
from streamlearn.ingest.fields import content_of, id_of, source_of, time_of
from streamlearn.ingest.rejecting import Rejected, kind_of
from streamlearn.ports import Clock

STAGE = "decode"

_MAX_DIGITS = 300
"""Digits of a number; more is no quantity, and Python's own conversion is quadratic in them."""
_EARLIEST_S = datetime.min.replace(tzinfo=UTC).timestamp()
_END_S = datetime(9999, 12, 31, tzinfo=UTC).timestamp() + 86_400.0
"""The years 1 to 9999, as for a time within the record."""
_AHEAD_S = 86_400.0
"""How far a producer's clock may run ahead: a whole day is a wrong time zone, more is a wrong time."""
_STAMP = "the record's own time stamp"
_TOO_FAR = "is more than a day ahead of this machine's clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The parts of an event before cleaning."""

    content: Content
    id: str
    ts: float
    """Seconds since 1970."""
    source: str


class Decoder:
    """Reads records in the format and by the field mapping of `[ingest]`."""

    def __init__(self, config: Ingest, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._json = json.JSONDecoder(parse_constant=_no_constant, parse_int=_parse_int, parse_float=_parse_float)

    def decode(self, record: Record) -> Decoded:
        """Return the record's event.

        Raises:
            Rejected: it is none.
        """
        text = self._text(record.value)
        where = f"{record.topic}:{record.partition}:{record.offset}"
        if self._config.format == "text":
            return Decoded(content=Plain(text=text), id=where, ts=self._stamp(record), source=record.topic)
        document = self._object(text)
        fields = self._config.fields
        return Decoded(
            content=content_of(document, fields.text),
            id=where if fields.id is None else id_of(document, fields.id),
            ts=self._stamp(record) if fields.ts is None else self._time(document, fields.ts),
            source=record.topic if fields.source is None else source_of(document, fields.source),
        )

    def _stamp(self, record: Record) -> float:
        """Return the time that producer or broker gave the record."""
        ts = record.timestamp
        mend = "let the producer stamp its records in milliseconds since 1970, or name a time in ingest.fields.ts"
        if not _EARLIEST_S <= ts < _END_S:
            raise Rejected(
                STAGE, "BadTime", f"{_STAMP}, {ts:g} s since 1970, is no time between the years 1 and 9999: {mend}"
            )
        if ts > self._clock.now() + _AHEAD_S:
            raise Rejected(STAGE, "BadTime", f"{_STAMP}, {_shown(ts)}, {_TOO_FAR}: {mend}")
        return ts

    def _time(self, document: dict[str, Any], path: str) -> float:
        """Return the time within the record."""
        ts = time_of(document, path)
        if ts > self._clock.now() + _AHEAD_S:
            mend = "mend the producer's time, or the clock here"
            raise Rejected(FIELDS, "BadTime", f"{path}, {_shown(ts)}, {_TOO_FAR}: {mend}")
        return ts

    def _text(self, value: bytes | None) -> str:
        if value is None:
            raise Rejected(STAGE, "NullValue", "the record has no value (a tombstone), so there is nothing to learn")
        if not value:
            raise Rejected(STAGE, "EmptyValue", "the record's value is empty, so there is nothing to learn")
        if len(value) > self._config.max_record_bytes:
            raise Rejected(
                STAGE,
                "RecordTooLarge",
                f"the value has {len(value):,} bytes, above ingest.max_record_bytes = "
                f"{self._config.max_record_bytes:,}: split the event, or raise the limit",
            )
        try:
            # A byte order mark is no part of the text.
            return value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Rejected(
                STAGE,
                "NotUtf8",
                f"byte {error.start} of {len(value):,} (0x{value[error.start]:02x}) is not UTF-8: "
                "let the producer encode its text as UTF-8",
            ) from None

    def _object(self, text: str) -> dict[str, Any]:
        try:
            document = self._json.decode(text)
        except json.JSONDecodeError as error:
            raise Rejected(
                STAGE,
                "NotJson",
                f"not JSON at line {error.lineno} column {error.colno}: {error.msg}; send one JSON object a record, or "
                'set ingest.format = "text"',
            ) from None
        except RecursionError:
            raise Rejected(
                STAGE, "TooDeep", "lists or objects are nested too deeply to be read: flatten the record"
            ) from None
        if not isinstance(document, dict):
            raise Rejected(
                STAGE,
                "NotObject",
                f"the JSON value is {kind_of(document)}, where an object with the fields of [ingest.fields] is wanted; "
                'for bare text set ingest.format = "text"',
            )
        return document


def _shown(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="seconds")


def _no_constant(name: str) -> NoReturn:
    raise Rejected(STAGE, "NotJson", f"{name} is no JSON value (RFC 8259): let the producer send null or a number")


def _parse_int(digits: str) -> int:
    _check_digits(digits)
    return int(digits)


def _parse_float(digits: str) -> float:
    _check_digits(digits)
    return float(digits)


def _check_digits(digits: str) -> None:
    if len(digits) > _MAX_DIGITS:
        raise Rejected(
            STAGE, "HugeNumber", f"a number has {len(digits):,} digits, above {_MAX_DIGITS}: send it as a string"
        )
