"""Two versions scored on the same chunks: the evidence so far, and the word for a decision.

Shared by the gate, which asks whether a version is better, and the watch,
which asks whether it is worse. Gathers, and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from streamlearn.core.blocks import BLOCK_CHUNKS, Blocks
from streamlearn.core.confidence import LowerConfidence, rho_for

_TIGHTEST_AT = 40
"""Blocks at which the bound is tightest; between 20 and 150 the outcome of simulations moves little."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a decision rests on; differences in nats per token, positive where `subject` is better."""

    subject: str
    """The version judged."""
    against: str | None
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
    anchor_rise: float | None
    """Nats per token on held-out text above the base; None where unknown or no finite number."""

    def document(self) -> dict[str, Any]:
        """Return it as JSON, for the history of an alias."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision, its reason in words for an operator, and its evidence."""

    decision: Decision
    reason: str
    evidence: Evidence


class Comparison:
    """The chunks on which `subject` was compared with `against`."""

    def __init__(self, alpha: float, *, subject: str, against: str | None, side: Literal["better", "worse"]) -> None:
        self.subject = subject
        self.against = against
        self.anchor_rise: float | None = None
        self.chunks = 0
        self.skipped = 0
        self._side = 1.0 if side == "better" else -1.0
        self._blocks = Blocks(BLOCK_CHUNKS)
        self.series = LowerConfidence(alpha=alpha, rho=rho_for(_TIGHTEST_AT, alpha))
        """By how much the blocks were better, or worse, with a bound from below."""

    def add(self, against_nll: float, subject_nll: float, tokens: int) -> float | None:
        """Take in one chunk's summed nats under both; return the new block's difference, if it filled one.

        A chunk of which `against` makes no finite number is counted and passed over.
        """
        if not math.isfinite(against_nll):
            self.skipped += 1
            return None
        self.chunks += tokens > 0
        difference = self._blocks.add(self._side * against_nll, self._side * subject_nll, tokens)
        if difference is not None:
            self.series.add(difference)
        return difference

    def evidence(self) -> Evidence:
        """Return how the comparison stands."""
        series, side = self.series, self._side
        return Evidence(
            subject=self.subject,
            against=self.against,
            blocks=series.count,
            chunks=self.chunks,
            skipped=self.skipped,
            mean=side * series.mean,
            sd=series.sd,
            bound=side * series.lower if math.isfinite(series.lower) else None,
            alpha=series.alpha,
            anchor_rise=self.anchor_rise,
        )

    def verdict(self, decision: Decision, reason: str) -> Verdict:
        """Return `decision` with the evidence so far."""
        return Verdict(decision=decision, reason=reason, evidence=self.evidence())

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        return {
            "subject": self.subject,
            "against": self.against,
            "anchor_rise": self.anchor_rise,
            "chunks": self.chunks,
            "skipped": self.skipped,
            "blocks": self._blocks.document(),
            "series": self.series.document(),
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self.subject, self.against = document["subject"], document["against"]
        self.anchor_rise = None if document["anchor_rise"] is None else float(document["anchor_rise"])
        self.chunks, self.skipped = int(document["chunks"]), int(document["skipped"])
        self._blocks.restore(document["blocks"])
        self.series.restore(document["series"])
