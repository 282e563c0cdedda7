"""The ingest thread, over records in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from streamlearn.core.events import Arrival, Outcome, Progress, Record
from streamlearn.core.manifest import Origin
from streamlearn.ingest.intake import Intake, open_intake
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ports import Chunker, Fatal, LostData, SourceRefused
from tests.fakes.daemon import SilentTelemetry
from tests.fakes.records import MemoryCluster, MemoryRecords
from tests.unit.ingest.making import HeldChunker, SystemClock, WordChunker, configured, until

Open = Callable[..., Intake]


@pytest.fixture
def cluster() -> MemoryCluster:
    made = MemoryCluster()
    made.create_topic("news", 2)
    return made


@pytest.fixture
def opening(cluster: MemoryCluster) -> Iterator[Open]:
    opened: list[Intake] = []

    def open_one(
        *, progress: Progress | None = None, chunker: Chunker | None = None, records: Any = None, **knobs: Any
    ) -> Intake:
        recalled = knobs.pop("recalled", Origin())
        config = configured(
            kafka={"on_lost_data": knobs.pop("on_lost_data", "fail")},
            errors={"tolerance": knobs.pop("tolerance", "all")},
            hygiene=knobs.pop("hygiene", {}),
            ingest={"format": "text", **knobs},
        )
        lost = LostOffsets(config.kafka.on_lost_data)
        records = records or MemoryRecords(cluster, ["news"], lost=lost)
        intake = open_intake(config, records, lost, chunker or WordChunker(), SilentTelemetry(), SystemClock())
        opened.append(intake)
        intake.recall(recalled)
        intake.start(progress or {})
        return intake

    yield open_one
    for intake in opened:
        intake.close()


def take(intake: Intake, count: int) -> list[Arrival]:
    arrivals: list[Arrival] = []

    def enough() -> bool:
        if (arrival := intake.take(0.05)) is not None:
            arrivals.append(arrival)
        return len(arrivals) == count

    until(enough)
    return arrivals


def test_every_offset_becomes_one_arrival_in_order(cluster: MemoryCluster, opening: Open) -> None:
    """The ledger has one line for each."""
    for i in range(500):
        cluster.append("news", None if i % 3 == 0 else b"words %d" % i, partition=i % 2)

    arrivals = take(opening(buffer_records=7), 500)

    for partition in (0, 1):
        assert [a.offset for a in arrivals if a.partition == partition] == list(range(250))
    dead = [a for a in arrivals if a.outcome is Outcome.DEAD_LETTER]
    assert [a.rejection.error for a in dead if a.rejection] == ["NullValue"] * 167


def test_arrivals_are_signed_where_the_configuration_looks_for_near_repeats(
    cluster: MemoryCluster, opening: Open
) -> None:
    """Or no reprint would ever be found."""
    cluster.append("news", b"one two three four five six seven eight nine")
    (signed,) = take(opening(), 1)
    (unsigned,) = take(opening(hygiene={"near_duplicates": False}), 1)

    assert signed.signature is not None
    assert unsigned.signature is None


def test_a_restart_goes_on_at_progress(cluster: MemoryCluster, opening: Open) -> None:
    for i in range(10):
        cluster.append("news", b"%d" % i)

    assert [a.offset for a in take(opening(progress={"news": {0: 8}}), 2)] == [8, 9]


def test_taking_returns_after_its_patience_when_nothing_comes(opening: Open) -> None:
    assert opening().take(0.01) is None


def test_a_full_buffer_pauses_fetching_and_an_emptied_one_resumes_it(cluster: MemoryCluster, opening: Open) -> None:
    """Memory is bounded however slow the learner is."""
    records = MemoryRecords(cluster, ["news"])
    for i in range(40):
        cluster.append("news", b"%d" % i)
    intake = opening(records=records, buffer_records=10)

    until(lambda: records.paused)
    assert intake.status().buffered_records == 10
    assert intake.status().paused
    take(intake, 40)

    until(lambda: not records.paused)
    cluster.append("news", b"again")
    assert [a.offset for a in take(intake, 1)] == [40]


def test_the_buffer_is_bounded_in_bytes_too(cluster: MemoryCluster, opening: Open) -> None:
    for _ in range(50):
        cluster.append("news", b"\xff" * 10_000)  # dead letters keep their bytes
    intake = opening(buffer_bytes=100_000)

    until(lambda: intake.status().paused)

    assert 100_000 <= intake.status().buffered_bytes < 115_000
    take(intake, 50)


def test_a_paused_intake_still_polls(cluster: MemoryCluster, opening: Open) -> None:
    """The client is served, errors are seen, `/healthz` is true."""
    for i in range(40):
        cluster.append("news", b"%d" % i)
    intake = opening(buffer_records=10)
    until(lambda: intake.status().paused)

    cluster.create_topic("news", 3)

    until(lambda: intake.ends(lambda: False)["news"].keys() == {0, 1, 2})
    assert intake.status().paused
    assert intake.status().last_poll_age_s < 5.0


def test_caught_up_means_taken_gaps_at_the_end_included(cluster: MemoryCluster, opening: Open) -> None:
    """`--until-end` stops neither early nor never."""
    cluster.append("news", b"one")
    cluster.append("news", b"two")
    cluster.mark("news")
    intake = opening()

    ends = intake.ends(lambda: False)

    assert ends == {"news": {0: 3, 1: 0}}
    until(lambda: intake.status().buffered_records == 2)
    assert not intake.caught_up(ends)
    take(intake, 1)
    assert not intake.caught_up(ends)
    take(intake, 1)
    until(lambda: intake.caught_up(ends))


def test_a_busy_stream_is_caught_up_as_well(cluster: MemoryCluster, opening: Open) -> None:
    """A backfill ends at the marks seen at its start, though the buffer never empties."""
    cluster.append("news", b"before")
    intake = opening()
    ends = intake.ends(lambda: False)
    for i in range(100):
        cluster.append("news", b"after %d" % i)
    until(lambda: intake.status().buffered_records == 101)

    assert not intake.caught_up(ends)
    take(intake, 1)

    assert intake.status().buffered_records == 100
    assert intake.caught_up(ends)


def test_nothing_is_caught_up_while_a_record_is_still_being_chunked(cluster: MemoryCluster, opening: Open) -> None:
    """Between the broker and the buffer nothing falls through."""
    cluster.append("news", b"slow")
    chunker = HeldChunker()
    intake = opening(chunker=chunker)
    ends: Progress = {"news": {0: 1}}

    for _ in range(20):
        assert intake.take(0.005) is None
        assert not intake.caught_up(ends)
    chunker.go.set()

    assert [a.offset for a in take(intake, 1)] == [0]
    until(lambda: intake.caught_up(ends))


def test_nothing_is_caught_up_while_fetched_records_wait_for_room(cluster: MemoryCluster, opening: Open) -> None:
    """What was fetched beyond a full buffer is neither taken nor forgotten."""
    for i in range(6):
        cluster.append("news", b"%d" % i)
    chunker = HeldChunker(free=2)
    intake = opening(chunker=chunker, buffer_records=2)
    until(lambda: intake.status().paused)
    take(intake, 2)

    assert not intake.caught_up({"news": {0: 6}})

    chunker.go.set()
    take(intake, 4)
    until(lambda: intake.caught_up({"news": {0: 6}}))


def test_the_offset_at_which_reading_began_is_known_of_every_partition(cluster: MemoryCluster, opening: Open) -> None:
    """With `start = "latest"`, a checkpoint without it would skip what comes to a partition quiet until then."""
    for _ in range(5):
        cluster.append("news", b"old")
    records = MemoryRecords(cluster, ["news"], start="latest")
    chunker = HeldChunker()
    intake = opening(records=records, chunker=chunker)
    until(lambda: intake.status().assigned)
    cluster.append("news", b"new")
    chunker.go.set()
    until(lambda: intake.status().buffered_records == 1)

    assert intake.begun() == {"news": {0: 5, 1: 0}}


def test_reading_began_before_the_first_record_and_not_after_its_batch(cluster: MemoryCluster, opening: Open) -> None:
    """A checkpoint taken while records of a partition just found wait in the buffer must not pass them."""
    intake = opening()
    until(lambda: intake.status().assigned)
    cluster.available = False  # so that the partition is found by the same poll that reads it
    cluster.create_topic("news", 3)
    for i in range(5):
        cluster.append("news", b"%d" % i, partition=2)
    cluster.available = True
    until(lambda: intake.status().buffered_records == 5)

    assert intake.begun() == {"news": {0: 0, 1: 0, 2: 0}}


def test_a_gap_at_the_end_is_passed_when_everything_before_it_was_taken(cluster: MemoryCluster, opening: Open) -> None:
    """A restart goes on behind a transaction's marker, but never behind a record that still waits."""
    for value in (b"one", b"two"):
        cluster.append("news", value)
    cluster.mark("news")
    intake = opening()
    until(lambda: intake.status().buffered_records == 2)
    assert intake.origin().passed == {}

    take(intake, 2)

    until(lambda: intake.origin().passed == {"news": {0: 3}})


def test_offsets_that_were_lost_are_not_passed_before_a_record_tells_of_them(
    cluster: MemoryCluster, opening: Open
) -> None:
    """Or a restart in between would go on behind them, and nobody would count them."""
    for _ in range(5):
        cluster.append("news", b"old")
    cluster.forget("news", 0, before=5)
    intake = opening(progress={"news": {0: 2}}, on_lost_data="skip")
    until(lambda: intake.caught_up({"news": {0: 5}}))
    assert intake.origin().passed == {}

    cluster.append("news", b"new")

    assert [arrival.skipped for arrival in take(intake, 1)] == [3]
    assert intake.origin().passed == {}, "progress says it"


def test_a_topic_that_was_made_anew_is_passed_no_further_than_it_was_read(
    cluster: MemoryCluster, opening: Open
) -> None:
    """What was known of the old one would skip records of the new one."""
    for _ in range(5):
        cluster.append("news", b"old")
    intake = opening(on_lost_data="skip", buffer_records=1)
    take(intake, 5)
    until(lambda: intake.caught_up({"news": {0: 5}}))
    with cluster.changed:
        del cluster.topics["news"]
        cluster.create_topic("news", 2)
        for partition in (0, 1, 1, 1):
            cluster.append("news", b"new", partition=partition)

    assert [(a.partition, a.offset) for a in take(intake, 1)] == [(0, 0)]
    assert intake.origin().passed == {}


def test_a_gap_that_was_recalled_is_where_reading_goes_on(cluster: MemoryCluster, opening: Open) -> None:
    """And it is passed on to the next checkpoint, until a record comes behind it."""
    cluster.append("news", b"old")
    cluster.mark("news")
    cluster.forget("news", 0, before=2)
    recalled = Origin(passed={"news": {0: 2}})
    intake = opening(progress={"news": {0: 1}}, recalled=recalled)
    assert intake.origin().passed == {"news": {0: 2}}
    until(lambda: intake.caught_up({"news": {0: 2}}))
    assert intake.origin().passed == {"news": {0: 2}}

    cluster.append("news", b"new")

    assert [(arrival.offset, arrival.skipped) for arrival in take(intake, 1)] == [(2, 0)]
    assert intake.origin().passed == {}


def test_lag_counts_from_what_was_taken(cluster: MemoryCluster, opening: Open) -> None:
    for i in range(6):
        cluster.append("news", b"%d" % i)
    intake = opening(buffer_records=4)

    until(lambda: intake.status().lag_records.get(("news", 0)) == 6)
    take(intake, 6)
    until(lambda: intake.status().lag_records == {("news", 0): 0, ("news", 1): 0})


def test_what_ends_the_thread_is_raised_after_everything_before_it(cluster: MemoryCluster, opening: Open) -> None:
    for value in (b"one", b"two", None, b"three"):
        cluster.append("news", value)
    intake = opening(tolerance="none")

    assert [a.offset for a in take(intake, 2)] == [0, 1]
    with pytest.raises(Fatal, match=r"news partition 0 offset 2 is no event \(NullValue\).*errors.tolerance"):
        intake.take(5.0)
    with pytest.raises(Fatal):
        intake.ends(lambda: False)


def test_a_refusal_by_the_broker_reaches_the_learner(cluster: MemoryCluster, opening: Open) -> None:
    intake = opening(records=MemoryRecords(cluster, ["other"]))

    with pytest.raises(SourceRefused, match="other"):
        intake.take(5.0)


def test_lost_offsets_are_told_with_the_next_arrival(cluster: MemoryCluster, opening: Open) -> None:
    for i in range(10):
        cluster.append("news", b"%d" % i)
    cluster.forget("news", 0, before=6)

    arrivals = take(opening(progress={"news": {0: 2}}, on_lost_data="skip"), 4)

    assert [(a.offset, a.skipped) for a in arrivals] == [(6, 4), (7, 0), (8, 0), (9, 0)]
    with pytest.raises(LostData):
        opening(progress={"news": {0: 2}}).take(5.0)


def test_the_ends_are_waited_for_through_an_outage(cluster: MemoryCluster, opening: Open) -> None:
    cluster.append("news", b"one")
    intake = opening()
    until(lambda: intake.status().assigned)
    cluster.available = False
    ends: list[Progress] = []
    asking = threading.Thread(target=lambda: ends.append(intake.ends(lambda: False)))
    asking.start()

    asking.join(0.3)
    assert asking.is_alive()
    cluster.available = True
    asking.join(10.0)

    assert ends == [{"news": {0: 1, 1: 0}}]


def test_closing_stops_the_thread_and_the_records_in_any_state(cluster: MemoryCluster, opening: Open) -> None:
    for i in range(40):
        cluster.append("news", b"%d" % i)
    records = MemoryRecords(cluster, ["news"])
    intake = opening(records=records, buffer_records=10)
    until(lambda: intake.status().buffered_records == 10)

    intake.close()
    intake.close()

    assert records.closed
    assert not intake._thread.is_alive()
    assert intake.ends(lambda: False) == {}


def test_an_error_of_our_own_in_the_thread_is_raised_too(opening: Open, cluster: MemoryCluster) -> None:
    """A fault in any thread ends the process."""

    class Broken(MemoryRecords):
        def poll(self, timeout_s: float) -> Sequence[Record]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        opening(records=Broken(cluster, ["news"])).take(5.0)
