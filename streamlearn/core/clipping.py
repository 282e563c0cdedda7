"""How long a gradient may be, judged by the ones before it.

ZClip (Kumar, Owen, Chowdhury and Güra, "ZClip: Adaptive Spike Mitigation for
LLM Pre-Training", arXiv:2504.02507, 2025): a norm more than z standard
deviations above the running mean is drawn back, the further out the more.
Knows norms, not tensors.

One thing is added. As published, norms that rise for good are drawn back for
ever: what is remembered is drawn back too, so the variance dies away and every
norm stays an outlier (measured: from 0.2 ± 0.02 to 0.4 for good, still halved
after 150 steps). So when more than half of the last steps were outliers, the
past is forgotten and `max_norm` alone holds while mean and variance are found anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSettings:
    """How gradients are bounded."""

    max_norm: float
    """L2 norm never exceeded, whatever the past says."""
    z: float
    """Standard deviations above the mean at which a norm is an outlier."""
    fading: float
    """α of the running mean and variance a step: about the last 33 steps."""
    warmup_steps: int
    """Steps that only found mean and variance; `max_norm` alone bounds them."""
    recent: int
    """Steps of which more than half being outliers says that norms have changed for good."""


class GradientClip:
    """Running mean and variance of gradient norms, and the bound that follows."""

    def __init__(self, settings: ClipSettings) -> None:
        self._settings = settings
        self._count = self._outside = 0
        """Steps that mean and variance rest on; the last `recent` steps as bits, 1 for outliers."""
        self._mean = self._variance = 0.0
        self.clipped = 0
        """Steps drawn back as outliers; `max_norm` alone does not count."""

    def scale(self, norm: float) -> float:
        """Return the factor, in (0, 1], for a gradient of L2 norm `norm`, and remember the norm.

        A norm that is no finite number leaves no trace and gets 1.0: that step is to be dropped.
        """
        if not math.isfinite(norm) or norm <= 0.0:
            return 1.0
        recent, allowed = self._settings.recent, self._allowed(norm)
        self._outside = (self._outside << 1 | (allowed < norm)) & ((1 << recent) - 1)
        if allowed < norm and self._outside.bit_count() * 2 > recent:
            self._count = self._outside = 0
            self._mean = self._variance = 0.0
            allowed = norm
        self.clipped += allowed < norm
        # The norm as drawn back: a spike must not make room for the next one.
        self._remember(allowed)
        return min(allowed, self._settings.max_norm, norm) / norm

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        return {
            "count": self._count,
            "outside": self._outside,
            "mean": self._mean,
            "variance": self._variance,
            "clipped": self.clipped,
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self._count, self._outside = int(document["count"]), int(document["outside"])
        self.clipped = int(document["clipped"])
        self._mean, self._variance = float(document["mean"]), float(document["variance"])

    def _allowed(self, norm: float) -> float:
        sd = math.sqrt(self._variance)
        # Norms that were all alike know no outliers.
        if self._count < self._settings.warmup_steps or sd == 0.0:
            return norm
        z = (norm - self._mean) / sd
        return self._mean + self._settings.z**2 / z * sd if z > self._settings.z else norm

    def _remember(self, norm: float) -> None:
        self._count += 1
        if self._count <= self._settings.warmup_steps:
            step = norm - self._mean
            self._mean += step / self._count
            self._variance += (step * (norm - self._mean) - self._variance) / self._count
            return
        fading = self._settings.fading
        self._mean = fading * self._mean + (1.0 - fading) * norm
        self._variance = fading * self._variance + (1.0 - fading) * (norm - self._mean) ** 2
