"""How much memory learning takes, before it is tried, and how much there is.

The estimate is a rule of thumb meant to err upward by a quarter or so; it
guards against a worker that is killed an hour after it began.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch

from streamlearn.learner.model import Loaded
from streamlearn.learner.scoring import ROWS

_RUNTIME_BYTES = 700 * 2**20
"""Interpreter, PyTorch and librdkafka; measured without a model."""
_ADAPTER_COPIES = 8
"""Of 4 bytes: weight, gradient, two moments, and the publisher's copies of three of them with their serialised form."""
_LOGIT_BYTES = 24
"""For each logit: in the base's precision: base, adapter of the head, their sum and its gradient; and in
float32 as input, log-softmax, and gradients."""


def needed_bytes(loaded: Loaded) -> int:
    """Return an estimate of the memory of a running worker, in bytes, on the device the model is on."""
    config: Any = loaded.model.config
    width = int(getattr(config, "hidden_size", 1024))
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    layers = int(getattr(config, "num_hidden_layers", 24))
    # Activations kept for the backward: about twenty vectors of the model's width and eight of the inner one a layer.
    activations = layers * (20 * width + 8 * inner) * loaded.dtype.itemsize
    tokens = ROWS[loaded.device.type] * loaded.context_tokens
    return (
        _RUNTIME_BYTES
        + loaded.base.parameters * loaded.dtype.itemsize
        + loaded.lora.parameters * 4 * _ADAPTER_COPIES
        + tokens * (activations + int(config.vocab_size) * _LOGIT_BYTES)
    )


def available_bytes(device: torch.device) -> int:
    """Return what is free for us on `device`, container limits included, our own share counted as free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + int(torch.cuda.memory_reserved(device))
    own = psutil.Process().memory_info().rss
    free = int(psutil.virtual_memory().available) + own
    limit = _container_limit(Path("/sys/fs/cgroup/memory.max"))
    return free if limit is None else min(free, limit)


def _container_limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
