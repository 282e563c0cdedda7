"""A dead letter: a record as it was, with the reason in Kafka Connect's headers.

What Connect's dead-letter tools read, ours can be read with. Sends nothing.
"""

from __future__ import annotations

from typing import TypeAlias

from streamlearn.core.events import Record, Rejection

Headers: TypeAlias = list[tuple[str, bytes | None]]

_PREFIX = "__connect.errors."


class Letter:
    """A record on its way, with or without its value."""

    __slots__ = ("headers", "record", "whole")

    def __init__(self, record: Record, headers: Headers, *, whole: bool = True) -> None:
        self.record = record
        self.headers = headers
        self.whole = whole

    @property
    def value(self) -> bytes | None:
        """What is sent as the value."""
        return self.record.value if self.whole else None

    def without_value(self) -> Letter:
        """Return the letter that leaves the value where it is: at its offset in the source topic."""
        size = str(len(self.record.value or b"")).encode()
        return Letter(self.record, [*self.headers, ("streamlearn.value.omitted.bytes", size)], whole=False)


def headers_of(record: Record, rejection: Rejection, *, connector: str) -> Headers:
    """Return the record's own headers and Kafka Connect's after them.

    Appended, as Connect does: a record that comes from a dead-letter topic
    itself keeps the earlier reasons, and readers take the last.
    """
    reasons = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "connector.name": connector,
        "task.id": "0",
        "stage": rejection.stage,
        "class.name": "streamlearn.ingest",
        "exception.class.name": rejection.error,
        "exception.message": rejection.message,
        "exception.stacktrace": f"{rejection.error}: {rejection.message}",
    }
    return [*record.headers, *((_PREFIX + name, value.encode()) for name, value in reasons.items())]
