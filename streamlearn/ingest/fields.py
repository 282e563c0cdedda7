"""Where the parts of an event are in a JSON object, and of what type they must be.

Looks fields up by dotted path and reads times, ids and sources. Knows nothing
of bytes or of what makes a text worth learning.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

from streamlearn.core.events import Completion, Content, Conversation, Message, Plain
from streamlearn.ingest.rejecting import Rejected, kind_of, shown

STAGE = "fields"

_MAX_ID_CHARS = 1_000
_MAX_SOURCE_CHARS = 200
_MAX_MESSAGES = 10_000
_MILLISECONDS_FROM = 1e11
"""A time at or above it is in milliseconds: as seconds it would be the year 5138, as milliseconds it is 1973."""
_EARLIEST_S, _LATEST_S = -62_135_596_800.0, 253_402_300_800.0
"""The years 1 to 9999."""
_NUMBER = re.compile(r"-?[0-9]{9,}(\.[0-9]+)?", re.ASCII)
"""A quoted time stamp; fewer digits would be taken for an ISO date such as 20261101."""
_ROLE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_ABSENT = object()


def content_of(document: dict[str, Any], path: str) -> Content:
    """Return what is to be learnt: the value at `path`, else a prompt or a conversation at the top level.

    Raises:
        Rejected: it is not there, or of another type.
    """
    value = _look_up(document, path)
    if value is _ABSENT:
        if "messages" in document or "prompt" in document or "completion" in document:
            return _structured(document, "")
        raise _missing(document, path, "nor are prompt and completion, or messages, at the top level")
    if isinstance(value, str):
        return Plain(text=value)
    if isinstance(value, dict):
        return _structured(value, f"{path}.")
    raise _wrong(path, value, 'a string, or an object {"prompt", "completion"} or {"messages"}', key="text")


def id_of(document: dict[str, Any], path: str) -> str:
    """Return the producer's own id, at most 1,000 characters; raises Rejected."""
    return _name(document, path, key="id", max_chars=_MAX_ID_CHARS)


def source_of(document: dict[str, Any], path: str) -> str:
    """Return the stratum, at most 200 characters; raises Rejected."""
    return _name(document, path, key="source", max_chars=_MAX_SOURCE_CHARS)


def time_of(document: dict[str, Any], path: str) -> float:
    """Return the event time, seconds since 1970.

    Numbers are seconds or, from 1e11 on, milliseconds; strings are ISO 8601
    (UTC where no zone is given) or a number of 9 digits or more.

    Raises:
        Rejected: no time in the years 1 to 9999.
    """
    value = _required(document, path, key="ts")
    if isinstance(value, str):
        seconds = _from_text(value.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = _from_number(float(value))
    else:
        raise _wrong(path, value, "a number or an ISO 8601 string", key="ts")
    if seconds is None or not _EARLIEST_S <= seconds < _LATEST_S:
        at = shown(value) if isinstance(value, str) else f"{value:g}"
        raise Rejected(
            STAGE,
            "BadTime",
            f"{path} = {at} is no time between the years 1 and 9999: send seconds or milliseconds since 1970, or "
            "ISO 8601 such as 2026-11-01T12:00:00Z",
        )
    return seconds


# --- content --------------------------------------------------------------------


def _structured(value: dict[str, Any], prefix: str) -> Content:
    """Read `{"messages"}` or `{"prompt", "completion"}`; `prefix` is where it stands, with a dot."""
    if "messages" in value:
        return Conversation(messages=_messages(value["messages"], f"{prefix}messages"))
    if "prompt" not in value and "completion" not in value:
        raise Rejected(
            STAGE,
            "MissingField",
            f"{prefix.removesuffix('.')} is an object without prompt and completion, and without messages: name the "
            "text within it in ingest.fields.text",
        )
    return Completion(prompt=_text(value, "prompt", prefix), completion=_text(value, "completion", prefix))


def _text(value: dict[str, Any], name: str, prefix: str) -> str:
    if name not in value:
        other = "completion" if name == "prompt" else "prompt"
        raise Rejected(
            STAGE, "MissingField", f"{prefix}{name} is absent beside {prefix}{other}: a pair needs both of them"
        )
    if not isinstance(text := value[name], str):
        raise _wrong(f"{prefix}{name}", text, "a string")
    return text


def _messages(value: Any, path: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise _wrong(path, value, 'a list of {"role", "content"}')
    if not value:
        raise Rejected(STAGE, "Empty", f"{path} is an empty list: a conversation has at least one message")
    if len(value) > _MAX_MESSAGES:
        raise Rejected(STAGE, "TooLong", f"{path} has {len(value):,} messages, above {_MAX_MESSAGES:,}: split it")
    return tuple(_message(item, f"{path}[{place}]") for place, item in enumerate(value))


def _message(value: Any, path: str) -> Message:
    if not isinstance(value, dict):
        raise _wrong(path, value, 'an object {"role", "content"}')
    for name in ("role", "content"):
        if name not in value:
            raise Rejected(STAGE, "MissingField", f"{path}.{name} is absent: each message needs role and content")
        if not isinstance(value[name], str):
            raise _wrong(f"{path}.{name}", value[name], "a string")
    if not _ROLE.fullmatch(value["role"]):
        raise Rejected(
            STAGE,
            "BadRole",
            f"{path}.role is no role: use 1-64 letters, digits, '.', '_' or '-', such as user or assistant",
        )
    return Message(role=value["role"], content=value["content"])


# --- other fields -----------------------------------------------------------------


def _name(document: dict[str, Any], path: str, *, key: str, max_chars: int) -> str:
    value = _required(document, path, key=key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _wrong(path, value, "a string or a whole number", key=key)
    name = str(value)
    if not name.strip():
        raise Rejected(STAGE, "EmptyField", f"{path} is empty: fill it, or leave ingest.fields.{key} out")
    if len(name) > max_chars:
        raise Rejected(STAGE, "TooLong", f"{path} has {len(name):,} characters, above {max_chars:,}: shorten it")
    if not _encodes(name):
        raise Rejected(
            STAGE, "LoneSurrogate", f"{path} holds half of a surrogate pair, which is no character: send it whole"
        )
    return name


def _from_number(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return value / 1000.0 if abs(value) >= _MILLISECONDS_FROM else value


def _from_text(text: str) -> float | None:
    if len(text) > 64:  # noqa: PLR2004 - longer than any time stamp
        return None
    if _NUMBER.fullmatch(text):
        return _from_number(float(text))
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- looking up -------------------------------------------------------------------


def _look_up(document: dict[str, Any], path: str) -> Any:
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def _required(document: dict[str, Any], path: str, *, key: str) -> Any:
    if (value := _look_up(document, path)) is _ABSENT:
        raise _missing(document, path, f"which ingest.fields.{key} names")
    if value is None:
        raise _wrong(path, value, "a value", key=key)
    return value


def _missing(document: dict[str, Any], path: str, also: str) -> Rejected:
    """Say how far the path could be followed."""
    value: Any = document
    walked: list[str] = []
    for part in path.split("."):
        if not isinstance(value, dict):
            where = f"{'.'.join(walked)} is {kind_of(value)}, no object, so that {path} is not there"
            break
        if part not in value:
            where = f"{'.'.join([*walked, part])} is absent"
            break
        walked.append(part)
        value = value[part]
    else:  # pragma: no cover - the caller looked before
        where = f"{path} is absent"
    return Rejected(STAGE, "MissingField", f"{where}, {also}: add it, or correct [ingest.fields]")


def _wrong(path: str, value: Any, wanted: str, *, key: str | None = None) -> Rejected:
    error = "NullField" if value is None else "WrongType"
    mend = f"correct the producer{f', or ingest.fields.{key}' if key else ''}"
    return Rejected(STAGE, error, f"{path} is {kind_of(value)}, where {wanted} is wanted: {mend}")
