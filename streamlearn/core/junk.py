"""Which chunks are not worth learning, by their loss alone.

A chunk far less predictable than the rest is noise to the model, one that is
predicted outright teaches nothing. Judged by losses before learning, in
stream order; knows no text. Text that a model finds ordinary passes, however
harmful.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class JunkSettings:
    """What is far, what is near, and when it is the stream itself."""

    z: float
    """Standard deviations above the running mean of the losses."""
    near_zero: float
    """Nats per token: of such a text a thousand tokens surprise as much as a handful of words."""
    min_tokens: int
    """A shorter chunk is never junk: its mean loss says little."""
    fading: float
    """α of the running mean and variance a chunk."""
    warmup_chunks: int
    """Chunks that only found mean and variance."""
    recent: int
    """Judged chunks of which more than half being out says that the stream has changed: that is no junk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The losses from which there is something to learn."""

    low: float = -math.inf
    """Nats per token."""
    high: float = math.inf
    min_tokens: int = 0
    """A shorter chunk is always accepted."""

    def junk(self, nll: float, tokens: int) -> Junk | None:
        """Return why a chunk of `nll` summed nats teaches nothing; None where it does, or where that is no number."""
        if not math.isfinite(nll) or tokens < self.min_tokens:
            return None
        if nll / tokens < self.low:
            return Junk.NEAR_ZERO
        return Junk.FAR if nll / tokens > self.high else None


EVERYTHING = Accepted()
"""No loss is refused."""


class Junk(StrEnum):
    """Why a chunk is not learnt."""

    FAR = "far"
    NEAR_ZERO = "near_zero"


class JunkFilter:
    """Running mean and variance of the losses of what is no junk."""

    def __init__(self, settings: JunkSettings) -> None:
        self._settings = settings
        self.counts: dict[Junk, int] = dict.fromkeys(Junk, 0)
        """Chunks not learnt, over the life of the lineage."""
        self._chunks = self._outside = 0
        """Chunks that mean and variance rest on; the last `recent` judged ones as bits, 1 for those out."""
        self._mean = self._variance = 0.0

    @property
    def accepted(self) -> Accepted:
        """What the next step should learn from, as far as the losses before it tell."""
        settings, known = self._settings, self._chunks >= self._settings.warmup_chunks
        return Accepted(
            low=settings.near_zero,
            high=self._mean + settings.z * math.sqrt(self._variance) if known else math.inf,
            min_tokens=settings.min_tokens,
        )

    def begin_anew(self) -> None:
        """Found mean and variance anew, as when another model is scored from now on."""
        self._chunks = self._outside = 0
        self._mean = self._variance = 0.0

    def observe(self, nll: float, tokens: int, accepted: Accepted) -> Junk | None:
        """Remember a chunk's loss; return why the step that read it did not learn from it, None where it did.

        Args:
            nll: summed nats before learning; what is no finite number is not judged here.
            tokens: scored tokens.
            accepted: what that step went by.
        """
        settings, junk = self._settings, accepted.junk(nll, tokens)
        if junk is not None:
            self.counts[junk] += 1
        if junk is Junk.NEAR_ZERO or not math.isfinite(nll) or tokens < settings.min_tokens:
            return junk
        far = junk is Junk.FAR
        self._outside = (self._outside << 1 | far) & ((1 << settings.recent) - 1)
        if far and self._outside.bit_count() * 2 > settings.recent:
            # Junk is rare, or it is the stream: begin anew with it.
            self._chunks = self._outside = 0
            self._mean = self._variance = 0.0
            far = False
        # Junk is left out of mean and variance, or enough of it would make itself ordinary.
        if not far:
            self._remember(nll / tokens)
        return junk

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        return {
            "counts": {reason.value: count for reason, count in self.counts.items()},
            "chunks": self._chunks,
            "mean": self._mean,
            "variance": self._variance,
            "outside": self._outside,
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self.counts = {reason: int(document["counts"][reason.value]) for reason in Junk}
        self._chunks, self._outside = int(document["chunks"]), int(document["outside"])
        self._mean, self._variance = float(document["mean"]), float(document["variance"])

    def _remember(self, loss: float) -> None:
        self._chunks += 1
        # A plain mean until it would be slower than the fading one.
        rate = max(1.0 / self._chunks, 1.0 - self._settings.fading)
        step = loss - self._mean
        self._mean += rate * step
        self._variance = (1.0 - rate) * (self._variance + rate * step * step)
