"""Chunks as flat arrays and back: the form in which they enter a checkpoint.

What is read back is checked: bytes that are what was written may still be
what nobody should have written.
"""

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
    """Return the chunks that `pack` wrote under `name`.

    Raises:
        ValueError: the four arrays do not fit each other.
    """
    length = column(arrays, f"{name}.length", np.int32)
    ids = column(arrays, f"{name}.ids", np.int32, entries=int(length.sum(dtype=np.int64)))
    scored = column(arrays, f"{name}.scored", np.uint8, entries=len(ids))
    sizes = column(arrays, f"{name}.text_bytes", np.int32, entries=len(length))
    if min(length.min(initial=1), ids.min(initial=0) + 1, sizes.min(initial=0) + 1) < 1:
        raise ValueError(f"{name}: a length, a token or a size is below what it can be")
    cuts = np.cumsum(length)[:-1]
    # np.split of nothing is one empty piece, hence the non-strict zip.
    return [
        Chunk(ids=ids_, scored=scored_, text_bytes=size)
        for ids_, scored_, size in zip(
            np.split(ids, cuts), np.split(scored.astype(np.bool_), cuts), sizes.tolist(), strict=False
        )
    ]


def column(
    arrays: Mapping[str, NDArray[Any]],
    name: str,
    kind: type[np.generic],
    *,
    entries: int | None = None,
    width: int | None = None,
) -> NDArray[Any]:
    """Return array `name`, which must be of `kind` and of shape (N,); a copy.

    Args:
        arrays: what `from_bytes` returned.
        name: of the array.
        kind: numpy's scalar type.
        entries: what N must be; any number unless given.
        width: given, the shape must be (N, width).

    Raises:
        ValueError: it is absent, or another than that, or a number of it is none.
    """
    if (array := arrays.get(name)) is None:
        raise ValueError(f"{name} is missing")
    shape = (*array.shape[:1],) if entries is None else (entries,)
    if array.dtype != kind or array.ndim == 0 or array.shape != (shape if width is None else (*shape, width)):
        wanted = f"({'N' if entries is None else entries}, {'' if width is None else width})"
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, not {np.dtype(kind)} of shape {wanted}")
    if np.isnan(array).any():
        raise ValueError(f"{name} holds what is no number")
    return array.copy()


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
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
        # Beside its own error: types that numpy has no name for.
        raise ValueError(f"no safetensors file of ours: {type(error).__name__}: {error}") from error


_NO_IDS = np.zeros(0, dtype=np.int32)
_NO_FLAGS = np.zeros(0, dtype=np.uint8)
