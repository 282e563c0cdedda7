"""The stream's side of the checker: offsets, texts, scores, dead letters; see `checker`."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.chaos.checker_store import Chain, Objects
from tests.chaos.evidence import Evidence, Record
from tests.chaos.findings import Fault

KIND = "chaos.kind"
"""Header of a record that says what the producer meant it to be: `good` or `bad`."""
_OUTCOMES = {"good": {"admitted", "duplicate"}, "bad": {"dead_letter"}}
_CONNECT = "__connect.errors."

Records: TypeAlias = Mapping[int, list[Record]]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Every committed line, in the order of the chain."""

    parts: tuple[tuple[str, list[dict[str, Any]]], ...]
    """By checkpoint."""
    faults: tuple[Fault, ...]

    @staticmethod
    def of(chain: Chain, objects: Objects) -> Ledger:
        """Unpack what can be; what cannot is a fault of its own beside its digest."""
        parts, faults = [], []
        for link in chain.links:
            key = f"ledger/{link.name}.jsonl.gz"
            try:
                lines = [json.loads(line) for line in gzip.decompress(objects[key].body).splitlines()]
            except KeyError:
                lines = []
            except (OSError, EOFError, ValueError) as error:
                lines = []
                faults.append(Fault("broken_digest", f"{key} cannot be read: {type(error).__name__}"))
            parts.append((link.name, lines))
        return Ledger(tuple(parts), tuple(faults))

    @property
    def events(self) -> list[dict[str, Any]]:
        """One for each offset."""
        return [line for _, lines in self.parts for line in lines if line["kind"] == "event"]

    @property
    def scores(self) -> list[dict[str, Any]]:
        """One for each first visit of a chunk."""
        return [line for _, lines in self.parts for line in lines if line["kind"] == "score"]


def of_offsets(ledger: Ledger, records: Records, *, drained: bool) -> Iterator[Fault]:
    """Each offset that the broker has once and in order; what is not in the ledger lies behind its last."""
    committed: dict[int, list[int]] = defaultdict(list)
    for line in ledger.events:
        committed[line["partition"]].append(line["offset"])
    for partition in sorted(records.keys() | committed.keys()):
        there, ours = [each.offset for each in records.get(partition, ())], committed[partition]
        for offset, times in Counter(ours).items():
            if times > 1:
                yield Fault("learnt_twice", f"partition {partition}, offset {offset} is {times} times in the ledger")
        if ours != sorted(ours):
            yield Fault("chain", f"partition {partition}: the ledger's offsets are not in order")
        end = ours[-1] if ours else -1
        for offset in sorted(set(there) - set(ours)):
            if drained or offset < end:
                yield Fault("lost", f"partition {partition}, offset {offset} is not in the ledger")
        for offset in sorted(set(ours) - set(there)):
            yield Fault("chain", f"partition {partition}, offset {offset} is in the ledger, and no reader sees it")


def of_progress(ledger: Ledger, chain: Chain) -> Iterator[Fault]:
    """At every checkpoint, progress is the ledger's last offset + 1, and the totals are what it counts."""
    reached: dict[str, dict[str, int]] = defaultdict(dict)
    outcomes: Counter[str] = Counter()
    scores = 0
    for link, (name, lines) in zip(chain.links, ledger.parts, strict=True):
        for line in lines:
            if line["kind"] == "event":
                reached[line["topic"]][str(line["partition"])] = line["offset"] + 1
                outcomes[line["outcome"]] += 1
            else:
                scores += 1
        progress = {
            # Where reading began but no record came yet is progress too: nothing.
            topic: {partition: offset for partition, offset in offsets.items() if offset > 0}
            for topic, offsets in link.state["progress"].items()
        }
        if {topic: offsets for topic, offsets in progress.items() if offsets} != reached:
            yield Fault("progress", f"checkpoint {name} says {progress}, its ledger {dict(reached)}")
        totals = {part: link.state["totals"][part] for part in ("admitted", "duplicate", "filtered", "dead_letter")}
        if totals != {part: outcomes[part] for part in totals} or link.state["totals"]["chunks_learnt"] != scores:
            yield Fault("progress", f"checkpoint {name}: its totals are not what the ledger counts")


def of_texts(ledger: Ledger, records: Records, *, drained: bool) -> Iterator[Fault]:
    """Good records are admitted at their first coming and known at the next; bad ones are dead letters."""
    sent = {(each.partition, each.offset): each for partition in records.values() for each in partition}
    admitted: Counter[str] = Counter()
    texts = {str(json.loads(each.value or b"")["text"]) for each in sent.values() if each.header(KIND) == "good"}
    for line in ledger.events:
        place = f"partition {line['partition']}, offset {line['offset']}"
        if (record := sent.get((line["partition"], line["offset"]))) is None or record.header(KIND) is None:
            continue
        if line["outcome"] not in _OUTCOMES[str(record.header(KIND))]:
            yield Fault("lost", f"{place} is a {record.header(KIND)} record, and its outcome {line['outcome']}")
        if line["outcome"] == "admitted":
            admitted[str(json.loads(record.value or b"")["text"])] += 1
    for text, times in admitted.items():
        if times > 1:
            yield Fault("learnt_twice", f"{text[:40]!r} was admitted {times} times")
    if drained:
        for text in sorted(texts - admitted.keys()):
            yield Fault("lost", f"{text[:40]!r} was never admitted")


def of_scores(ledger: Ledger, chain: Chain, *, drained: bool) -> Iterator[Fault]:
    """Each chunk of an admitted event is scored once, or waits in the queue of the newest checkpoint."""
    due = Counter(
        (line["id"], chunk)
        for line in ledger.events
        if line["outcome"] == "admitted"
        for chunk in range(line["chunks"])
    )
    waiting = Counter(
        (item["event_id"], item["index"]) for link in chain.links[-1:] for item in link.state["stream"]["queue"]
    )
    scored = Counter((line["id"], line["chunk"]) for line in ledger.scores)
    for chunk, times in scored.items():
        if times > due[chunk]:
            yield Fault("learnt_twice", f"chunk {chunk[1]} of event {chunk[0]!r} is scored {times} times")
    for chunk, times in (scored + waiting).items():
        if times > due[chunk] and scored[chunk] <= due[chunk]:
            yield Fault("learnt_twice", f"chunk {chunk[1]} of event {chunk[0]!r} is scored and waits as well")
    for chunk in (due - scored - waiting).keys() | (waiting.keys() if drained else set()):
        yield Fault("lost", f"chunk {chunk[1]} of event {chunk[0]!r} was never scored")


def copies_beyond_the_first(letters: Sequence[Record]) -> int:
    """Return how many letters repeat an earlier one."""
    return len(letters) - len({_source(letter) for letter in letters})


def of_letters(ledger: Ledger, evidence: Evidence, *, unclean: int, at_risk: int, drained: bool) -> Iterator[Fault]:
    """Each dead letter is there as it was, and no more often than crashes explain."""
    sent = {(str(each.partition), str(each.offset)): each for part in evidence.records.values() for each in part}
    copies = Counter(_source(letter) for letter in evidence.letters)
    dead = {(str(e["partition"]), str(e["offset"])) for e in ledger.events if e["outcome"] == "dead_letter"}
    for partition, offset in sorted(dead - copies.keys()):
        yield Fault("dead_letter", f"partition {partition}, offset {offset} is not in the dead-letter topic")
    for source in sorted(copies.keys() - dead) if drained else ():
        yield Fault(
            "dead_letter", f"partition {source[0]}, offset {source[1]} is a dead letter that the ledger knows not"
        )
    for letter in evidence.letters:
        source = _source(letter)
        if (record := sent.get(source)) is None:
            yield Fault("dead_letter", f"a dead letter is of partition {source[0]}, offset {source[1]}: no such record")
        elif (letter.key, letter.value) != (record.key, record.value) or (
            letter.headers[: len(record.headers)] != record.headers
        ):
            yield Fault("dead_letter", f"that of partition {source[0]}, offset {source[1]} is not the record as it was")
    for source, times in copies.items():
        if times > 1 + unclean:
            yield Fault("dead_letter", f"{times} copies of {source} after {unclean} unclean ends")
    if (again := copies_beyond_the_first(evidence.letters)) > unclean * at_risk:
        yield Fault("dead_letter", f"{again} letters came again; {unclean} unclean ends explain {unclean * at_risk}")


def _source(letter: Record) -> tuple[str, str]:
    return (str(letter.header(f"{_CONNECT}partition")), str(letter.header(f"{_CONNECT}offset")))
