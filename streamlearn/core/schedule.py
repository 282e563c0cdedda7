"""When and how strongly: the learning rate, and what is due.

Decides from counts and times it is given; reads no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


def learning_rate(step: int, *, rate: float, warmup_steps: int) -> float:
    """Return the rate of the step numbered `step` from 0: a linear warm-up, then constant.

    Constant because a stream has no end to anneal to, and re-warming forgets.

    >>> [learning_rate(step, rate=1.0, warmup_steps=2) for step in range(3)]
    [0.5, 1.0, 1.0]
    """
    return rate * min(1.0, (step + 1) / warmup_steps) if warmup_steps else rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where the stream stood at some moment."""

    steps: int
    events: int
    monotonic_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """An interval in steps, events or seconds."""

    unit: Literal["steps", "events", "seconds"]
    amount: float

    @property
    def counted(self) -> bool:
        """Whether it passes at the same place in every run."""
        return self.unit != "seconds"

    def due(self, since: Mark, now: Mark) -> bool:
        """Whether the interval has passed between two marks."""
        match self.unit:
            case "steps":
                return now.steps - since.steps >= self.amount
            case "events":
                return now.events - since.events >= self.amount
            case "seconds":
                return now.monotonic_s - since.monotonic_s >= self.amount
