"""Settings as the configuration has them for those that judge losses, and series to put before them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.caps import CapSettings
from streamlearn.core.clipping import ClipSettings
from streamlearn.core.drift import DriftSettings
from streamlearn.core.gate import GateSettings
from streamlearn.core.junk import JunkSettings
from streamlearn.core.reaction import ReactionSettings
from streamlearn.core.watch import WatchSettings

GATE = GateSettings(alpha=0.05, min_gain=0.002, min_blocks=20, max_blocks=200, max_held_out_rise=0.03)
WATCH = WatchSettings(alpha=0.01, min_loss=0.002, min_blocks=20, max_blocks=200, plunge=0.3, plunge_blocks=3)
DRIFT = DriftSettings(delta=0.002, min_chunks_apart=200)
REACTION = ReactionSettings(
    past_weight=0.1, half_life=0.25, doubling_chunks=200, rate=3.0, rate_steps=100, hold_blocks=20
)
CLIP = ClipSettings(max_norm=1.0, z=2.5, fading=0.97, warmup_steps=25, recent=16)
JUNK = JunkSettings(z=4.0, near_zero=0.02, min_tokens=16, fading=0.99, warmup_chunks=100, recent=16)
CAPS = CapSettings(half_life_s=1000.0, share=0.1, fair_parts=2.0, free_tokens=1000, max_chunks=10_000, max_sources=100)


def series(seed: int, count: int, *, sd: float, correlation: float = 0.0) -> NDArray[np.float64]:
    """An AR(1) series of mean 0 and standard deviation `sd`, shape (count,)."""
    steps = np.random.default_rng(seed).normal(size=count) * math.sqrt(1.0 - correlation**2)
    values = np.empty(count)
    last = steps[0] / math.sqrt(1.0 - correlation**2)
    for place, step in enumerate(steps):
        last = correlation * last + step if place else last
        values[place] = last
    return sd * values


def through_json(document: dict[str, Any]) -> dict[str, Any]:
    """The state as a checkpoint brings it back: by text, keys in another order."""
    back: dict[str, Any] = json.loads(json.dumps(document, sort_keys=True, allow_nan=False))
    return back
