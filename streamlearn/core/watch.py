"""Whether a promotion was a mistake.

The previous champion goes on being scored beside the new one. The gate's test
turned round and made stricter takes a promotion back; so do, at once, losses
far above the previous ones, and what is no number. Held-out text is no matter
here: a version never changes, and the gate has let it pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamlearn.core.comparison import Comparison
from streamlearn.core.judgement import Decision, Evidence, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """When a promotion is taken back."""

    min_loss: float
    """Nats per token that the lower bound on the loss must exceed."""
    min_blocks: int
    """Blocks before the first decision of the test."""
    max_blocks: int
    """Blocks after which the previous champion need not be scored any longer."""
    plunge: float
    """Nats per token worse, in each of `plunge_blocks` blocks on end, that need no test."""
    plunge_blocks: int
    alpha: float
    """Bound on the chance that a champion no worse is ever taken back by the test."""


class Watch:
    """Compares a new champion with the one before it."""

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._open: Comparison | None = None
        self._plunged = 0

    @property
    def champion(self) -> str | None:
        """The version watched; None while none is."""
        return self._open.subject if self._open else None

    def begin(self, champion: str, *, previous: str | None) -> None:
        """Watch `champion` from its promotion on; `previous` None is the base. Ends any watch before."""
        self._open = Comparison(self._settings.alpha, subject=champion, against=previous, side="worse")
        self._plunged = 0

    def observe(self, previous_nll: float, champion_nll: float, tokens: int) -> Verdict | None:
        """Take in one chunk's summed nats under both; return ROLL_BACK or KEEP when it is due."""
        assert self._open is not None, "nothing is being watched"
        # What the one before cannot score either says nothing about the champion.
        if not math.isfinite(champion_nll) and math.isfinite(previous_nll):
            return self._close(Decision.ROLL_BACK, "its loss on a chunk is not a finite number")
        difference = self._open.add(previous_nll, champion_nll, tokens)
        if difference is None:
            return None
        settings, loss = self._settings, self._open.series
        self._plunged = self._plunged + 1 if difference > settings.plunge else 0
        if self._plunged >= settings.plunge_blocks:
            return self._close(
                Decision.ROLL_BACK,
                f"worse by more than {settings.plunge} nats/token in {self._plunged} blocks on end",
            )
        if loss.count >= settings.min_blocks and loss.lower > settings.min_loss:
            return self._close(
                Decision.ROLL_BACK,
                f"worse by {loss.mean:.4f} nats/token over {loss.count} blocks, "
                f"by more than {loss.lower:.4f} with {1.0 - loss.alpha:.0%} confidence",
            )
        if loss.count >= settings.max_blocks:
            return self._close(Decision.KEEP, f"not shown to be worse in {loss.count} blocks")
        return None

    def end(self) -> None:
        """Stop watching without a verdict, as where the gate is off."""
        self._open = None

    def evidence(self) -> Evidence | None:
        """Return how the comparison stands; None where nothing is watched."""
        return self._open.evidence() if self._open else None

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        return {"open": self._open.document() if self._open else None, "plunged": self._plunged}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self._open, self._plunged = None, int(document["plunged"])
        if document["open"] is not None:
            self._open = Comparison(self._settings.alpha, subject="", against=None, side="worse")
            self._open.restore(document["open"])

    def _close(self, decision: Decision, reason: str) -> Verdict:
        assert self._open is not None
        verdict, self._open = self._open.verdict(decision, reason), None
        return verdict
