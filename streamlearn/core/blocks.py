"""Paired losses of two models, gathered into blocks that behave like independent ones.

Losses of neighbouring chunks are alike, and a test that takes each for a
new witness convinces itself too soon: A/A promotions rise from under 5 % to
about a third at AR(1) = 0.5. The mean of 16 neighbours is nearly independent
of the next one. Knows differences, not which model should win.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLOCK_CHUNKS = 16


class Blocks:
    """Differences in nats per token over each `size` consecutive chunks.

    Within a block, sums over sums: tokens weigh alike, as in every reported
    score, and a chunk of three tokens cannot outshout one of 256. Blocks then
    weigh alike, since the test wants exchangeable observations.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._chunks = 0
        self._tokens = 0
        self._difference = 0.0

    def add(self, first_nll: float, second_nll: float, tokens: int) -> float | None:
        """Take in one chunk; return the block's mean of first − second when it is full, in nats per token.

        Args:
            first_nll: summed nats of the chunk under one model; finite.
            second_nll: the same under the other.
            tokens: scored tokens of the chunk; one without any is passed over.
        """
        if tokens <= 0:
            return None
        self._chunks += 1
        self._tokens += tokens
        self._difference += first_nll - second_nll
        if self._chunks < self._size:
            return None
        mean = self._difference / self._tokens
        self._chunks, self._tokens, self._difference = 0, 0, 0.0
        return mean

    def document(self) -> dict[str, Any]:
        """Return the open block as JSON."""
        return {"chunks": self._chunks, "tokens": self._tokens, "difference": self._difference}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self._chunks = int(document["chunks"])
        self._tokens = int(document["tokens"])
        self._difference = float(document["difference"])
