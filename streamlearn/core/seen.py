"""Which texts were admitted lately, so that a repeat is learnt once.

Knows digests, not texts. Exact repeats only; near duplicates are another matter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.arrays import Arrays, column

DIGEST_BYTES = 16
MAX_DIGESTS = 100_000
"""Bound on memory and on every checkpoint (24 bytes each); the oldest are forgotten first."""


class Seen:
    """Digests of the texts of the last `length_s` seconds of event time."""

    def __init__(self, length_s: float, capacity: int = MAX_DIGESTS) -> None:
        self._length_s = length_s
        self._capacity = capacity
        self._newest = -np.inf
        self._ts: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ts)

    def repeats(self, digest: bytes, ts: float) -> bool:
        """Return whether `digest` was seen within the window before or after `ts`; remember it."""
        self._newest = max(self._newest, ts)
        earlier = self._ts.pop(digest, None)
        # The later of the two times stays, so that a text repeated for ever stays a repeat.
        self._ts[digest] = ts if earlier is None else max(ts, earlier)
        while len(self._ts) > self._capacity or self._newest - next(iter(self._ts.values())) > self._length_s:
            self._ts.popitem(last=False)
            if not self._ts:
                break
        return earlier is not None and abs(ts - earlier) <= self._length_s

    def arrays(self) -> Arrays:
        """Return the whole state as arrays: digests uint8 of shape (N, 16), times of shape (N,), the newest."""
        joined = b"".join(self._ts)
        return {
            "seen.digests": np.frombuffer(joined, dtype=np.uint8).reshape(-1, DIGEST_BYTES).copy(),
            "seen.ts": np.array(list(self._ts.values()), dtype=np.float64),
            "seen.newest": np.array([self._newest]),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Continue from `arrays()`; raises ValueError where they are no such thing."""
        times = column(arrays, "seen.ts", np.float64)
        digests = column(arrays, "seen.digests", np.uint8, entries=len(times), width=DIGEST_BYTES)
        self._ts = OrderedDict((row.tobytes(), float(ts)) for row, ts in zip(digests, times, strict=True))
        self._newest = float(column(arrays, "seen.newest", np.float64, entries=1)[0])
