"""What a drift alarm does to learning, and for how long.

Old chunks are replayed less, the window forgets faster, steps are longer for
a while, and nobody is promoted on evidence from before. Each fades on its own
count (chunks, steps, blocks), so that replaying a stream repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.judgement import Alarm


@dataclass(frozen=True, slots=True, kw_only=True)
class ReactionSettings:
    """How strongly an alarm acts."""

    past_weight: float
    """Factor on the replay weights of chunks from before the cut."""
    half_life: float
    """Factor on the half-life at the alarm; it doubles back to 1."""
    doubling_chunks: int
    """Fresh chunks between two doublings: the distance that alarms keep, too."""
    rate: float
    """Factor on the learning rate."""
    rate_steps: int
    """Optimiser steps for which the rate is raised."""
    hold_blocks: int
    """Blocks of the gate during which nobody is promoted: as many as a decision takes at least."""


class Reaction:
    """The state of the reaction to the latest alarm; without one it changes nothing."""

    def __init__(self, settings: ReactionSettings) -> None:
        self._settings = settings
        self._cut = 0
        self._half_life = 1.0
        self._chunks = 0
        self._steps = 0
        self._blocks = 0
        self._restart_moment = False

    def alarm(self, alarm: Alarm) -> None:
        """React; what is left of the reaction to an earlier alarm begins anew."""
        self._cut = alarm.cut
        self._half_life = self._settings.half_life
        self._chunks = 0
        self._steps, self._blocks = self._settings.rate_steps, self._settings.hold_blocks
        self._restart_moment = True

    def chunk_passed(self) -> None:
        """A fresh chunk was learnt."""
        if self._half_life >= 1.0:
            return
        self._chunks += 1
        if self._chunks >= self._settings.doubling_chunks:
            self._chunks = 0
            self._half_life = min(2.0 * self._half_life, 1.0)

    def step_passed(self) -> None:
        """An optimiser step was taken."""
        self._steps = max(self._steps - 1, 0)

    def block_passed(self) -> None:
        """The gate's series got another block, with a candidate or without."""
        self._blocks = max(self._blocks - 1, 0)

    @property
    def rate_factor(self) -> float:
        """Factor on the learning rate of the next step."""
        return self._settings.rate if self._steps > 0 else 1.0

    @property
    def half_life_factor(self) -> float:
        """Factor on the window's half-life."""
        return self._half_life

    @property
    def may_promote(self) -> bool:
        """Whether the gate may promote by itself."""
        return self._blocks == 0

    @property
    def active(self) -> bool:
        """Whether rate, half-life or gate are not as configured."""
        return self._steps > 0 or self._half_life < 1.0 or self._blocks > 0

    def weights(self, chunk_number: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the factors on replay weights, shape of `chunk_number`.

        Args:
            chunk_number: which fresh chunk of the lineage each was, from 0, as `Alarm.cut` counts.
        """
        return np.where(chunk_number < self._cut, self._settings.past_weight, 1.0)

    @property
    def moment_restart_due(self) -> bool:
        """What `take_moment_restart` would return."""
        return self._restart_moment

    def take_moment_restart(self) -> bool:
        """Return, once after an alarm, that the optimiser's first moment is to be zeroed before the next step.

        It points where the stream used to go; the second moment, a scale, stays.
        """
        due, self._restart_moment = self._restart_moment, False
        return due

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        return {
            "cut": self._cut,
            "half_life": self._half_life,
            "chunks": self._chunks,
            "steps": self._steps,
            "blocks": self._blocks,
            "restart_moment": self._restart_moment,
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self._cut, self._half_life = int(document["cut"]), float(document["half_life"])
        self._chunks, self._steps = int(document["chunks"]), int(document["steps"])
        self._blocks, self._restart_moment = int(document["blocks"]), bool(document["restart_moment"])
