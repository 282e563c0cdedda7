"""What all tests share: tiny models, and which real parts this run uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.tiny import make_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model of 40,000 parameters that has learnt nothing yet."""
    return make_model(tmp_path_factory.mktemp("tiny-model"))
