"""What one optimiser step reads, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from streamlearn.core.events import Chunk


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
class StepResult:
    """What one score-then-learn step found.

    Losses are summed negative log-likelihoods in nats, in the order of the
    batch, under the weights *before* the step.
    """

    nll: tuple[float, ...]
    gradient_norm: float
    """L2 norm over all adapter parameters before clipping."""
    applied: bool
    """False when a loss or gradient was not finite and the step was dropped."""
    seconds: float
    """Time the device spent in forward, backward and update."""
