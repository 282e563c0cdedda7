"""How a step's tokens are shared between what is new and what is replayed.

Shares are kept over time by credit: fresh tokens earn each pool its due, a
drawn chunk spends it. Decides how much, never which chunk. Weights act by
sampling, not in the loss (docs/adr/0003).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamlearn.core.batches import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of all trained tokens; the rest is fresh."""

    window: float
    reservoir: float
    anchor: float

    @property
    def fresh(self) -> float:
        """What is left for fresh chunks."""
        return 1.0 - self.window - self.reservoir - self.anchor

    def of(self, role: Role) -> float:
        """Return the share of `role`."""
        return {
            Role.FRESH: self.fresh,
            Role.WINDOW: self.window,
            Role.RESERVOIR: self.reservoir,
            Role.ANCHOR: self.anchor,
        }[role]


REPLAYED = (Role.WINDOW, Role.RESERVOIR, Role.ANCHOR)


class Mix:
    """Token credit of each replayed role."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self.credit: dict[Role, float] = dict.fromkeys(REPLAYED, 0.0)

    def earn(self, fresh_tokens: int) -> None:
        """Credit every pool with what `fresh_tokens` fresh tokens owe it."""
        for role in REPLAYED:
            self.credit[role] += fresh_tokens * self._shares.of(role) / self._shares.fresh

    def due(self, role: Role) -> bool:
        """Whether a chunk of `role` should be drawn now."""
        return self.credit[role] > 0.0

    def spend(self, role: Role, tokens: int) -> None:
        """A chunk of `tokens` tokens was drawn."""
        self.credit[role] -= tokens

    def forgo(self, role: Role) -> None:
        """There was nothing to draw: its share goes to fresh tokens, and no debt is saved up."""
        self.credit[role] = 0.0

    def state(self) -> dict[str, float]:
        """Return the whole state."""
        return {role.value: credit for role, credit in self.credit.items()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continue from `state()`."""
        self.credit = {role: float(state[role.value]) for role in REPLAYED}
