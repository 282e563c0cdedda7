"""Names to arms: what each is made of, and what a `streamlearn-without-…` leaves out.

A name may end in a learning rate of its own, `adamw_loop@3e-5`: who compares
with rivals owes them more than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streamlearn import config_file
from streamlearn.bench.arms import Arm
from streamlearn.bench.loops import ADAMW_RATE, SGD_RATE, Frozen, adamw_loop, sgd_loop
from streamlearn.bench.nightly import NIGHTLY_RATE, Nightly
from streamlearn.bench.ours import Streamlearn
from streamlearn.bench.run import Wishes
from streamlearn.bench.sample import Sample, read_sample
from streamlearn.bootstrap import SystemClock, lesson_settings, stream_settings
from streamlearn.config import Config
from streamlearn.core.stream import StreamState
from streamlearn.demo.rows import open_rows
from streamlearn.learner.chunking import TokenChunker
from streamlearn.learner.model import Loaded, load
from streamlearn.learner.open import open_learner

OURS = "streamlearn"
WITHOUT: Mapping[str, Mapping[str, Any]] = {
    "window": {"mix": {"window": 0.0}},
    "reservoir": {"mix": {"reservoir": 0.0}},
    "replay": {"mix": {"window": 0.0, "reservoir": 0.0}},
    "anchor": {"anchor": {"chunks": 0}, "mix": {"anchor": 0.0}},
    "anything": {
        "anchor": {"chunks": 0},
        "mix": {"anchor": 0.0, "window": 0.0, "reservoir": 0.0},
        "learner": {"full_rate_gain": 0.0, "warmup_steps": 5},
    },
    "head": {"lora": {"output_head": False}},
    "proof": {"learner": {"full_rate_gain": 0.0, "warmup_steps": 5}},
    "average": {"learner": {"served_average": 0.0}},
    "small-steps": {"learner": {"step_chunks": 8}},
}
"""Ingredient -> the settings that leave it out. Without `anything`, what is left is AdamW on fresh chunks."""
_NIGHTS = 8

_MAKERS: Mapping[str, Callable[[Loaded, Wishes, float | None], Arm]] = {
    "frozen": lambda loaded, _, __: Frozen(loaded),
    "sgd_loop": lambda loaded, _, rate: sgd_loop(loaded, rate or SGD_RATE),
    "adamw_loop": lambda loaded, _, rate: adamw_loop(loaded, rate or ADAMW_RATE),
    "trainer_nightly": lambda loaded, wishes, rate: Nightly(
        loaded, nights=_NIGHTS, seed=wishes.seed, rate=rate or NIGHTLY_RATE
    ),
}
_RATELESS = "frozen"
ARMS = (*_MAKERS, *(f"{OURS}-without-{name}" for name in WITHOUT), OURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What an arm finds: a configuration, a loaded model, the sample."""

    config: Config
    loaded: Loaded
    chunker: TokenChunker
    sample: Sample


def parted(arm: str) -> tuple[str, float | None]:
    """Return an arm's plain name and the learning rate that follows its `@`; None where it has none of its own.

    Raises:
        ValueError: there is no such arm, or no such rate.
    """
    name, at, said = arm.partition("@")
    if name not in ARMS:
        raise ValueError(f"there is no arm {name!r}; there are: {', '.join(ARMS)}")
    if not at:
        return name, None
    if name == _RATELESS:
        raise ValueError(f"arm {arm!r}: {name} learns nothing, so that it has no rate; write {name!r}")
    try:
        rate = float(said)
    except ValueError:
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0.0):
        raise ValueError(f"arm {arm!r}: {said!r} is no learning rate; write a number above 0, as in {name}@3e-5")
    return name, rate


def check(arm: str, wishes: Wishes) -> None:
    """Raise ValueError where there is no such arm, or it cannot be set as wished."""
    config_of(arm, wishes, "1d")


def opened(arm: str, wishes: Wishes) -> World:
    """Load the model and read the sample for `arm`.

    Raises:
        ValueError: the stream cannot be read, or `arm` is unknown; names the arms.
    """
    check(arm, wishes)
    rows = open_rows(wishes.stream, wishes.part)
    config = config_of(arm, wishes, rows.half_life)
    loaded = load(config)
    chunker = TokenChunker(loaded.tokenizer, loaded.context_tokens)
    sample = read_sample(rows, chunker, SystemClock(), max_tokens=wishes.max_tokens)
    return World(config=config, loaded=loaded, chunker=chunker, sample=sample)


def make_arm(arm: str, world: World, wishes: Wishes, told: Callable[[int, int], None]) -> Arm:
    """Return the arm called `arm`.

    Args:
        told: (tokens made, tokens in all) of an anchor that the base has to write first.
    """
    name, rate = parted(arm)
    if name in _MAKERS:
        return _MAKERS[name](world.loaded, wishes, rate)
    opened_learner = open_learner(world.config, loaded=world.loaded)
    stream = StreamState(stream_settings(world.config, world.loaded.context_tokens))

    def go_on(done: int, total: int) -> bool:
        told(done, total)
        return True

    stream.rehearse(opened_learner.anchor(go_on) or ())
    return Streamlearn(opened_learner.learner, stream, lesson_settings(world.config))


def config_of(arm: str, wishes: Wishes, half_life: str) -> Config:
    """Return the configuration that a worker would have which learns as `arm`."""
    name, rate = parted(arm)
    document: dict[str, Any] = {
        "stream": {"name": "bench", "seed": wishes.seed},
        "kafka": {"bootstrap_servers": "nowhere:9092", "topics": ["bench"]},
        "store": {"url": "nowhere"},
        "model": {"name": wishes.model},
        "window": {"half_life": half_life},
    }
    _merge(document, wishes.settings)
    _merge(document, WITHOUT.get(name.removeprefix(f"{OURS}-without-"), {}))
    if rate is not None:
        # Of the arm: it says more than a setting for all of them.
        _merge(document, {"learner": {"learning_rate": rate}})
    return config_file.resolve(document, {})


def _merge(document: dict[str, Any], more: Mapping[str, Any]) -> None:
    for section, values in more.items():
        document.setdefault(section, {}).update(values)
