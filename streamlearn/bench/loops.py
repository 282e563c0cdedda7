"""The loop people write first: for each event one gradient step on all weights.

Also the arm that never learns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamlearn.core.events import Arrival, Chunk
from streamlearn.learner.model import Loaded
from streamlearn.learner.scoring import Scorer

SGD_RATE = 1e-4
ADAMW_RATE = 1e-5
"""At SGD's rate AdamW with PyTorch's defaults would wreck the model, so it gets the rate of fine-tuning."""


class Frozen:
    """The base, as it came."""

    def __init__(self, loaded: Loaded) -> None:
        self._scorer = Scorer(loaded)

    def scores(self, arrivals: Sequence[Arrival]) -> Iterator[float]:
        """Yield each chunk's score; nothing is learnt."""
        for arrival in arrivals:
            yield from self._scorer.scores(arrival.chunks).tolist()

    def served_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return each chunk's score, shape (B,)."""
        return self._scorer.scores(chunks)


class FullWeights:
    """One step of an optimiser on all weights for each event."""

    def __init__(self, loaded: Loaded, optimizer_of: Callable[[Any], torch.optim.Optimizer]) -> None:
        # In float32: steps of 1e-4 would vanish in bf16's rounding.
        model = loaded.model.unload().float().requires_grad_(True)
        self._scorer = Scorer(dataclasses.replace(loaded, model=model))
        self._optimizer = optimizer_of(model.parameters())

    def scores(self, arrivals: Sequence[Arrival]) -> Iterator[float]:
        """Yield the scores of each event's chunks, then take a step on their mean loss."""
        for arrival in arrivals:
            tokens = sum(chunk.scored_tokens for chunk in arrival.chunks)
            nll = np.zeros(len(arrival.chunks))
            for micro in self._scorer.batches(arrival.chunks):
                nll_C = self._scorer.nll(micro)
                (nll_C.sum() / tokens).backward()  # type: ignore[no-untyped-call]
                nll[list(micro.places)] = nll_C.detach().double().cpu().numpy()
            self._optimizer.step()
            self._optimizer.zero_grad()
            yield from nll.tolist()

    def served_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return each chunk's score, shape (B,)."""
        return self._scorer.scores(chunks)


def sgd_loop(loaded: Loaded, rate: float) -> FullWeights:
    """Plain SGD."""
    return FullWeights(loaded, lambda parameters: torch.optim.SGD(parameters, lr=rate))


def adamw_loop(loaded: Loaded, rate: float) -> FullWeights:
    """AdamW with PyTorch's defaults."""
    return FullWeights(loaded, lambda parameters: torch.optim.AdamW(parameters, lr=rate))
