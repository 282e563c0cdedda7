"""Which letters a flush waits for, over a producer in memory; real topics are in the contract suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamlearn.core.events import Arrival, Outcome, Rejection
from streamlearn.ingest import dead_letters
from streamlearn.ingest.dead_letters import KafkaDeadLetters
from streamlearn.ports import SourceUnavailable
from tests.fakes.daemon import ManualClock, SilentTelemetry
from tests.unit.ingest.making import configured, record

Report = Callable[[KafkaError | None, None], None]


class MemoryProducer:
    """Reports what a test decides, by the source offset of the letter; time passes only while it polls."""

    def __init__(self, clock: ManualClock) -> None:
        self.answers: dict[int, KafkaError | None] = {}
        """What becomes of a letter; one that is not here waits for its partition."""
        self.waiting: list[tuple[int, int, Report]] = []
        """Offset, time stamp and report of each letter in the queue."""
        self.room = 1_000
        self.largest = 1_000
        """Bytes of a value that the topic takes."""
        self._clock = clock

    def produce(
        self, topic: str, *, key: bytes, value: bytes | None, timestamp: int, on_delivery: Report, **rest: Any
    ) -> None:
        if len(self.waiting) >= self.room:
            raise BufferError
        if len(value or b"") > self.largest:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self.waiting.append((int(key), timestamp, on_delivery))

    def poll(self, timeout: float) -> None:
        served = [item for item in self.waiting if item[0] in self.answers]
        self.waiting = [item for item in self.waiting if item[0] not in self.answers]
        for offset, _, report in served:
            report(self.answers[offset], None)
        if not served:
            self._clock.time += timeout


class Rig:
    """Dead letters over such a producer; `during_flush` is what the other thread does meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = ManualClock()
        self.producer = MemoryProducer(clock)
        self.telemetry = SilentTelemetry()
        self.during_flush: Callable[[], None] = lambda: None
        monkeypatch.setattr(dead_letters, "open_producer", lambda *_, **__: self.producer)
        config = configured(kafka={"dead_letter_topic": "letters"})
        self.letters = KafkaDeadLetters(
            config, self.telemetry, fault=lambda _: self.during_flush(), monotonic=clock.monotonic
        )

    def send(self, offset: int, timestamp: float = 1.0) -> None:
        self.letters.send(letter(offset, timestamp))


def letter(offset: int, timestamp: float) -> Arrival:
    original = replace(record(b"\xff", offset=offset), key=b"%d" % offset, timestamp=timestamp)
    return Arrival(
        id=f"news:2:{offset}",
        topic="news",
        partition=2,
        offset=offset,
        ts=timestamp,
        source="news",
        outcome=Outcome.DEAD_LETTER,
        rejection=Rejection(stage="decode", error="NotUtf8", message="byte 0 is not UTF-8: mend"),
        record=original,
    )


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_a_later_letters_acknowledgement_does_not_stand_for_an_earlier_letter(rig: Rig) -> None:
    """With one partition away, the head would pass a record that a crash then loses for good."""
    rig.send(1)
    rig.during_flush = lambda: rig.send(2)
    rig.producer.answers = {2: None}

    with pytest.raises(SourceUnavailable, match=r"^1 dead letters are not acknowledged"):
        rig.letters.flush(5.0)

    assert rig.telemetry.counts == {"streamlearn_dead_letters_sent_total": 1}
    rig.producer.answers = {1: None}
    rig.letters.flush(5.0)


def test_a_flush_does_not_wait_for_what_is_sent_during_it(rig: Rig) -> None:
    """A flood of bad records cannot hold up the checkpoint before it."""
    rig.send(1)
    rig.during_flush = lambda: rig.send(2)
    rig.producer.answers = {1: None}

    rig.letters.flush(1.0)

    assert [offset for offset, _, _ in rig.producer.waiting] == [2]


def test_a_letter_given_up_by_the_client_is_sent_again_and_waited_for(rig: Rig) -> None:
    """Its number stays open whatever happens on the way."""
    rig.send(1)
    rig.producer.answers = {1: KafkaError(KafkaError._MSG_TIMED_OUT)}
    rig.producer.poll(0.0)
    rig.producer.answers = {}

    with pytest.raises(SourceUnavailable):
        rig.letters.flush(1.0)

    rig.producer.answers = {1: None}
    rig.letters.flush(1.0)
    assert rig.telemetry.counts == {"streamlearn_dead_letters_sent_total": 1}


def test_a_letter_that_finds_no_room_again_is_not_forgotten(rig: Rig) -> None:
    """A queue that is full when a letter is sent again costs time, not the letter."""
    rig.send(1)
    rig.producer.answers = {1: KafkaError(KafkaError._MSG_TIMED_OUT)}
    rig.producer.poll(0.0)
    rig.producer.answers, rig.producer.room = {}, 0
    with pytest.raises(SourceUnavailable, match="fill their queue"):
        rig.letters.flush(1.0)

    rig.producer.answers, rig.producer.room = {1: None}, 1
    rig.letters.flush(1.0)

    assert rig.telemetry.counts == {"streamlearn_dead_letters_sent_total": 1}


def test_letters_too_large_for_the_topic_do_not_pile_up_between_flushes(rig: Rig) -> None:
    """Memory is bounded by the producer's queue, however many come and however far the next checkpoint is."""
    rig.producer.largest = 0

    for offset in range(100):
        rig.producer.answers[offset] = None
        rig.send(offset)

    assert rig.telemetry.counts == {"streamlearn_dead_letters_sent_total": 99}
    rig.letters.flush(1.0)
    assert rig.telemetry.counts == {"streamlearn_dead_letters_sent_total": 100}


def test_the_latest_time_stamp_kafka_can_hold_can_be_sent(rig: Rig) -> None:
    """A record whose time is nonsense is what dead letters are for."""
    rig.send(1, timestamp=(2**63 - 1) / 1000.0)

    assert [timestamp for _, timestamp, _ in rig.producer.waiting] == [2**63 - 1]


def test_a_full_queue_takes_one_more_letter_and_has_no_room_until_that_is_in(rig: Rig) -> None:
    """Who asks for room first never waits: the learner's thread stays alive through an outage."""
    rig.producer.room = 1
    rig.send(1)
    assert rig.letters.room()

    rig.send(2)

    assert not rig.letters.room()
    with pytest.raises(SourceUnavailable, match="fill their queue"):
        rig.send(3)
    rig.producer.answers = {1: None}
    assert rig.letters.room()
    rig.producer.answers = {2: None}
    rig.letters.flush(1.0)
    assert rig.telemetry.counts == {"streamlearn_dead_letters_sent_total": 2}
