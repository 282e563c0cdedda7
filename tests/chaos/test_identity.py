"""Resume is identity: what a lineage comes to is the events' doing alone, however often it was killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.compare import Bench, CameTo, Lineage
from tests.services.kafka import KafkaService
from tests.services.s3 import S3Server

EVENTS = 60
CHANGE = 44
"""Event from which on nobody has ever read anything like it."""
REPEATED = "the same text again and again"
REPRINTED = "{0} and {0} but one word is another {1}"
WORDS = (
    "stream",
    "event",
    "adapter",
    "speaks",
    "of",
    "what",
    "has",
    "just",
    "come",
    "to",
    "pass",
    "in",
    "this",
    "world",
)


def events(first: int, last: int) -> list[tuple[bytes, int]]:
    """Texts of one to some chunks, a few of them repeated, too short, or no JSON; some come late."""
    made = []
    for number in range(first, last):
        chance = random.Random(number)
        text = " ".join([*chance.choices(WORDS, k=chance.randint(2, 90)), str(number)])
        if number >= CHANGE:
            text = "".join(map(chr, chance.choices(range(0x4E00, 0x9FFF), k=40)))
        if number % 11 == 10:
            text = REPEATED
        elif number % 13 == 12:
            text = "x"
        elif number % 7 == 6:
            text = REPRINTED.format(" ".join(WORDS), "once" if number % 2 else "again")
        value = b"{no json" if number % 17 == 16 else json.dumps({"id": f"event-{number}", "text": text}).encode()
        made.append((value, 1_700_000_000_000 + number * 1_000 - chance.choice([0, 0, 0, 4_000])))
    return made


@pytest.fixture(scope="module")
def bench(kafka: KafkaService, s3: S3Server, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(kafka, s3, tiny_model, tmp_path_factory.mktemp("identity"))


@pytest.fixture(scope="module")
def topic(bench: Bench) -> str:
    """One partition's worth of events, written in one go."""
    name = bench.new_topic()
    bench.produce(name, events(0, EVENTS))
    return name


USUAL: dict[str, dict[str, object]] = {
    "ingest": {"min_chars": 3},
    # So tight that each strikes within so short a stream, as the yardstick below asserts.
    "learner": {"served_average": 0.9, "fade_half_lives": 1.0, "clip_z": 0.1},
    "hygiene": {"near_zero": 3.8, "junk_z": 0.5, "near_duplicates": True},
    "drift": {"delta": 0.5, "min_chunks_apart": 5, "react": True, "rate_steps": 5},
}


def lineage(bench: Bench, topic: str, **sections: dict[str, object]) -> Lineage:
    """A lineage that makes a checkpoint every 8 events unless told otherwise."""
    letters = {"kafka": {"dead_letter_topic": bench.kafka.new_topic("letters")}}
    return Lineage(bench, topic, USUAL, letters, {"checkpoint": {"every_events": 8}}, sections)


@pytest.fixture(scope="module")
def undisturbed(bench: Bench, topic: str) -> CameTo:
    """What a lineage comes to that lives once."""
    whole = lineage(bench, topic)
    whole.live()
    came = whole.must_have_come_to()
    assert came.offsets() == {0: list(range(EVENTS))}
    outcomes = {line["outcome"] for line in came.lines if line["kind"] == "event"}
    assert outcomes == {"admitted", "duplicate", "filtered", "dead_letter"}, "the stream has everything in it"
    assert came.totals["duplicate"] > sum(number % 11 == 10 for number in range(EVENTS)) - 1, "reprints too"
    assert came.totals["chunks_passed_over"] > 0
    assert came.watched["vigilance"]["alarms"]
    assert came.watched["lessons"]["clip"]["clipped"] > 0
    whole.assert_as_in_one_life()
    return came


def test_a_lineage_that_was_killed_everywhere_comes_to_the_same(bench: Bench, topic: str, undisturbed: CameTo) -> None:
    """kill -9 changes nothing but the time: ledger, scores, adapter, optimiser and window are the same bytes."""
    killed = lineage(bench, topic)
    # Before anything is committed; with all of a checkpoint on the store, but not committed.
    killed.live(kill_at_step=1, exits=-signal.SIGKILL)
    killed.live(faults=["uploaded:2:KILL"], exits=-signal.SIGKILL)
    # Just after a swap; with some dead letters sent; in the middle of a version, and before its manifest.
    for fault in ("swapped:1:KILL", "dead_letters:flush:1:KILL", "version:half:1:KILL", "version:half:2:KILL"):
        killed.live(faults=[fault], exits=-signal.SIGKILL)
    # Between two checkpoints: after the next step, and two steps on.
    for steps in (1, 2):
        taken = killed.must_have_come_to().totals["steps"]
        killed.live(kill_at_step=taken + steps, exits=-signal.SIGKILL)
    # As an operator does it, to a process that was not forked from ours.
    before = killed.must_have_come_to().checkpoints
    arguments = [
        sys.executable,
        "-m",
        "tests.chaos.worker",
        *killed.arguments("--until-end", faults=["swapped:1:STOP"]),
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        killed.wait_for(lambda came: came.checkpoints > before, "its first checkpoint")
    finally:
        process.kill()
        process.wait(30)
    # And once in order, which makes a checkpoint where none was due.
    killed.live(faults=["swapped:1:TERM"])
    killed.live()

    came = killed.must_have_come_to()
    assert came.epoch == 11, "it lived so often"
    came.assert_same(undisturbed)
    killed.assert_as_in_one_life()


@pytest.mark.parametrize(
    "knobs",
    [
        # One event in memory at a time, fetched in morsels, and a checkpoint now and then.
        {
            "ingest": {"buffer_records": 1},
            "kafka.client": {"max.partition.fetch.bytes": 300, "queued.min.messages": 1},
            "checkpoint": {"every_events": 31},
        },
        # As fast as the store takes them, and a version after every step.
        {"checkpoint": {"every_events": 1_000, "every_s": 0.01}, "publish": {"every": "1steps"}},
    ],
    ids=["a small buffer", "checkpoints by the clock"],
)
def test_neither_buffer_nor_checkpoints_show_in_what_is_learnt(
    bench: Bench, topic: str, undisturbed: CameTo, knobs: dict[str, dict[str, object]]
) -> None:
    """What is kept when, and how much is fetched ahead, is for operators to choose freely."""
    other = lineage(bench, topic, **knobs)

    other.live()

    other.must_have_come_to().assert_same(undisturbed)


def test_events_that_come_in_dribs_are_learnt_as_if_they_had_come_at_once(bench: Bench, undisturbed: CameTo) -> None:
    """A pause shorter than `learner.flush_s` leaves no trace, wherever it falls, and nor does an orderly restart."""
    topic = bench.new_topic()
    slow = lineage(bench, topic, checkpoint={"every_s": 0.2})
    with slow.living() as life:
        for first, last in ((0, 7), (7, 8), (8, 30), (30, EVENTS)):
            bench.produce(topic, events(first, last))
            slow.wait_for(lambda came, end=last: came.progress.get("0") == end, "a drib to be passed")  # type: ignore[misc]
        assert life.send(signal.SIGTERM) == 0, life.said()
    slow.live()

    slow.must_have_come_to().assert_same(undisturbed)


# --- the flush timer ---------------------------------------------------------------------------------


def flushed(came: CameTo) -> list[str]:
    return [line["id"] for line in came.lines if line.get("flushed")]


def short(first: int, last: int) -> list[tuple[bytes, int]]:
    """Events of one chunk each; three of them make a batch."""
    return [
        (json.dumps({"id": str(n), "text": f"event {n}"}).encode(), 1_700_000_000_000 + n) for n in range(first, last)
    ]


def test_a_flush_that_was_committed_is_part_of_the_state(bench: Bench) -> None:
    """The timer is the one thing that wall time decides; it is in the ledger, and no later crash decides it anew."""
    topic = bench.new_topic()
    quick = lineage(bench, topic, learner={"flush_s": 0.2}, checkpoint={"every_s": 0.1})
    bench.produce(topic, short(0, 4))
    with quick.living() as life:
        quick.wait_for(flushed, "the fourth event, which waits for two more, to be flushed")
        assert life.send(signal.SIGKILL) == -signal.SIGKILL
    before = quick.must_have_come_to()
    assert flushed(before) == ["3"]
    bench.produce(topic, short(4, 21))
    # From here on the events alone decide.
    quick.configure({"learner": {"flush_s": 3600.0}})
    quick.live(kill_at_step=5, exits=-signal.SIGKILL)
    quick.live()

    came = quick.must_have_come_to()
    assert came.ledger[: len(before.ledger)] == before.ledger
    assert flushed(came) == ["3", "19", "20"], "the fourth event, and what is left over at the end"
    quick.assert_as_in_one_life()
    patient = lineage(bench, topic)
    patient.live()
    assert patient.must_have_come_to().files["adapter"] != came.files["adapter"], "a flush does matter"


def test_a_flush_that_was_not_committed_never_was(bench: Bench) -> None:
    """What a crash threw away nobody has seen; the events are learnt as they come the second time."""
    topic = bench.new_topic()
    killed = lineage(bench, topic, learner={"flush_s": 0.2}, checkpoint={"every_events": 1_000})
    bench.produce(topic, short(0, 4))
    with killed.living(kill_at_step=2) as life:
        assert life.wait() == -signal.SIGKILL, "the second step can only be a flush"
    bench.produce(topic, short(4, 21))
    killed.configure({"learner": {"flush_s": 3600.0}})
    killed.live()

    patient = lineage(bench, topic)
    patient.live()
    came = killed.must_have_come_to()
    assert flushed(came) == []
    came.assert_same(patient.must_have_come_to())
