"""The rule that turns a gradient into a step.

Every rule is PyTorch's own, in its fused form: an adapter is hundreds of small
matrices, and one kernel for all of them costs a tenth of one for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from streamlearn.config import LearnerSection

_BETAS = (0.9, 0.99)
"""A shorter second moment than usual (0.999), as a stream changes."""
_MOMENTUM = 0.9


_TIMES = "times"
"""Key of a parameter group: factor on the rate."""


def optimizer_of(settings: LearnerSection, body: list[Tensor], head: list[Tensor]) -> Optimizer:
    """Return the optimiser that `learner.optimizer` names; its rate is set before every step.

    Args:
        body: parameters that move at the rate.
        head: those of the output head, which move at `learner.head_rate` times the rate.
    """
    rate = settings.learning_rate
    parameters = [{"params": body, _TIMES: 1.0}]
    if head:
        parameters.append({"params": head, _TIMES: settings.head_rate})
    makers: Mapping[str, Callable[[], Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(
            parameters, lr=rate, betas=_BETAS, weight_decay=settings.weight_decay, fused=True
        ),
        "adam": lambda: torch.optim.Adam(parameters, lr=rate, betas=_BETAS, fused=True),
        "momentum": lambda: torch.optim.SGD(parameters, lr=rate, momentum=_MOMENTUM, fused=True),
        "sgd": lambda: torch.optim.SGD(parameters, lr=rate, fused=True),
    }
    return makers[settings.optimizer]()


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Let the next step be taken at `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[_TIMES]


def forget_direction(optimizer: Optimizer) -> None:
    """Zero the first moments; the second, which only scale, stay."""
    for state in optimizer.state.values():
        for moment in ("exp_avg", "momentum_buffer"):
            if isinstance(kept := state.get(moment), Tensor):
                kept.zero_()


def tensors_of(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Return the optimiser's state as named tensors, `<what>/<parameter>`; not copies."""
    return {
        f"{what}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for what, value in state.items()
        if isinstance(value, Tensor)
    }


def restore(optimizer: Optimizer, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Continue from `tensors_of`; a rule that keeps other moments begins with none.

    Raises:
        KeyError: a tensor belongs to no parameter.
    """
    optimizer.state.clear()
    kept = _moments(optimizer)
    for name, value in tensors.items():
        what, _, parameter = name.partition("/")
        if what in kept:
            target = parameters[parameter]
            # A fused kernel wants its step count in float32 on the parameter's device.
            state: dict[str, Any] = optimizer.state[target]
            state[what] = value.to(device=target.device, dtype=torch.float32).clone()


def _moments(optimizer: Optimizer) -> set[str]:
    if isinstance(optimizer, torch.optim.Adam):  # AdamW is one
        return {"step", "exp_avg", "exp_avg_sq"}
    return {"momentum_buffer"} if optimizer.defaults["momentum"] else set()
