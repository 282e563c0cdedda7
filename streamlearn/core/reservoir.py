"""A uniform sample of the whole past, for replay against forgetting.

Stratified: each source keeps a sample of its own (Algorithm R; Vitter, 1985),
none larger than another that would have had more to hold, and a draw takes a
source by how much it ever offered.
So a draw is uniform over the whole past, and a source that spoke long ago and
little is not lost by bad luck. Age plays no part here; that is the window's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.arrays import Arrays, column, pack, unpack
from streamlearn.core.events import Chunk

_MAX_STRATA = 64
"""Sources with a sample of their own; the others share one."""
_LEAST_CHUNKS = 4
"""Room that there is for each of them, however small the reservoir."""
_OTHERS = ""


@dataclass(slots=True)
class _Stratum:
    chunks: list[Chunk] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Which fresh chunk of the lineage each was."""
    offered: int = 0


class Reservoir:
    """At most `capacity` chunks; a draw makes every chunk ever offered about equally likely."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._strata: dict[str, _Stratum] = {}

    def __len__(self) -> int:
        return sum(len(stratum.chunks) for stratum in self._strata.values())

    @property
    def offered(self) -> int:
        """Chunks offered over the life of the lineage."""
        return sum(stratum.offered for stratum in self._strata.values())

    def offer(self, chunk: Chunk, source: str, number: int, random: np.random.Generator) -> None:
        """Hold `chunk` in place of another of its source, or let it pass.

        Args:
            number: which fresh chunk of the lineage it is, from 0.
        """
        if self._capacity == 0:
            return
        stratum = self._stratum(source)
        stratum.offered += 1
        if len(stratum.chunks) == stratum.offered - 1 and self._has_room(stratum, random):
            stratum.chunks.append(chunk)
            stratum.numbers.append(number)
        elif (place := int(random.integers(stratum.offered))) < len(stratum.chunks):
            stratum.chunks[place], stratum.numbers[place] = chunk, number

    def draw(self, random: np.random.Generator) -> Chunk | None:
        """Return one of the held chunks; None where there is none."""
        held = [stratum for stratum in self._strata.values() if stratum.chunks]
        if not held:
            return None
        ends = np.cumsum([stratum.offered for stratum in held])
        chunks = held[int(np.searchsorted(ends, random.integers(ends[-1]), side="right"))].chunks
        return chunks[int(random.integers(len(chunks)))]

    def drop(self, first: int, behind: int) -> None:
        """Let the chunks numbered from `first` up to before `behind` go.

        What passed of them is not known; as a sample is uniform, it was a like share of all that was offered.
        """
        for stratum in self._strata.values():
            held = len(stratum.chunks)
            kept = [place for place, number in enumerate(stratum.numbers) if not first <= number < behind]
            if len(kept) == held:
                continue
            stratum.chunks = [stratum.chunks[place] for place in kept]
            stratum.numbers = [stratum.numbers[place] for place in kept]
            stratum.offered = stratum.offered * len(kept) // held

    def arrays(self) -> Arrays:
        """Return the chunks as arrays, source by source."""
        numbers = [number for stratum in self._strata.values() for number in stratum.numbers]
        return pack("reservoir", [chunk for stratum in self._strata.values() for chunk in stratum.chunks]) | {
            "reservoir.number": np.array(numbers, dtype=np.int64)
        }

    def document(self) -> list[dict[str, Any]]:
        """Return the rest of the state as JSON: the sources in their order."""
        return [
            {"source": source, "chunks": len(stratum.chunks), "offered": stratum.offered}
            for source, stratum in self._strata.items()
        ]

    def restore(self, document: Sequence[Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Continue from `document()` and `arrays()`; raises ValueError where they are no such thing."""
        chunks = unpack("reservoir", arrays)
        ends = np.cumsum([each["chunks"] for each in document], dtype=np.int64).tolist()
        if (told := ends[-1] if ends else 0) != len(chunks):
            raise ValueError(f"the reservoir holds {len(chunks):,} chunks, but its sources tell of {told:,}")
        numbers = column(arrays, "reservoir.number", np.int64, entries=len(chunks)).tolist()
        self._strata = {
            str(each["source"]): _Stratum(
                chunks[end - each["chunks"] : end], numbers[end - each["chunks"] : end], int(each["offered"])
            )
            for each, end in zip(document, ends, strict=True)
        }
        if any(each["chunks"] < 0 for each in document) or len(self._strata) != len(document):
            raise ValueError("the reservoir's sources are told twice, or of less than nothing")
        if any(len(stratum.chunks) > stratum.offered for stratum in self._strata.values()):
            raise ValueError("the reservoir holds more chunks than were ever offered")

    def _has_room(self, stratum: _Stratum, random: np.random.Generator) -> bool:
        """Say whether a sample that still holds all it was offered may grow, at the cost of the largest if need be."""
        if len(self) < self._capacity:
            return True
        largest = max(self._strata.values(), key=lambda other: len(other.chunks))
        if len(largest.chunks) <= len(stratum.chunks) + 1:
            return False
        # A uniform sample of its own it stays, only smaller; and it never grows again, which would favour the newest.
        place = int(random.integers(len(largest.chunks)))
        del largest.chunks[place], largest.numbers[place]
        return True

    def _stratum(self, source: str) -> _Stratum:
        if source not in self._strata and len(self._strata) >= min(_MAX_STRATA, self._capacity // _LEAST_CHUNKS) - 1:
            source = _OTHERS
        return self._strata.setdefault(source, _Stratum())
