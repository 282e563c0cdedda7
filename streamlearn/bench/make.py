"""Names to arms: what each is made of, and what a `streamlearn-without-…` leaves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streamlearn import config_file
from streamlearn.bench.arms import Arm
from streamlearn.bench.loops import Frozen, adamw_loop, sgd_loop
from streamlearn.bench.nightly import Nightly
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
    "anything": {"anchor": {"chunks": 0}, "mix": {"anchor": 0.0, "window": 0.0, "reservoir": 0.0}},
    "average": {"learner": {"served_average": 0.0}},
    "small-steps": {"learner": {"step_chunks": 8}},
}
"""Ingredient -> the settings that leave it out. Without `anything`, what is left is AdamW on fresh chunks."""
_NIGHTS = 8

_MAKERS: Mapping[str, Callable[[Loaded, Wishes], Arm]] = {
    "frozen": lambda loaded, _: Frozen(loaded),
    "sgd_loop": lambda loaded, _: sgd_loop(loaded),
    "adamw_loop": lambda loaded, _: adamw_loop(loaded),
    "trainer_nightly": lambda loaded, wishes: Nightly(loaded, nights=_NIGHTS, seed=wishes.seed),
}
ARMS = (*_MAKERS, *(f"{OURS}-without-{name}" for name in WITHOUT), OURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What an arm finds: a configuration, a loaded model, the sample."""

    config: Config
    loaded: Loaded
    chunker: TokenChunker
    sample: Sample


def check(arm: str, wishes: Wishes) -> None:
    """Raise ValueError where there is no such arm, or it cannot be set as wished."""
    if arm not in ARMS:
        raise ValueError(f"there is no arm {arm!r}; there are: {', '.join(ARMS)}")
    _config(arm, wishes, "1d")


def opened(arm: str, wishes: Wishes) -> World:
    """Load the model and read the sample for `arm`.

    Raises:
        ValueError: the stream cannot be read, or `arm` is unknown; names the arms.
    """
    check(arm, wishes)
    rows = open_rows(wishes.stream, wishes.part)
    config = _config(arm, wishes, rows.half_life)
    loaded = load(config)
    chunker = TokenChunker(loaded.tokenizer, loaded.context_tokens)
    sample = read_sample(rows, chunker, SystemClock(), max_tokens=wishes.max_tokens)
    return World(config=config, loaded=loaded, chunker=chunker, sample=sample)


def make_arm(arm: str, world: World, wishes: Wishes, told: Callable[[int, int], None]) -> Arm:
    """Return the arm called `arm`.

    Args:
        told: (tokens made, tokens in all) of an anchor that the base has to write first.
    """
    if arm in _MAKERS:
        return _MAKERS[arm](world.loaded, wishes)
    opened_learner = open_learner(world.config, loaded=world.loaded)
    stream = StreamState(stream_settings(world.config, world.loaded.context_tokens))

    def go_on(done: int, total: int) -> bool:
        told(done, total)
        return True

    stream.rehearse(opened_learner.anchor(go_on) or ())
    return Streamlearn(opened_learner.learner, stream, lesson_settings(world.config))


def _config(arm: str, wishes: Wishes, half_life: str) -> Config:
    document: dict[str, Any] = {
        "stream": {"name": "bench", "seed": wishes.seed},
        "kafka": {"bootstrap_servers": "nowhere:9092", "topics": ["bench"]},
        "store": {"url": "nowhere"},
        "model": {"name": wishes.model},
        "window": {"half_life": half_life},
        # The frozen arm is the base; nobody else need score it too.
        "evaluation": {"sample": 0.0},
    }
    _merge(document, wishes.settings)
    _merge(document, WITHOUT.get(arm.removeprefix(f"{OURS}-without-"), {}))
    return config_file.resolve(document, {})


def _merge(document: dict[str, Any], more: Mapping[str, Any]) -> None:
    for section, values in more.items():
        document.setdefault(section, {}).update(values)
