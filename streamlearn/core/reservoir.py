"""A uniform sample of the whole past, for replay against forgetting.

Algorithm R (Vitter, 1985): after n chunks each is held with probability
capacity / n, whatever their order. Age plays no part here; that is the window's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.arrays import Arrays, column, pack, unpack
from streamlearn.core.events import Chunk


class Reservoir:
    """At most `capacity` chunks, each of all that were offered equally likely to be among them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._chunks: list[Chunk] = []
        self.offered = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def offer(self, chunk: Chunk, random: np.random.Generator) -> None:
        """Hold `chunk` in place of another, or let it pass."""
        self.offered += 1
        if len(self._chunks) < self._capacity:
            self._chunks.append(chunk)
        elif (place := int(random.integers(self.offered))) < self._capacity:
            self._chunks[place] = chunk

    def draw(self, random: np.random.Generator) -> Chunk | None:
        """Return one of the held chunks, each equally likely; None where there is none."""
        return self._chunks[int(random.integers(len(self._chunks)))] if self._chunks else None

    def arrays(self) -> Arrays:
        """Return the whole state as arrays."""
        return pack("reservoir", self._chunks) | {"reservoir.offered": np.array([self.offered], dtype=np.int64)}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Continue from `arrays()`; raises ValueError where they are no such thing."""
        self._chunks = unpack("reservoir", arrays)
        self.offered = int(column(arrays, "reservoir.offered", np.int64, entries=1)[0])
        if self.offered < len(self._chunks):
            raise ValueError(f"the reservoir holds {len(self._chunks):,} chunks of {self.offered:,} that were offered")
