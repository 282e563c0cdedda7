"""Which number format this machine computes faster in.

A machine without bf16 instructions emulates them at a fraction of float32's
speed, and one that has them is over twice as fast, so the choice is measured.
"""

from __future__ import annotations

import time

import torch

_ROWS = 256
_TRIES = 5
_MARGIN = 1.2
"""bf16 must be this much faster: a near tie must not fall differently at the next start, as the weights would."""


def faster_dtype(device: torch.device, *, width: int) -> torch.dtype:
    """Return bfloat16 or float32, whichever multiplies matrices of a model `width` wide faster on `device`."""
    bf16, fp32 = (_seconds(device, dtype, width) for dtype in (torch.bfloat16, torch.float32))
    return torch.bfloat16 if bf16 * _MARGIN < fp32 else torch.float32


def _seconds(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """Return the least time, in seconds, of a forward and backward product of a linear layer."""
    inputs = torch.ones(_ROWS, width, dtype=dtype, device=device, requires_grad=True)
    weight = torch.ones(4 * width, width, dtype=dtype, device=device)
    return min(_once(inputs, weight) for _ in range(_TRIES))


def _once(inputs: torch.Tensor, weight: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.nn.functional.linear(inputs, weight).sum().backward()  # type: ignore[no-untyped-call]
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    inputs.grad = None
    return time.perf_counter() - began
