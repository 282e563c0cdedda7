"""Which number format this machine computes faster in.

A machine without bf16 instructions emulates them at a fraction of float32's
speed, and one that has them is over twice as fast, so the choice is measured.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

_ROWS = 256
_TRIES = 15
"""Of each, in turn: on a busy machine a few are slow by chance, and the least of many is not."""
_MARGIN = 1.2
"""bf16 must be this much faster: a near tie must not fall differently at the next start, as the weights would."""


def faster_dtype(device: torch.device, *, width: int) -> torch.dtype:
    """Return bfloat16 or float32, whichever multiplies matrices of a model `width` wide faster on `device`."""
    products = {dtype: _product(device, dtype, width) for dtype in (torch.bfloat16, torch.float32)}
    times = [{dtype: _seconds(*product) for dtype, product in products.items()} for _ in range(_TRIES)]
    bf16, fp32 = (min(each[dtype] for each in times) for dtype in products)
    return torch.bfloat16 if bf16 * _MARGIN < fp32 else torch.float32


def _product(device: torch.device, dtype: torch.dtype, width: int) -> tuple[Tensor, Tensor]:
    """Return the inputs and the weight of a linear layer."""
    inputs = torch.ones(_ROWS, width, dtype=dtype, device=device, requires_grad=True)
    return inputs, torch.ones(4 * width, width, dtype=dtype, device=device)


def _seconds(inputs: Tensor, weight: Tensor) -> float:
    """Return the time, in seconds, of a forward and backward product."""
    began = time.perf_counter()
    torch.nn.functional.linear(inputs, weight).sum().backward()  # type: ignore[no-untyped-call]
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    inputs.grad = None
    return time.perf_counter() - began
