"""Offsets that are gone."""

from __future__ import annotations

import pytest

from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ports import LostData


def test_failing_names_both_offsets_and_the_ways_out() -> None:
    with pytest.raises(
        LostData, match=r"news partition 3: our next offset is 10, but the log begins at 25: 15 offsets"
    ):
        LostOffsets("fail").resume_at("news", 3, ours=10, low=25, high=30)
    with pytest.raises(LostData, match=r'our next offset is 10, but the log ends at 4.*on_lost_data = "skip"'):
        LostOffsets("fail").resume_at("news", 3, ours=10, low=0, high=4)


def test_a_broker_that_only_lagged_loses_nothing() -> None:
    assert LostOffsets("fail").resume_at("news", 3, ours=10, low=0, high=10) == 10


def test_a_gap_is_told_once_before_the_next_record() -> None:
    lost = LostOffsets("skip")

    assert lost.resume_at("news", 3, ours=10, low=25, high=30) == 25
    assert lost.before("news", 4, 25) == 0
    assert lost.before("news", 3, 27) == 15, "25 and 26 were a transaction's, not lost"
    assert lost.before("news", 3, 28) == 0


def test_a_gap_that_grows_before_the_next_record_is_one_gap() -> None:
    lost = LostOffsets("skip")
    lost.resume_at("news", 3, ours=10, low=25, high=30)
    lost.resume_at("news", 3, ours=25, low=40, high=50)

    assert lost.before("news", 3, 40) == 30


def test_a_topic_made_anew_counts_nothing_as_lost() -> None:
    """How many there were of the old one, nobody knows."""
    lost = LostOffsets("skip")

    assert lost.resume_at("news", 3, ours=10, low=0, high=4) == 0
    assert lost.before("news", 3, 0) == 0
