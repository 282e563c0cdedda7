"""How a part of ingest says that a record is no event.

Messages tell what is wrong, where, and how to mend it; of the record they show
types, lengths and places, at most a few characters of a value, never the text.
"""

from __future__ import annotations

from streamlearn.core.events import Rejection

_SHOWN = 40
"""Characters of a value that may appear in a message."""


class Rejected(Exception):
    """The record is no event; carries the rejection."""

    def __init__(self, stage: str, error: str, message: str) -> None:
        super().__init__(message)
        self.rejection = Rejection(stage=stage, error=error, message=message)


def kind_of(value: object) -> str:
    """Return what JSON calls a parsed value.

    >>> kind_of([1]), kind_of(True), kind_of(None)
    ('a list', 'true or false', 'null')
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"


def shown(text: str) -> str:
    """Return a few characters of `text`, quoted and printable.

    >>> shown("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…'"
    """
    return ascii(text) if len(text) <= _SHOWN else f"{ascii(text[:_SHOWN])[:-1]}…'"
