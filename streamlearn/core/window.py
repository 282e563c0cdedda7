"""The recent past, from which a step may draw again.

The window holds chunks that were learnt once, bounded in age, tokens and
bytes, and draws among them by decay. It does not know why a chunk is in it,
and never holds one that has not had its fresh visit: what is not yet scored
must not be learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.arrays import Arrays, column, pack, unpack
from streamlearn.core.decay import HalfLife, effective_sample_size, lengthened
from streamlearn.core.events import Chunk
from streamlearn.core.reaction import Reaction

_BYTES_PER_TOKEN = 5  # int32 id and one byte of mask


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBounds:
    """How far back the window reaches."""

    half_life_s: float
    length_s: float
    """Event-time seconds after which a chunk leaves."""
    min_effective_chunks: int
    """Chunks that age alone never evicts, and the floor on the effective sample size."""
    max_tokens: int
    max_bytes: int
    max_visits: int
    """Draws that one chunk may get."""


class Window:
    """A sliding window in event time, drawn from with p ∝ 2^(−age / half-life)."""

    def __init__(self, bounds: WindowBounds) -> None:
        self._bounds = bounds
        self._chunks: list[Chunk] = []
        self._ts: NDArray[np.float64] = np.zeros(0)
        self._visits: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._numbers: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._newest = -np.inf
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def add(self, chunk: Chunk, ts: float, number: int) -> None:
        """Take in a chunk of an event at event time `ts`, and let go what is out of bounds.

        Args:
            number: which fresh chunk of the lineage it is, from 0.
        """
        self._chunks.append(chunk)
        self._numbers = np.append(self._numbers, np.int64(number))
        self._ts = np.append(self._ts, ts)
        self._visits = np.append(self._visits, np.int32(0))
        self._newest = max(self._newest, ts)
        self.tokens += len(chunk.ids)
        self._evict()

    def draw(self, random: np.random.Generator, reaction: Reaction | None = None) -> Chunk | None:
        """Return a chunk by decay and count the visit; None where none may be visited again.

        Args:
            reaction: to drift: what it does to the half-life, and to chunks from before.
        """
        eligible = np.flatnonzero(self._visits < self._bounds.max_visits)
        if eligible.size == 0:
            return None
        weights = self._weights(1.0 if reaction is None else reaction.half_life_factor)
        if reaction is not None:
            weights = weights * reaction.weights(self._numbers)
        cumulated = np.cumsum(weights[eligible])
        # A weight may underflow to nothing for very old chunks; then all are alike.
        if cumulated[-1] <= 0.0:
            cumulated = np.arange(1.0, eligible.size + 1.0)
        place = int(np.searchsorted(cumulated, random.random() * cumulated[-1], side="right"))
        index = int(eligible[min(place, eligible.size - 1)])
        self._visits[index] += 1
        return self._chunks[index]

    def drop(self, first: int, behind: int) -> None:
        """Let the chunks numbered from `first` up to before `behind` go."""
        self._keep_but((self._numbers >= first) & (self._numbers < behind))

    @property
    def newest(self) -> float:
        """The newest event time ever added, seconds since 1970; minus infinity before the first."""
        return float(self._newest)

    def effective_chunks(self) -> float:
        """Return the effective sample size of the window's weights."""
        return effective_sample_size(self._weights()) if self._chunks else 0.0

    def arrays(self) -> Arrays:
        """Return the whole state as arrays."""
        return pack("window", self._chunks) | {
            "window.ts": self._ts.copy(),
            "window.visits": self._visits.copy(),
            "window.number": self._numbers.copy(),
            # Not the newest held: that one may have left for want of tokens.
            "window.newest": np.array([self._newest]),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Continue from `arrays()`; raises ValueError where they are no such thing."""
        self._chunks = unpack("window", arrays)
        self._ts = column(arrays, "window.ts", np.float64, entries=len(self._chunks))
        self._visits = column(arrays, "window.visits", np.int32, entries=len(self._chunks))
        self._numbers = column(arrays, "window.number", np.int64, entries=len(self._chunks))
        self._newest = float(column(arrays, "window.newest", np.float64, entries=1)[0])
        self.tokens = sum(len(chunk.ids) for chunk in self._chunks)

    def _weights(self, half_life_factor: float = 1.0) -> NDArray[np.float64]:
        ages = self._newest - self._ts
        nominal = HalfLife(seconds=self._bounds.half_life_s * half_life_factor)
        return lengthened(nominal, ages, self._bounds.min_effective_chunks).weights(ages)

    def _evict(self) -> None:
        old = self._newest - self._ts > self._bounds.length_s
        spare = max(len(self._chunks) - self._bounds.min_effective_chunks, 0)
        # Among the too old, those that came first go first; the floor of chunks stays.
        out = old & (np.cumsum(old) <= spare)
        limit = min(self._bounds.max_tokens, self._bounds.max_bytes // _BYTES_PER_TOKEN)
        tokens = self.tokens - sum(len(self._chunks[i].ids) for i in np.flatnonzero(out))
        first = 0
        while tokens > limit and first < len(self._chunks) - 1:
            if not out[first]:
                out[first] = True
                tokens -= len(self._chunks[first].ids)
            first += 1
        self._keep_but(out)

    def _keep_but(self, out: NDArray[np.bool_]) -> None:
        if (gone := int(np.count_nonzero(out))) == 0:
            return
        self.tokens -= sum(len(self._chunks[place].ids) for place in np.flatnonzero(out))
        if out[:gone].all():
            # As good as always those that came first; a full window lets one go with each that comes.
            del self._chunks[:gone]
        else:
            self._chunks = [chunk for chunk, left in zip(self._chunks, out, strict=True) if not left]
        self._ts, self._visits, self._numbers = self._ts[~out], self._visits[~out], self._numbers[~out]
