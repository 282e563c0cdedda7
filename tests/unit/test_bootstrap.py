"""What can only be told once the model is known."""

from __future__ import annotations

import pytest

from streamlearn.bootstrap import _stream_settings
from tests.unit.learner.conftest import config_for


def test_a_reservoir_below_one_chunk_is_refused() -> None:
    """It would hold nothing, and nobody would notice."""
    config = config_for("m", mix={"reservoir_tokens": 300})
    assert _stream_settings(config, 256).reservoir_chunks == 1
    with pytest.raises(ValueError, match=r"mix\.reservoir_tokens = 300 is below one chunk of 1024 tokens"):
        _stream_settings(config, 1024)


def test_an_anchor_takes_its_share_from_the_fresh_and_only_where_there_is_one() -> None:
    assert _stream_settings(config_for("m"), 256).shares.fresh == pytest.approx(0.75)
    assert _stream_settings(config_for("m", anchor={"file": "a"}), 256).shares.fresh == pytest.approx(0.70)
