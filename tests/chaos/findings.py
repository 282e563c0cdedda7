"""The words of the checker: a fault and its kind."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal[
    "lost", "learnt_twice", "half_version", "broken_digest", "chain", "epoch", "progress", "alias", "dead_letter"
]


class Fault(NamedTuple):
    """A promise that was broken, and where."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"
