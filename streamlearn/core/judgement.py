"""What was decided about versions, and on what grounds: the words that go to the store.

Verdicts are the gate's and the watch's; a ruling is a verdict with its place
in the lineage and its consequences. Decides nothing itself.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from streamlearn.core.stored import Offset, Partition, Stored, VersionName


class Decision(StrEnum):
    """What became of a candidate or of a new champion."""

    PROMOTE = "promote"
    HOLD = "hold"
    """The candidate was not shown to be better in the time it had."""
    REFUSE = "refuse"
    """The candidate forgot too much, or its losses are no numbers."""
    ROLL_BACK = "roll_back"
    KEEP = "keep"
    """The champion was not shown to be worse in the time it was watched."""


class Evidence(Stored):
    """What a decision rests on; differences in nats per token, positive where `subject` is better."""

    subject: VersionName
    """The version judged."""
    against: VersionName | None
    """The version it was compared with; None is the base."""
    blocks: int
    """t: blocks compared."""
    chunks: int
    """Chunks compared, those of an open block included."""
    skipped: int
    """Chunks left out because the other side's loss was not finite."""
    mean: float
    """Mean difference over the blocks; 0.0 before the first."""
    sd: float
    """Standard deviation of the blocks."""
    bound: float | None
    """Bound on the mean at `alpha`, from below for the gate, from above for the watch; None before two blocks."""
    alpha: float
    held_out_rise: float | None
    """Nats per token on held-out text above the base; None where unknown or no finite number."""


class Verdict(Stored):
    """A decision, its reason in words for an operator, and its evidence."""

    decision: Decision
    reason: str
    evidence: Evidence


class Ruling(Verdict):
    """A verdict that stands, and what followed."""

    number: int = Field(ge=1)
    """Which ruling of the lineage it is, from 1."""
    chunk: int = Field(ge=0)
    """First visits of chunks before it."""
    champion: VersionName | None
    """Who is champion after it; None is the base."""
    distrusted: dict[str, dict[Partition, tuple[Offset, Offset]]] = Field(default={})
    """After a rollback: {topic: {partition: (first offset, offset behind the last)}} of what the version taken back
    had seen and the one before it had not. It is drawn on no more."""

    @property
    def moves(self) -> bool:
        """Whether another version is champion after it than before."""
        return self.decision in {Decision.PROMOTE, Decision.ROLL_BACK}


class Alarm(Stored):
    """The stream has changed."""

    signal: Literal["base", "live"]
    """Whose losses rose."""
    chunk: int
    """Number, from 0, of the fresh chunk at which it was noticed."""
    cut: int
    """Number of the fresh chunk at which the change most likely happened."""
    rise: float
    """Nats per token by which the mean loss rose there."""


class Judgement(Stored):
    """How the versions of a lineage stand with one another."""

    champion: VersionName | None = None
    """The version in production; None is the base."""
    candidate: Evidence | None = None
    """How the version that would take its place does so far."""
    watched: Evidence | None = None
    """How a new champion does against the one before it."""
    rulings: tuple[Ruling, ...] = ()
    """Since the parent version, oldest first."""
    alarms: tuple[Alarm, ...] = ()
    """The latest drift alarms, oldest first."""
