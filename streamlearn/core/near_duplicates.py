"""Which texts are almost one that was admitted lately, so that a reprint is learnt once.

Two texts are near duplicates when they share at least 0.8 of their runs of
three words (Jaccard), as MinHash estimates it (Broder, 1997; datasketch) with
a standard error of 0.035. Signatures are made where the text is known, the
memory of them is part of the checkpoint. Exact repeats are `seen`'s.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from streamlearn.core.arrays import Arrays, column

THRESHOLD = 0.8
PERMUTATIONS = 128
CAPACITY = 10_000
"""Texts remembered; each takes about 4 kB here and 520 bytes in a checkpoint. The oldest are forgotten first."""

Signature: TypeAlias = NDArray[np.uint32]
"""Shape (PERMUTATIONS,)."""

_SCHEME = "affine32"
"""datasketch's way to permute; named, so that a later default cannot make old signatures strangers."""
_BANDS = (9, 13)
"""Bands and rows that datasketch finds best for the threshold, by 20 ms of integrals that are always the same."""
_SHINGLE_WORDS = 3
_MAX_WORDS = 20_000
"""The beginning stands for a longer text: bounds the time to some 10 ms."""
_MIN_SHINGLES = 5
"""Fewer say too little; then only exact repeats are told."""
# Lone halves of surrogate pairs are no word characters, so every shingle can be encoded.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""Words; Chinese and Japanese, which put no space between them, by character."""


def signature(text: str) -> Signature | None:
    """Return what stands for `text`, about 0.3 ms for a page; None for one of fewer than 7 words.

    Case, punctuation and spacing make no difference.
    """
    words = _WORD.findall(text.casefold())[:_MAX_WORDS]
    shingles = {" ".join(words[i : i + _SHINGLE_WORDS]) for i in range(len(words) - _SHINGLE_WORDS + 1)}
    if len(shingles) < _MIN_SHINGLES:
        return None
    minhash = _blank().copy()
    minhash.update_batch([shingle.encode() for shingle in shingles])
    return np.asarray(minhash.hashvalues, dtype=np.uint32)


class NearDuplicates:
    """Signatures of the texts of the last `length_s` seconds of event time, none of them near another."""

    def __init__(self, length_s: float, capacity: int = CAPACITY) -> None:
        self._length_s = length_s
        self._capacity = capacity
        self._newest = -np.inf
        self._texts: OrderedDict[int, tuple[Signature, float]] = OrderedDict()
        self._next = 0
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=_BANDS)

    def __len__(self) -> int:
        return len(self._texts)

    def repeats(self, text: Signature | None, ts: float) -> bool:
        """Return whether `text` is near one seen within the window before or after `ts`; remember it if not.

        Only the first of several near texts is remembered, else a chain of small
        changes would lead anywhere. A text without a signature repeats nothing.
        """
        self._newest = max(self._newest, ts)
        self._expire()
        if text is None:
            return False
        match = self._nearest(text, ts)
        if match is None:
            self._insert(text, ts)
            self._expire()
            return False
        # The later of the two times stays, so that a text repeated for ever stays a repeat.
        kept, earlier = self._texts.pop(match)
        self._texts[match] = (kept, max(ts, earlier))
        return True

    def arrays(self) -> Arrays:
        """Return the whole state as arrays: signatures uint32 of shape (N, 128), times of shape (N,), the newest."""
        held = list(self._texts.values())
        return {
            "near.signatures": np.array([text for text, _ in held], dtype=np.uint32).reshape(-1, PERMUTATIONS),
            "near.ts": np.array([ts for _, ts in held], dtype=np.float64),
            "near.newest": np.array([self._newest]),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Continue from `arrays()`; the index is built anew, about 45 µs a text.

        Raises:
            ValueError: they are no such thing.
        """
        times = column(arrays, "near.ts", np.float64)
        texts = column(arrays, "near.signatures", np.uint32, entries=len(times), width=PERMUTATIONS)
        newest = column(arrays, "near.newest", np.float64, entries=1)
        self._texts, self._next = OrderedDict(), 0
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=_BANDS)
        for text, ts in zip(texts, times, strict=True):
            self._insert(text, float(ts))
        self._newest = float(newest[0])

    def _nearest(self, text: Signature, ts: float) -> int | None:
        best: tuple[float, float, bytes] | None = None
        match: int | None = None
        for key in self._index.query(_minhash(text)):
            kept, earlier = self._texts[key]
            # The index alone would take one in twelve texts that share 0.7.
            similarity = float(np.mean(kept == text))
            if similarity < THRESHOLD or abs(ts - earlier) > self._length_s:
                continue
            # The index answers in any order, and numbers change at a restart: rank by content alone.
            rank = (similarity, earlier, kept.tobytes())
            if best is None or rank > best:
                best, match = rank, key
        return match

    def _insert(self, text: Signature, ts: float) -> None:
        self._index.insert(self._next, _minhash(text))
        self._texts[self._next] = (text, ts)
        self._next += 1

    def _expire(self) -> None:
        while self._texts:
            key, (_, ts) = next(iter(self._texts.items()))
            if len(self._texts) <= self._capacity and self._newest - ts <= self._length_s:
                return
            self._texts.popitem(last=False)
            self._index.remove(key)


@cache
def _blank() -> MinHash:
    return MinHash(num_perm=PERMUTATIONS, seed=1, scheme=_SCHEME)


def _minhash(text: Signature) -> MinHash:
    return MinHash(hashvalues=text, permutations=_blank().permutations, scheme=_SCHEME)
