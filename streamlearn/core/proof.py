"""How fast to learn, by whether learning has helped of late.

Where the live model is not better than the base, there may be nothing to
learn, and a step is noise: it is small there. With every nat that learning
gains the steps grow, up to the full rate. The proof costs nothing: the base
is scored on sampled chunks anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofSettings:
    """What proves that learning helps."""

    full_gain: float
    """Nats per token of gain over the base from which the rate is the full one."""
    least: float
    """Factor on the rate while nothing is gained."""
    fading: float
    """Per sampled chunk."""


class Proof:
    """The gain over the base, lately."""

    def __init__(self, settings: ProofSettings) -> None:
        self._settings = settings
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was proved, as when another live model goes on."""
        self._gain = self._tokens = 0.0

    def observe(self, live: float, base: float | None, tokens: int) -> None:
        """Take in one fresh chunk's summed nats; one that the base was not asked about proves nothing."""
        if base is None or not math.isfinite(live) or not math.isfinite(base):
            return
        self._gain = self._settings.fading * self._gain + base - live
        self._tokens = self._settings.fading * self._tokens + tokens

    @property
    def rate_factor(self) -> float:
        """Factor on the learning rate of the next step."""
        gain = self._gain / self._tokens if self._tokens > 0.0 else 0.0
        return min(max(gain / self._settings.full_gain, self._settings.least), 1.0)

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        return {"gain": self._gain, "tokens": self._tokens}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self._gain, self._tokens = float(document["gain"]), float(document["tokens"])
