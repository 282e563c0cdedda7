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


def test_a_topic_made_anew_says_what_is_known_of_the_old_one() -> None:
    with pytest.raises(LostData, match=r"news partition 3: .*created again.*next offset 10 .*at least 5 offsets.*skip"):
        LostOffsets("fail").made_anew("news", 3, ours=10, low=0, end=15)
    with pytest.raises(LostData, match="an unknown number of offsets of the old one"):
        LostOffsets("fail").made_anew("news", 3, ours=10, low=0, end=None)


def test_what_went_with_the_old_topic_is_told_before_the_first_record_of_the_new_one() -> None:
    """As far as anybody has seen it; and what retention took of the new one already."""
    lost = LostOffsets("skip")

    assert lost.made_anew("news", 3, ours=10, low=2, end=15) == 2
    assert lost.before("news", 3, 2) == 7
    assert lost.before("news", 3, 3) == 0


def test_a_log_that_lost_its_end_goes_on_there_where_it_is_known_to_be_the_same() -> None:
    """What is left of it was read before; from its first offset it would be learnt twice."""
    assert LostOffsets("skip").resume_at("news", 3, ours=10, low=0, high=4, same=True) == 4
    with pytest.raises(LostData, match=r"our next offset is 10, but the log ends at 4: the brokers have lost its end"):
        LostOffsets("fail").resume_at("news", 3, ours=10, low=0, high=4, same=True)
