"""A lower bound on a mean that may be looked at after every observation.

Peeking at an ordinary confidence interval until it says yes breaks its
promise; a confidence *sequence* keeps it at all times at once. This is the
one-sided asymptotic one of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas
("Time-uniform central limit theory and asymptotic confidence sequences",
Annals of Statistics 52(6), 2024): after t observations the mean is above

    mean − sd · √( 2(tρ² + 1) / (t²ρ²) · ln(1 + √(tρ² + 1) / (2α)) )

for all t together with probability 1 − α, as far as the observations are
nearly normal and nearly independent. Making them so is the caller's (`blocks`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def rho_for(count: int, alpha: float) -> float:
    """Return the ρ with which the bound is about tightest after `count` observations.

    The closed form of Waudby-Smith et al. (2024, appendix), with 2α for one side.

    >>> round(rho_for(40, 0.05), 3)
    0.398
    """
    error = -2.0 * math.log(2.0 * alpha)
    return math.sqrt((error + math.log(error + 1.0)) / count)


class LowerConfidence:
    """Running mean, standard deviation and time-uniform lower bound of a series.

    Welford's recurrence (1962), so that years of observations lose no digits.
    """

    def __init__(self, *, alpha: float, rho: float) -> None:
        self.alpha = alpha
        self._rho = rho
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        """Take in one observation, in the unit of the bound."""
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def sd(self) -> float:
        """Sample standard deviation; 0.0 below two observations."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def lower(self) -> float:
        """The bound; −∞ below two observations, which know no spread."""
        if self.count < 2:  # noqa: PLR2004 - a spread takes two
            return -math.inf
        spread = self.count * self._rho**2 + 1.0
        radius = math.sqrt(
            2.0 * spread / (self.count * self._rho) ** 2 * math.log1p(math.sqrt(spread) / (2.0 * self.alpha))
        )
        return self.mean - self.sd * radius

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self.count = int(document["count"])
        self.mean = float(document["mean"])
        self._squares = float(document["squares"])
