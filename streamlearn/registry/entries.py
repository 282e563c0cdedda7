"""What a lineage's log is made of, as `streamlearn log --json` prints it."""

from __future__ import annotations

from typing import Literal

from streamlearn.core.judgement import Decision, Evidence
from streamlearn.core.stored import Offset, Partition, Stored, VersionName


class Published(Stored):
    """A version came to be."""

    kind: Literal["version"] = "version"
    at: str
    """ISO 8601, UTC."""
    version: VersionName
    parent: VersionName | None
    epoch: int
    events: int
    events_since_parent: int
    tokens: int
    tokens_since_parent: int
    live: float | None
    """Nats per token before learning, over the life of the lineage."""
    base: float | None
    gain: float | None
    """`base` minus `live`; above 0, learning helps."""
    champion: VersionName | None
    """Who was champion then; None is the base."""


class Alarmed(Stored):
    """The stream was found to have changed."""

    kind: Literal["alarm"] = "alarm"
    signal: Literal["base", "live"]
    chunk: int
    cut: int
    rise: float
    told_by: VersionName
    """The first version whose manifest tells of it."""


class Moved(Stored):
    """An alias came to name another version, and no ruling of the gate was the reason."""

    kind: Literal["move"] = "move"
    at: str
    alias: str
    by: str
    from_version: VersionName | None
    to_version: VersionName | None
    reason: str
    epoch: int


class Ruled(Stored):
    """A candidate or a new champion was judged."""

    kind: Literal["ruling"] = "ruling"
    number: int
    decision: Decision
    reason: str
    evidence: Evidence
    champion: VersionName | None
    """Who is champion after it; None is the base."""
    chunk: int | None
    """First visits of chunks before it; None where only the alias tells of the ruling."""
    distrusted: dict[str, dict[Partition, tuple[Offset, Offset]]] | None
    """Offsets drawn on no more, {topic: {partition: (first, behind the last)}}; None where only the alias tells."""
    told_by: VersionName | None
    """The first version whose manifest tells of it; None where none does yet."""
    move: Moved | None
    """How it was carried out; None where it moved nobody, or the alias's history does not know of it."""

    @property
    def moves(self) -> bool:
        """Whether another version is champion after it than before."""
        return self.decision in {Decision.PROMOTE, Decision.ROLL_BACK}


Entry = Published | Ruled | Alarmed | Moved


class Span(Stored):
    """What an alias named from one move to the next."""

    alias: str
    version: VersionName | None
    since: str | None
    """When it was moved there; None before its first move."""
    until: str | None
    """When it was moved on; None where it was not."""
    reason: str | None
