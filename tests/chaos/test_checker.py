"""The checker notices each way in which a lineage can be wrong, and does not cry without a reason.

The lineage here is made by hand, after the documents of `docs/schemas`: what
the checker reads must not be written by what it checks.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from safetensors.numpy import save

from tests.chaos.checker import Verdict, check
from tests.chaos.checker_events import KIND
from tests.chaos.evidence import Blob, Evidence, Record

TOPIC = "news"
Line: TypeAlias = dict[str, Any]
Spoil: TypeAlias = Callable[["Lineage"], None]


def digest(body: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}


def event(partition: int, offset: int, outcome: str, chunks: int = 0) -> Line:
    return {
        "kind": "event", "id": f"e{partition}-{offset}", "topic": TOPIC, "partition": partition, "offset": offset,
        "outcome": outcome, "chunks": chunks,
    }  # fmt: skip


def score(partition: int, offset: int, chunk: int = 0) -> Line:
    return {"kind": "score", "id": f"e{partition}-{offset}", "chunk": chunk}


def source(partition: int, offset: int, text: str | None) -> Record:
    """A good record, or where there is no text a bad one."""
    value = b"no event" if text is None else json.dumps({"id": f"e{partition}-{offset}", "text": text}).encode()
    kind = b"bad" if text is None else b"good"
    return Record(partition=partition, offset=offset, key=b"k", value=value, headers=((KIND, kind),))


def letter(record: Record) -> Record:
    place = {"partition": record.partition, "offset": record.offset, "topic": TOPIC}
    reasons = tuple((f"__connect.errors.{name}", str(value).encode()) for name, value in place.items())
    return replace(record, partition=0, offset=0, headers=(*record.headers, *reasons))


class Lineage:
    """Three checkpoints of two epochs, two versions; partition 0 has a gap where a transaction ended."""

    def __init__(self) -> None:
        self.epochs = [1, 1, 2]
        self.queues: list[list[Line]] = [[{"event_id": "e0-1", "index": 1}], [], []]
        self.versions = [1, None, 2]
        self.ledgers = [
            [event(0, 0, "admitted", 1), event(0, 1, "admitted", 2), score(0, 0), score(0, 1, 0)],
            [event(1, 0, "dead_letter"), score(0, 1, 1), event(0, 3, "duplicate")],
            [event(1, 1, "admitted", 1), score(1, 1), event(1, 2, "dead_letter")],
        ]
        self.progress = [{"0": 2, "1": 0}, {"0": 4, "1": 1}, {"0": 4, "1": 3}]
        self.records = {
            0: [source(0, 0, "a"), source(0, 1, "b"), source(0, 3, "a")],
            1: [source(1, 0, None), source(1, 1, "c"), source(1, 2, None)],
        }
        self.letters = [letter(self.records[1][0]), letter(self.records[1][2])]
        self.head: dict[str, Any] = {"epoch": 2, "version": 2}
        self.alias: dict[str, Any] = {
            "version": "v000002",
            "epoch": 2,
            "history": [
                {"from_version": None, "to_version": "v000001", "epoch": 1},
                {"from_version": "v000001", "to_version": "v000002", "epoch": 2},
            ],
        }
        self.objects: dict[str, bytes] = {}

    def written(self) -> Lineage:
        """Make the objects of all this."""
        parent, published = None, None
        lines: list[Line] = []
        for place, ledger in enumerate(self.ledgers):
            lines += ledger
            packed = gzip.compress("\n".join(map(json.dumps, ledger)).encode())
            adapter = save({"lora_A": np.full((1, 4), place, dtype=np.float32)})
            state = {
                "lineage": "chaos", "seq": place + 1, "epoch": self.epochs[place], "parent": parent,
                "files": {"adapter.safetensors": digest(adapter)}, "ledger": digest(packed),
                "version": self.versions[place], "progress": {TOPIC: self.progress[place]}, "scores": {},
                "totals": totals(lines), "stream": {"queue": self.queues[place]},
            }  # fmt: skip
            body = json.dumps(state).encode()
            parent = f"{place + 1:010d}-{hashlib.sha256(body).hexdigest()[:12]}"
            self.objects[f"checkpoints/{parent}/state.json"] = body
            self.objects[f"checkpoints/{parent}/adapter.safetensors"] = adapter
            self.objects[f"ledger/{parent}.jsonl.gz"] = packed
            if state["version"] is not None:
                published = self._publish(f"v{state['version']:06d}", parent, published, state, adapter)
        self.objects["head.json"] = json.dumps({"checkpoint": parent} | self.head).encode()
        self.objects["aliases/latest.json"] = json.dumps(self.alias).encode()
        return self

    def _publish(self, name: str, checkpoint: str, parent: str | None, state: dict[str, Any], adapter: bytes) -> str:
        files = {"adapter_model.safetensors": adapter, "adapter_config.json": b"{}"}
        manifest = {part: state[part] for part in ("lineage", "epoch", "progress", "totals", "scores")}
        manifest |= {"version": name, "parent": parent, "checkpoint": checkpoint}
        manifest["files"] = {file: digest(body) for file, body in files.items()}
        for file, body in files.items():
            self.objects[f"versions/{name}/{file}"] = body
        self.objects[f"versions/{name}/manifest.json"] = json.dumps(manifest).encode()
        return name

    def key(self, ending: str, *, newest: bool = True) -> str:
        """Return the first or last key with that ending."""
        return sorted(key for key in self.objects if key.endswith(ending))[-1 if newest else 0]

    def verdict(self, *, drained: bool = True, unclean: int = 0) -> Verdict:
        objects = {key: Blob.of(body) for key, body in self.objects.items()}
        evidence = Evidence(objects=objects, records=self.records, letters=self.letters)
        return check(evidence, drained=drained, unclean=unclean, at_risk=1)


def totals(lines: list[Line]) -> dict[str, int]:
    outcomes = [line["outcome"] for line in lines if line["kind"] == "event"]
    counted = {name: outcomes.count(name) for name in ("admitted", "duplicate", "filtered", "dead_letter")}
    return counted | {"chunks_learnt": len(lines) - len(outcomes)}


def test_a_lineage_that_kept_its_promises_has_no_faults() -> None:
    """Gaps that the broker left, chunks that waited and uploads that nobody stands on are none."""
    lineage = Lineage().written()
    lineage.objects["checkpoints/0000000002-aaaaaaaaaaaa/adapter.safetensors"] = b"an upload that was cut off"

    found = lineage.verdict()

    assert found.faults == ()
    assert (found.events, found.checkpoints, found.versions, found.leavings, found.letters_again) == (6, 3, 2, 1, 0)


# --- what a writer could have written wrong: everything is consistent but the promise ---------------


def skip_an_offset(lineage: Lineage) -> None:
    del lineage.ledgers[1][2]


def repeat_an_offset(lineage: Lineage) -> None:
    lineage.ledgers[2].insert(0, event(0, 3, "duplicate"))


def turn_offsets_round(lineage: Lineage) -> None:
    first = lineage.ledgers[0]
    first[0], first[1] = first[1], first[0]


def invent_an_offset(lineage: Lineage) -> None:
    lineage.ledgers[1].insert(0, event(0, 2, "duplicate"))


def stop_before_the_end(lineage: Lineage) -> None:
    del lineage.ledgers[2][2]
    lineage.progress[2]["1"] = 2
    del lineage.letters[1]


def run_ahead(lineage: Lineage) -> None:
    lineage.progress[1]["1"] = 2


def score_twice(lineage: Lineage) -> None:
    lineage.ledgers[2].append(score(0, 1, 1))


def score_and_keep(lineage: Lineage) -> None:
    lineage.queues[2] = [{"event_id": "e1-1", "index": 0}]


def never_score(lineage: Lineage) -> None:
    del lineage.ledgers[1][1]


def learn_a_repeat(lineage: Lineage) -> None:
    lineage.ledgers[1][2] = event(0, 3, "admitted", 0)


def pass_over_a_text(lineage: Lineage) -> None:
    lineage.ledgers[2][:2] = [event(1, 1, "filtered")]


def go_back_an_epoch(lineage: Lineage) -> None:
    lineage.epochs = [1, 2, 1]


def leave_the_head_behind(lineage: Lineage) -> None:
    lineage.head["epoch"] = 1


def move_an_alias_as_a_zombie(lineage: Lineage) -> None:
    lineage.alias["history"][0]["epoch"] = 3


def skip_a_move(lineage: Lineage) -> None:
    del lineage.alias["history"][0]


def point_back(lineage: Lineage) -> None:
    lineage.alias["version"] = "v000001"


def allocate_a_number_twice(lineage: Lineage) -> None:
    lineage.versions[1] = 1


def skip_a_number(lineage: Lineage) -> None:
    lineage.versions[2] = 3
    lineage.head["version"] = 3


def forget_a_letter(lineage: Lineage) -> None:
    del lineage.letters[0]


def alter_a_letter(lineage: Lineage) -> None:
    lineage.letters[0] = replace(lineage.letters[0], value=b"no  event")


def drop_a_header(lineage: Lineage) -> None:
    lineage.letters[0] = replace(lineage.letters[0], headers=lineage.letters[0].headers[1:])


def repeat_a_letter(lineage: Lineage) -> None:
    lineage.letters.append(lineage.letters[0])


def send_a_good_record_away(lineage: Lineage) -> None:
    lineage.letters.append(letter(lineage.records[0][0]))


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (skip_an_offset, "lost"),
        (repeat_an_offset, "learnt_twice"),
        (turn_offsets_round, "chain"),
        (invent_an_offset, "chain"),
        (stop_before_the_end, "lost"),
        (run_ahead, "progress"),
        (score_twice, "learnt_twice"),
        (score_and_keep, "learnt_twice"),
        (never_score, "lost"),
        (learn_a_repeat, "learnt_twice"),
        (pass_over_a_text, "lost"),
        (go_back_an_epoch, "epoch"),
        (leave_the_head_behind, "epoch"),
        (move_an_alias_as_a_zombie, "epoch"),
        (skip_a_move, "alias"),
        (point_back, "alias"),
        (allocate_a_number_twice, "chain"),
        (skip_a_number, "chain"),
        (forget_a_letter, "dead_letter"),
        (alter_a_letter, "dead_letter"),
        (drop_a_header, "dead_letter"),
        (repeat_a_letter, "dead_letter"),
        (send_a_good_record_away, "dead_letter"),
    ],
)
def test_a_broken_promise_is_noticed(spoil: Spoil, kind: str) -> None:
    """Each is reported as what it is, whatever else it drags along."""
    lineage = Lineage()
    spoil(lineage)

    assert kind in {fault.kind for fault in lineage.written().verdict().faults}


# --- what storage could have done to it -------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("head.json", "chain"),
        ("state.json", "chain"),
        (".jsonl.gz", "broken_digest"),
        ("adapter.safetensors", "broken_digest"),
        ("adapter_model.safetensors", "half_version"),
        ("adapter_config.json", "half_version"),
        ("manifest.json", "half_version"),
    ],
)
@pytest.mark.parametrize("newest", [True, False])
def test_a_lost_object_is_noticed(ending: str, kind: str, newest: bool) -> None:
    """Whether it is of the newest checkpoint or of the first."""
    lineage = Lineage().written()
    del lineage.objects[lineage.key(ending, newest=newest)]

    assert kind in {fault.kind for fault in lineage.verdict().faults}


@pytest.mark.parametrize(
    "ending", ["state.json", ".jsonl.gz", "adapter.safetensors", "adapter_model.safetensors", "adapter_config.json"]
)
def test_an_altered_object_is_noticed(ending: str) -> None:
    """One byte is enough, also where the document still parses."""
    lineage = Lineage().written()
    key = lineage.key(ending)
    lineage.objects[key] += b" "

    assert "broken_digest" in {fault.kind for fault in lineage.verdict().faults}


def test_an_alias_to_what_is_not_complete_is_a_half_version() -> None:
    """Whoever follows the alias would load what is not there."""
    lineage = Lineage().written()
    del lineage.objects[lineage.key("manifest.json")]

    found = lineage.verdict(drained=False)

    assert any("points at" in fault.what for fault in found.faults if fault.kind == "half_version")


def test_an_adapter_that_holds_no_numbers_is_a_half_version() -> None:
    """Its digest may be right, and it is worth nothing."""
    lineage = Lineage()
    lineage.written()
    bad = save({"lora_A": np.full((1, 4), np.nan, dtype=np.float32)})
    lineage.objects["versions/v000002/adapter_model.safetensors"] = bad

    assert any("numbers that are none" in fault.what for fault in lineage.verdict().faults)


def test_a_version_that_no_committed_checkpoint_knows_is_noticed() -> None:
    """A zombie published it."""
    lineage = Lineage().written()
    lineage.objects["versions/v000003/adapter_config.json"] = b"{}"

    assert "half_version" in {fault.kind for fault in lineage.verdict().faults}


# --- what crashes explain ---------------------------------------------------------------------------


def test_a_crash_explains_one_more_copy_of_a_dead_letter() -> None:
    """At least once, and no more often than that."""
    lineage = Lineage()
    repeat_a_letter(lineage)
    lineage.written()

    assert lineage.verdict(unclean=1).faults == ()
    repeat_a_letter(lineage)
    assert {fault.kind for fault in lineage.verdict(unclean=1).faults} == {"dead_letter"}


def test_right_after_a_crash_the_newest_may_be_unfinished() -> None:
    """The next writer finishes it; nobody sees it before."""
    lineage = Lineage()
    lineage.alias["history"].pop()
    lineage.alias["version"] = "v000001"
    lineage.queues[2] = []
    lineage.written()
    del lineage.objects["versions/v000002/manifest.json"]

    assert lineage.verdict(drained=False, unclean=1).faults == ()
    assert "half_version" in {fault.kind for fault in lineage.verdict(drained=True, unclean=1).faults}


def test_before_the_end_what_comes_later_is_not_lost() -> None:
    """A worker that was killed had more to read."""
    lineage = Lineage()
    stop_before_the_end(lineage)

    assert lineage.written().verdict(drained=False, unclean=1).faults == ()


def test_the_checker_imports_nothing_of_what_it_checks() -> None:
    """What is wrong in streamlearn must not hide itself here."""
    here = Path(__file__).parent
    seen: set[str] = set()
    waiting = ["tests.chaos.checker"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.startswith("tests.chaos."):
            for node in ast.walk(ast.parse((here / f"{name.removeprefix('tests.chaos.')}.py").read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == "tests.chaos":
                    waiting += [f"tests.chaos.{each.name}" for each in node.names]
                elif isinstance(node, ast.ImportFrom):
                    waiting.append(str(node.module))
                elif isinstance(node, ast.Import):
                    waiting += [each.name for each in node.names]

    assert {"tests.chaos.evidence", "tests.chaos.checker_store", "tests.chaos.checker_events"} <= seen
    assert not [name for name in seen if name.partition(".")[0] == "streamlearn"]
    assert not [name for name in seen if name.startswith("tests.") and not name.startswith("tests.chaos.")]
