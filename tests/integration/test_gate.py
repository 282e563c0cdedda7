"""Which version serves is decided by what it does to the stream: on real Kafka, a real S3 server, and whole workers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.compare import Bench, CameTo, Lineage
from tests.services.kafka import KafkaService
from tests.services.s3 import S3Server

WORDS = ("the ", "river ", "runs ", "quietly ", "past ", "seven ", "old ", "houses ", "and ", "a ", "mill ")
OTHERS = ("😀", "😃", "😄", "😁", "😆", "😅", "🙂", "🙃", "😉", "😊", "😇")
"""Who has learnt to expect letters is much worse at these than who expects nothing."""

HASTY: dict[str, dict[str, object]] = {
    # All of it compared, and decided on so little that a test can wait for it.
    "evaluation": {"sample": 1.0},
    "gate": {"min_blocks": 2, "max_blocks": 5, "held_out_chunks": 0},
    "anchor": {"weight": 0.01},
    "learner": {
        "learning_rate": 1e-2,
        "full_rate_gain": 0.0,
        "warmup_steps": 5,
        "step_chunks": 2,
        "min_step_tokens": 1,
        "served_average": 0.0,
    },
    # Of a random tiny model any text teaches the head something about any other, so that no champion is ever bad.
    "lora": {"rank": 8, "output_head": False},
    # An event a chunk.
    "model": {"context_tokens": 128},
    # Poison that a filter finds does no harm; here it gets through.
    "hygiene": {"near_duplicates": False, "junk_z": 50.0},
    "drift": {"react": False},
    # A version at the end of each life, and none before.
    "publish": {"every": "100000steps"},
    "checkpoint": {"every_events": 16},
}


@pytest.fixture(scope="module")
def bench(kafka: KafkaService, s3: S3Server, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(kafka, s3, tiny_model, tmp_path_factory.mktemp("gate"))


class Told:
    """A topic that is written to between the lives of its lineage."""

    def __init__(self, bench: Bench, *sections: dict[str, dict[str, object]]) -> None:
        self._bench = bench
        self.topic = bench.new_topic()
        self.lineage = Lineage(bench, self.topic, HASTY, *sections)
        self.offset = 0

    def say(self, count: int, words: tuple[str, ...], *, reversed_: bool = False) -> None:
        """Write `count` events of about a chunk: the words in their order, begun anywhere."""
        rows = []
        for number in range(self.offset, self.offset + count):
            begin = random.Random(number).randrange(len(words))
            text = [words[(begin + step) % len(words)] for step in range(len(words))]
            if reversed_:
                text.reverse()
            value = json.dumps({"id": f"event-{number}", "text": "".join([*text, str(number)])}).encode()
            rows.append((value, 1_700_000_000_000 + number * 1_000))
        self._bench.produce(self.topic, rows)
        self.offset += count

    def live(self) -> CameTo:
        """Let a worker learn all there is; it publishes what it came to."""
        self.lineage.live()
        return self.lineage.must_have_come_to()


def decisions(came: CameTo) -> list[tuple[str, str, str | None]]:
    """(decision, version judged, champion after it) of every ruling."""
    return [(each["decision"], each["evidence"]["subject"], each["champion"]) for each in came.rulings]


def moves(came: CameTo) -> list[tuple[str | None, str | None, int]]:
    """(from, to, ruling) of every move of alias `champion`."""
    history: list[dict[str, Any]] = came.aliases["champion"]["history"] if "champion" in came.aliases else []
    return [(move["from_version"], move["to_version"], move["ruling"]) for move in history]


def test_a_poisoned_version_is_not_promoted(bench: Bench) -> None:
    """It learnt the stream backwards for a while; whoever asks for the champion never meets it."""
    told = Told(bench)
    told.say(80, WORDS)
    told.live()
    told.say(110, WORDS)
    told.say(40, WORDS, reversed_=True)
    came = told.live()
    assert decisions(came)[0] == ("promote", "v000001", "v000001")
    assert came.aliases["latest"]["version"] == "v000002", "the poisoned one is there, for who wants the latest"

    told.say(160, WORDS)
    came = told.live()

    judged = {subject: decision for decision, subject, _ in decisions(came) if decision in {"promote", "hold"}}
    assert judged == {"v000001": "promote", "v000002": "hold"}, decisions(came)
    poisoned = next(each for each in came.rulings if each["decision"] == "hold")
    assert poisoned["evidence"]["against"] == "v000001"
    assert poisoned["evidence"]["mean"] < 0, "it was worse, and not only undecided"
    assert came.aliases["champion"]["version"] == "v000001"
    assert moves(came) == [(None, "v000001", 1)]


def test_a_version_that_forgot_too_much_is_refused(bench: Bench, tmp_path: Path) -> None:
    """However well it does on the stream."""
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text("".join(json.dumps({"text": "".join(OTHERS)}) + "\n" for _ in range(4)))
    told = Told(bench, {"gate": {"held_out": str(held_out), "held_out_chunks": 4}})
    told.say(80, WORDS)
    came = told.live()

    assert decisions(came) == [("refuse", "v000001", None)]
    assert came.rulings[0]["evidence"]["held_out_rise"] > 0.03
    assert moves(came) == []


def test_a_champion_that_turns_out_bad_is_rolled_back(bench: Bench) -> None:
    """The stream turns: alias and learner are as before the promotion, and what the version had seen is named."""
    told = Told(bench)
    told.say(80, WORDS)
    told.live()
    told.say(60, WORDS)
    came = told.live()
    assert decisions(came) == [("promote", "v000001", "v000001")]
    (promotion,) = came.aliases["champion"]["history"]
    assert promotion["evidence"]["blocks"] == 2
    assert promotion["evidence"]["bound"] > 0.002
    assert promotion["reason"].startswith("promote: better by")

    told.say(120, OTHERS)
    came = told.live()

    assert decisions(came)[:2] == [("promote", "v000001", "v000001"), ("roll_back", "v000001", None)]
    assert moves(came) == [(None, "v000001", 1), ("v000001", None, 2)]
    assert came.aliases["champion"]["version"] is None
    fallen = came.rulings[1]
    assert fallen["distrusted"] == {told.topic: {"0": [0, 80]}}
    assert came.totals["events"] == 260, "the stream goes on, each event once"
    # A learner that began anew with the other words does not know the first ones any better than the base.
    told.say(32, WORDS)
    later = told.live()
    after = [line for line in later.lines if line["kind"] == "score"][-32:]
    assert sum(line["nll"] - line["nll_base"] for line in after[:8]) > 0


def test_promotion_and_rollback_come_to_the_same_however_often_the_worker_is_killed(bench: Bench) -> None:
    """Guests, evidence, rulings and the restored learner are all in the checkpoint, or read back from the store."""
    told = Told(bench)
    told.say(110, WORDS)
    told.say(110, OTHERS)
    came: list[CameTo] = []
    for faults in ((), ("uploaded:3:KILL", "swapped:2:KILL", "version:half:1:KILL")):
        told.lineage = Lineage(bench, told.topic, HASTY, {"publish": {"every": "35steps"}})
        for fault in faults:
            told.lineage.live(faults=[fault], exits=-9)
        # The second checkpoint waits for the first, so each life gets on.
        while faults and (steps := told.lineage.must_have_come_to().totals["steps"]) < 85:
            told.lineage.live(kill_at_step=steps + 21, exits=-9)
        came.append(told.live())
    undisturbed, killed = came

    assert {"promote", "roll_back"} <= {decision for decision, *_ in decisions(undisturbed)}
    assert killed.epoch > 6
    killed.assert_same(undisturbed)
    assert moves(killed) == moves(undisturbed)
