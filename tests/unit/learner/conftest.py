"""A learner on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlearn.config import Config
from streamlearn.config_file import resolve
from streamlearn.learner.open import OpenedLearner, open_learner

Opener = Callable[..., OpenedLearner]


def config_for(directory: Path | str, **sections: dict[str, Any]) -> Config:
    """A configuration of the model in `directory`, with `sections` laid over it."""
    document: dict[str, Any] = {
        "stream": {"name": "news"},
        "kafka": {"bootstrap_servers": "127.0.0.1:1", "topics": ["news"]},
        "store": {"url": "unused"},
        "model": {"name": str(directory), "dtype": "fp32", "device": "cpu"},
        "learner": {"threads": 1},
    }
    for section, keys in sections.items():
        document.setdefault(section, {}).update(keys)
    return resolve(document, {})


@pytest.fixture
def opener(tiny_model: Path) -> Opener:
    """Opens a learner on the tiny model; keyword arguments are sections of the configuration."""
    return lambda **sections: open_learner(config_for(tiny_model, **sections))


@pytest.fixture
def opened(opener: Opener) -> OpenedLearner:
    """A learner as the defaults make it."""
    return opener()
