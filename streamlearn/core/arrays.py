"""Chunks as flat arrays and back: the form in which they enter a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from streamlearn.core.events import Chunk

Arrays: TypeAlias = dict[str, NDArray[Any]]


def pack(name: str, chunks: Sequence[Chunk]) -> Arrays:
    """Return `chunks` as four arrays under `name`.

    `<name>.ids` int32 and `<name>.scored` uint8 are the chunks end to end;
    `<name>.length` and `<name>.text_bytes` int32 have one entry a chunk.
    """
    return {
        f"{name}.ids": np.concatenate([chunk.ids for chunk in chunks], dtype=np.int32) if chunks else _NO_IDS,
        f"{name}.scored": (
            np.concatenate([chunk.scored for chunk in chunks]).astype(np.uint8) if chunks else _NO_FLAGS
        ),
        f"{name}.length": np.array([len(chunk.ids) for chunk in chunks], dtype=np.int32),
        f"{name}.text_bytes": np.array([chunk.text_bytes for chunk in chunks], dtype=np.int32),
    }


def unpack(name: str, arrays: Mapping[str, NDArray[Any]]) -> list[Chunk]:
    """Return the chunks that `pack` wrote under `name`."""
    cuts = np.cumsum(arrays[f"{name}.length"])[:-1]
    ids = np.split(arrays[f"{name}.ids"].astype(np.int32), cuts)
    scored = np.split(arrays[f"{name}.scored"].astype(np.bool_), cuts)
    sizes = arrays[f"{name}.text_bytes"].tolist()
    # np.split of nothing is one empty piece, hence the non-strict zip.
    return [
        Chunk(ids=ids_, scored=scored_, text_bytes=size)
        for ids_, scored_, size in zip(ids, scored, sizes, strict=False)
    ]


def to_bytes(arrays: Arrays) -> bytes:
    """Return `arrays` in the safetensors format; equal arrays, equal bytes."""
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def from_bytes(body: bytes) -> Arrays:
    """Return the arrays that `to_bytes` wrote.

    Raises:
        ValueError: `body` is not in the safetensors format.
    """
    try:
        return safetensors.numpy.load(body)
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error


_NO_IDS = np.zeros(0, dtype=np.int32)
_NO_FLAGS = np.zeros(0, dtype=np.uint8)
