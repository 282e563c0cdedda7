"""How much an old event still counts.

A weight depends on age alone, in event time against the newest event seen,
never on the wall clock, so replaying a topic reproduces the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfLife:
    """Exponential decay: every `seconds` of age halves an event's weight."""

    seconds: float

    def weights(self, age_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weights, in [0, 1], of events `age_s` seconds old, shape of `age_s`.

        A negative age is a producer's clock running ahead; it counts as new.

        >>> HalfLife(seconds=60).weights(np.array([0.0, 120.0])).tolist()
        [1.0, 0.25]
        """
        return np.exp2(-np.maximum(age_s, 0.0) / self.seconds)

    def weight(self, age_s: float) -> float:
        """Return the weight, in [0, 1], of one event `age_s` seconds old.

        >>> HalfLife(seconds=60).weight(120.0)
        0.25
        """
        return float(self.weights(np.array(age_s)))


def effective_sample_size(weights: NDArray[np.float64]) -> float:
    """Return (Σw)² / Σw²: how many equally weighted samples tell as much (Kish, 1965).

    >>> effective_sample_size(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0.0 else 0.0


def lengthened(half_life: HalfLife, age_s: NDArray[np.float64], floor: int) -> HalfLife:
    """Return the shortest doubling of `half_life` whose effective sample size reaches `floor`.

    With too few recent events, replay would repeat a handful of chunks. A floor
    above nine tenths of the sample asks for nine tenths: equal weights never
    give more than there is.
    """
    goal = min(float(floor), 0.9 * len(age_s))
    longer = half_life
    # 2^64 half-lives is flat for any age that fits a float's precision.
    for _ in range(64):
        if effective_sample_size(longer.weights(age_s)) >= goal:
            return longer
        longer = HalfLife(seconds=longer.seconds * 2.0)
    return longer
