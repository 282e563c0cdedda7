"""Real texts by source, drawn at random and each once.

What synthetic streams are made of. Says nothing of order or time.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeAlias

import numpy as np

from streamlearn.demo import data

Pools: TypeAlias = Mapping[str, Sequence[str]]
"""{source: its texts}."""


@cache
def bundled() -> Pools:
    """Return the bundled release notes by project: cython, django, pip, pytest, sqlalchemy, twisted.

    4,202 texts of up to 1,200 characters, about 300 tokens.
    """
    pools: dict[str, list[str]] = {}
    with gzip.open(data.resolve(f"{data.PREFIX}changelogs"), "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            pools.setdefault(row["topic"], []).append(row["text"])
    return {source: tuple(texts) for source, texts in sorted(pools.items())}


class Texts:
    """The texts of `pools` that were not drawn yet, and the generator of all that is random."""

    def __init__(self, pools: Pools | None, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        pools = bundled() if pools is None else pools
        # Sorted, so that equal pools give equal streams in whatever order they were built.
        self._left = {
            source: [pools[source][place] for place in self.random.permutation(len(pools[source]))]
            for source in sorted(pools)
        }

    def of(self, source: str) -> tuple[str, str]:
        """Return (source, a text of it).

        Raises:
            ValueError: there is none, or none left.
        """
        if source not in self._left:
            raise ValueError(f"there are no texts of {source!r}; there are those of {', '.join(self._left)}")
        if not self._left[source]:
            raise ValueError(f"{source!r} has no text left; ask for fewer events or give a larger pool")
        return source, self._left[source].pop()

    def any(self) -> tuple[str, str]:
        """Return (source, text), each text that is left as likely as the next.

        Raises:
            ValueError: none is left.
        """
        sizes = [len(texts) for texts in self._left.values()]
        if not sum(sizes):
            raise ValueError("the pools have no text left; ask for fewer events or give larger pools")
        place = int(self.random.integers(sum(sizes)))
        return self.of(list(self._left)[int(np.searchsorted(np.cumsum(sizes), place, side="right"))])
