"""The learners that are compared, by name.

An arm scores every chunk before it learns from it, in stream order; how and
when it learns is its own affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.events import Arrival, Chunk


class Arm(Protocol):
    """One way to live with a stream."""

    def scores(self, arrivals: Sequence[Arrival]) -> Iterator[float]:
        """Yield the summed NLL in nats of every chunk, in order, each found before it was learnt from."""

    def served_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return the summed NLL in nats of each chunk under what would be served now, shape (B,)."""
