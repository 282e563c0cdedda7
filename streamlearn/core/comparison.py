"""Two versions scored on the same chunks: the evidence so far, and the word for a decision.

Shared by the gate, which asks whether a version is better, and the watch,
which asks whether it is worse. Gathers, and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from streamlearn.core.blocks import BLOCK_CHUNKS, Blocks
from streamlearn.core.confidence import LowerConfidence, rho_for
from streamlearn.core.judgement import Decision, Evidence, Verdict

_TIGHTEST_AT = 40
"""Blocks at which the bound is tightest; between 20 and 150 the outcome of simulations moves little."""


class Comparison:
    """The chunks on which `subject` was compared with `against`."""

    def __init__(self, alpha: float, *, subject: str, against: str | None, side: Literal["better", "worse"]) -> None:
        self.subject = subject
        self.against = against
        self.held_out_rise: float | None = None
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
            held_out_rise=self.held_out_rise,
        )

    def verdict(self, decision: Decision, reason: str) -> Verdict:
        """Return `decision` with the evidence so far."""
        return Verdict(decision=decision, reason=reason, evidence=self.evidence())

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        return {
            "subject": self.subject,
            "against": self.against,
            "held_out_rise": self.held_out_rise,
            "chunks": self.chunks,
            "skipped": self.skipped,
            "blocks": self._blocks.document(),
            "series": self.series.document(),
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self.subject, self.against = document["subject"], document["against"]
        self.held_out_rise = None if document["held_out_rise"] is None else float(document["held_out_rise"])
        self.chunks, self.skipped = int(document["chunks"]), int(document["skipped"])
        self._blocks.restore(document["blocks"])
        self.series.restore(document["series"])
