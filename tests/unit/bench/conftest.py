"""A small stream and the tiny model."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from streamlearn.bench.arms import Arm
from streamlearn.bench.make import World, make_arm, opened
from streamlearn.bench.run import Wishes

Maker = Callable[..., tuple[Arm, World]]

_WORDS = ("quick", "brown", "tired", "adapted", "broken", "streaming", "fixed", "noted", "odd", "last")
TEXTS = [
    f"the {word} fox number {number} jumps over the {word} dog and a {word} lazy release"
    for number, word in enumerate(_WORDS)
]


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """Ten events of one chunk each, in two topics."""
    file = tmp_path / "stream.jsonl"
    rows = [{"text": text, "topic": "odd" if place % 2 else "even"} for place, text in enumerate(TEXTS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def wishes(stream: Path, tiny_model: Path, tmp_path: Path) -> Wishes:
    """Steps of one chunk, served as they are, so that every arm's state is one that can be named."""
    settings: dict[str, dict[str, Any]] = {
        "model": {"device": "cpu", "dtype": "fp32", "cache_dir": str(tmp_path / "cache")},
        "anchor": {"chunks": 2, "tokens": 16},
        "learner": {"step_chunks": 1, "served_average": 0.0, "learning_rate": 1e-2, "warmup_steps": 0, "threads": 1},
    }
    return Wishes(stream=str(stream), model=str(tiny_model), max_tokens=10_000, part="all", seed=3, settings=settings)


@pytest.fixture
def maker(wishes: Wishes) -> Maker:
    """Makes an arm by name; keyword arguments are wishes."""

    def make(arm: str, **changes: Any) -> tuple[Arm, World]:
        wished = dataclasses.replace(wishes, **changes)
        world = opened(arm, wished)
        return make_arm(arm, world, wished, lambda *_: None), world

    return make


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A verb configures logging for the process that it usually has to itself."""
    root = logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, logging.getLogger("streamlearn").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("streamlearn").setLevel(ours)
    logging.captureWarnings(False)
    structlog.reset_defaults()
