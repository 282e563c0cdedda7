"""Chunks as padded tensors, with little padding.

Shape suffixes: B chunks, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamlearn.core.events import Chunk

IGNORED = -100
"""Label of a token that carries no loss; PyTorch's own convention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Chunks that share a forward."""

    places: tuple[int, ...]
    """Where each row was in the list it came from."""
    ids_BT: Tensor
    mask_BT: Tensor | None
    """1 for tokens, 0 for padding; None where nothing is padded."""
    labels_BT: Tensor
    """The token each position must predict, `IGNORED` where it carries no loss."""


def micro_batches(chunks: Sequence[Chunk], *, device: torch.device, rows: int, waste: float) -> Iterator[MicroBatch]:
    """Yield all of `chunks`, the longest first, grouped by length.

    Args:
        rows: most chunks in one forward.
        waste: most padding in one forward, as a share of its tokens.
    """
    order = sorted(range(len(chunks)), key=lambda place: (-len(chunks[place].ids), place))
    group: list[int] = []
    for place in order:
        longest = len(chunks[group[0]].ids) if group else 0
        tokens = sum(len(chunks[i].ids) for i in group) + len(chunks[place].ids)
        if group and (len(group) == rows or tokens < (1.0 - waste) * longest * (len(group) + 1)):
            yield _padded(chunks, group, device)
            group = []
        group.append(place)
    if group:
        yield _padded(chunks, group, device)


def _padded(chunks: Sequence[Chunk], places: Sequence[int], device: torch.device) -> MicroBatch:
    longest = max(len(chunks[place].ids) for place in places)
    ids = np.zeros((len(places), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    labels = np.full_like(ids, IGNORED)
    for row, place in enumerate(places):
        chunk = chunks[place]
        length = len(chunk.ids)
        ids[row, :length] = chunk.ids
        mask[row, :length] = 1
        labels[row, : length - 1] = np.where(chunk.scored[1:], chunk.ids[1:], IGNORED)
    return MicroBatch(
        places=tuple(places),
        ids_BT=torch.from_numpy(ids).to(device),
        mask_BT=None if mask.all() else torch.from_numpy(mask).to(device),
        labels_BT=torch.from_numpy(labels).to(device),
    )
