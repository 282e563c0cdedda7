"""What one optimiser step reads, and what it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from streamlearn.core.events import Chunk
from streamlearn.core.junk import EVERYTHING, Accepted


class Role(StrEnum):
    """Why a chunk is in a batch."""

    FRESH = "fresh"
    WINDOW = "window"
    RESERVOIR = "reservoir"
    ANCHOR = "anchor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One chunk of a batch."""

    chunk: Chunk
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """How a step is to be taken."""

    learning_rate: float
    keep: float = 1.0
    """What is left of the adapter's B before the step: decay toward its start."""
    accepted: Accepted = EVERYTHING
    """Which fresh chunks are learnt from; the others are scored only."""
    clip: Callable[[float], float] = lambda _norm: 1.0
    """From the gradient's L2 norm to the factor by which the gradient is scaled."""
    turn: bool = False
    """Whether the first moments are zeroed before the step: after drift they point the old way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one score-then-learn step found.

    All of it is under the weights *before* the step.
    """

    nll: tuple[float, ...]
    """Summed negative log-likelihood of each chunk in nats, in the order of the batch; of an anchor chunk the
    summed KL(base‖adapted)."""
    passed_over: tuple[int, ...]
    """Places in the batch of the fresh chunks that `StepPlan.accepted` left out."""
    gradient_norm: float
    """L2 norm over all adapter parameters before clipping."""
    scaled: float
    """Factor by which the gradient was clipped; 1 where it was not."""
    applied: bool
    """False when a loss or gradient was not finite and the step was dropped."""
    seconds: float
    """Time the device spent in forward, backward and update."""
