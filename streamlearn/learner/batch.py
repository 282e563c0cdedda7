"""Chunks as tensors that share a forward.

A forward costs a good deal however little it reads, and padding costs as much
as text. So chunks of different lengths are packed end to end, each blind to
the others; where a model cannot do that, they are padded to little waste.

Shape suffixes: B rows, T tokens, C chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamlearn.core.events import Chunk

IGNORED = -100
"""Label of a token that carries no loss; PyTorch's own convention."""


_MULTIPLE = 32
_BLINDNESS = 0.2
"""What attention costs more where a mask keeps chunks apart, in padding that costs as much, as a share of the tokens;
measured on two cores: 1.31 s against 1.11 s for two chunks of 256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Chunks that share a forward."""

    places: tuple[int, ...]
    """Where each chunk was in the list it came from."""
    ids_BT: Tensor
    labels_BT: Tensor
    """The token each position must predict, `IGNORED` where it carries no loss."""
    positions_BT: Tensor | None = None
    """Each token's position in its own chunk, where several share a row; a fall tells attention where one begins."""
    lengths: tuple[int, ...] | None = None
    """Tokens of each chunk and of the padding at the end, where several share a row."""

    def by_chunk(self, nll_BT: Tensor) -> Tensor:
        """Return the sum over each chunk, shape (C,), of what was found for each token."""
        if self.lengths is None:
            return nll_BT.sum(dim=1)
        return torch.stack([part.sum() for part in torch.split(nll_BT[0], list(self.lengths))[: len(self.places)]])


def packed(chunks: Sequence[Chunk], *, device: torch.device, tokens: int) -> Iterator[MicroBatch]:
    """Yield all of `chunks` in their order, as many at a time as `tokens` allow.

    Chunks of about the same length keep rows of their own, where attention is cheapest.
    """
    group: list[int] = []
    for place, chunk in enumerate(chunks):
        if group and sum(len(chunks[each].ids) for each in group) + len(chunk.ids) > tokens:
            yield _together(chunks, group, device)
            group = []
        group.append(place)
    if group:
        yield _together(chunks, group, device)


def padded(chunks: Sequence[Chunk], *, device: torch.device, rows: int, waste: float) -> Iterator[MicroBatch]:
    """Yield all of `chunks`, the longest first, grouped by length.

    Args:
        rows: most chunks in one forward.
        waste: most padding in one forward, as a share of its tokens.
    """
    order = sorted(range(len(chunks)), key=lambda place: (-len(chunks[place].ids), place))
    group: list[int] = []
    for place in order:
        longest = len(chunks[group[0]].ids) if group else 0
        tokens = sum(len(chunks[each].ids) for each in group) + len(chunks[place].ids)
        if group and (len(group) == rows or tokens < (1.0 - waste) * longest * (len(group) + 1)):
            yield _padded(chunks, group, device)
            group = []
        group.append(place)
    if group:
        yield _padded(chunks, group, device)


def _together(chunks: Sequence[Chunk], places: Sequence[int], device: torch.device) -> MicroBatch:
    lengths = [len(chunks[place].ids) for place in places]
    padding = max(lengths) * len(lengths) - sum(lengths)
    form = _padded if padding <= _BLINDNESS * sum(lengths) else _packed
    return form(chunks, places, device)


def in_one_row(chunks: Sequence[Chunk], device: torch.device) -> MicroBatch:
    """Return `chunks` end to end."""
    return _packed(chunks, range(len(chunks)), device)


def _packed(chunks: Sequence[Chunk], places: Sequence[int], device: torch.device) -> MicroBatch:
    lengths = [len(chunks[place].ids) for place in places]
    spare = _rounded(sum(lengths)) - sum(lengths)
    padding = np.zeros(spare, dtype=np.int64)
    return MicroBatch(
        places=tuple(places),
        ids_BT=_row([*(chunks[place].ids for place in places), padding], device),
        labels_BT=_row([*(_labels(chunks[place]) for place in places), padding + IGNORED], device),
        # Padding counts on from the last chunk, which does not see what comes after it.
        positions_BT=_row([*(np.arange(each) for each in lengths[:-1]), np.arange(lengths[-1] + spare)], device),
        lengths=(*lengths, spare),
    )


def _row(parts: Sequence[NDArray[np.integer]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))[None].to(device)


def _padded(chunks: Sequence[Chunk], places: Sequence[int], device: torch.device) -> MicroBatch:
    longest = _rounded(max(len(chunks[place].ids) for place in places))
    ids = np.zeros((len(places), longest), dtype=np.int64)
    labels = np.full_like(ids, IGNORED)
    for row, place in enumerate(places):
        length = len(chunks[place].ids)
        ids[row, :length] = chunks[place].ids
        labels[row, :length] = _labels(chunks[place])
    # No mask: a causal model never looks from a token to the padding behind it.
    return MicroBatch(
        places=tuple(places), ids_BT=torch.from_numpy(ids).to(device), labels_BT=torch.from_numpy(labels).to(device)
    )


def _rounded(tokens: int) -> int:
    """Return the next multiple of 32.

    Kernels are compiled for each length anew, and the heap falls to pieces over blocks of ever new sizes: in the demo
    on two cores, 302 tokens a second and 3.1 GB after a minute without it, 334 and 2.5 GB after three with it.
    """
    return -(-tokens // _MULTIPLE) * _MULTIPLE


def _labels(chunk: Chunk) -> NDArray[np.int64]:
    """Return what each position must predict; the last one nothing."""
    labels = np.full(len(chunk.ids), IGNORED, dtype=np.int64)
    labels[:-1] = np.where(chunk.scored[1:], chunk.ids[1:], IGNORED)
    return labels
