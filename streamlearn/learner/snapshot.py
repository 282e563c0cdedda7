"""The learner's state as files, and files as state: safetensors, nothing pickled.

`adapter.safetensors` is byte for byte what is published as
`adapter_model.safetensors`, under the names PEFT reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from streamlearn.ports import ADAPTER, Fatal

OPTIMIZER = "optimizer.safetensors"
_METADATA = {"format": "pt"}
"""Loaders of the transformers family refuse files that do not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Copies on the CPU; serialising them is the publisher's time, not the learner's."""

    adapter: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]

    def files(self) -> dict[str, bytes]:
        """Return both files by name; equal tensors, equal bytes."""
        return {
            ADAPTER: safetensors.torch.save(dict(self.adapter), metadata=_METADATA),
            OPTIMIZER: safetensors.torch.save(dict(self.optimizer), metadata=_METADATA),
        }


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU that later steps do not move."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def tensors_in(name: str, files: Mapping[str, bytes]) -> dict[str, Tensor]:
    """Return the tensors of one file of a checkpoint.

    Raises:
        Fatal: it is missing or unreadable.
    """
    if name not in files:
        raise Fatal(f"the checkpoint has no {name}: it was written by another release")
    try:
        return safetensors.torch.load(files[name])
    except (SafetensorError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # Beside its own error: types that torch has no name for, shapes that it cannot hold.
        raise Fatal(f"the checkpoint's {name} is no safetensors file: {error}") from error
