"""Whether a newer version may take the champion's place.

The candidate is one published version; champion (the base, where there is
none) and candidate are scored on the same chunks before either learnt from
them. Decides by statistics alone, and says why; who scores, and what a
promotion does to aliases, is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamlearn.core.comparison import Comparison
from streamlearn.core.judgement import Decision, Evidence, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """When a candidate wins, loses, or has had its time."""

    min_gain: float
    """Nats per token that the lower bound must exceed: less is not worth a change."""
    min_blocks: int
    """Blocks before the first decision: the bound leans on the central limit theorem."""
    max_blocks: int
    """Blocks after which an undecided candidate is held and makes room for a newer one."""
    max_held_out_rise: float
    """Nats per token on held-out text above the base from which a candidate is refused."""
    alpha: float
    """Bound on the chance that a candidate no better than `min_gain` is ever promoted."""


class Gate:
    """Compares one candidate at a time with the champion."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._open: Comparison | None = None

    @property
    def candidate(self) -> str | None:
        """The version under comparison; None while the next published one is awaited."""
        return self._open.subject if self._open else None

    def consider(self, candidate: str, *, champion: str | None, held_out_rise: float | None) -> Verdict | None:
        """Begin to compare; return a verdict where held-out text alone refuses the candidate.

        Args:
            candidate: the version; fixed, so that its score on held-out text is one number.
            champion: the version in production; None is the base.
            held_out_rise: candidate's NLL on held-out text above the base's, nats per token; None where it is not
                measured.
        """
        assert self._open is None, "one candidate at a time"
        opened = Comparison(self._settings.alpha, subject=candidate, against=champion, side="better")
        if held_out_rise is None:
            self._open = opened
            return None
        if not math.isfinite(held_out_rise):
            return opened.verdict(Decision.REFUSE, "its loss on held-out text is not a finite number")
        opened.held_out_rise = held_out_rise
        if held_out_rise >= (limit := self._settings.max_held_out_rise):
            return opened.verdict(
                Decision.REFUSE,
                f"held-out text costs {held_out_rise:+.4f} nats/token against the base; under {limit} is allowed",
            )
        self._open = opened
        return None

    def observe(
        self, champion_nll: float, candidate_nll: float, tokens: int, *, may_promote: bool = True
    ) -> Verdict | None:
        """Take in one chunk's summed nats under both; return a verdict when one is due.

        Args:
            champion_nll: of the champion, or of the base where there is none.
            candidate_nll: of the candidate.
            tokens: scored tokens of the chunk.
            may_promote: False goes on comparing and promotes nobody, as after a drift alarm.
        """
        assert self._open is not None, "there is no candidate"
        # What the champion cannot score either says nothing about the candidate.
        if not math.isfinite(candidate_nll) and math.isfinite(champion_nll):
            return self._close(Decision.REFUSE, "its loss on a chunk is not a finite number")
        if self._open.add(champion_nll, candidate_nll, tokens) is None:
            return None
        settings, gain = self._settings, self._open.series
        if may_promote and gain.count >= settings.min_blocks and gain.lower > settings.min_gain:
            return self._close(
                Decision.PROMOTE,
                f"better by {gain.mean:.4f} nats/token over {gain.count} blocks, "
                f"by more than {gain.lower:.4f} with {1.0 - gain.alpha:.0%} confidence",
            )
        if gain.count >= settings.max_blocks:
            return self._close(
                Decision.HOLD,
                f"not shown to be better by {settings.min_gain} nats/token in {gain.count} blocks "
                f"(mean {gain.mean:+.4f}, bound {gain.lower:+.4f})",
            )
        return None

    def restart(self) -> None:
        """Compare anew, as when the stream has changed: what was seen before says nothing about now."""
        if (before := self._open) is not None:
            self._open = Comparison(self._settings.alpha, subject=before.subject, against=before.against, side="better")
            self._open.held_out_rise = before.held_out_rise

    def withdraw(self) -> None:
        """Forget the candidate without a verdict, as when the champion has fallen."""
        self._open = None

    def evidence(self) -> Evidence | None:
        """Return how the comparison stands; None without a candidate."""
        return self._open.evidence() if self._open else None

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        return {"open": self._open.document() if self._open else None}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self._open = None
        if document["open"] is not None:
            self._open = Comparison(self._settings.alpha, subject="", against=None, side="better")
            self._open.restore(document["open"])

    def _close(self, decision: Decision, reason: str) -> Verdict:
        assert self._open is not None
        verdict, self._open = self._open.verdict(decision, reason), None
        return verdict
