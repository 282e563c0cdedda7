"""What the findings of `streamlearn check` mean, row by row."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamlearn.cli.output import size
from streamlearn.config import Config

if TYPE_CHECKING:
    from streamlearn.ingest.probe import KafkaFindings, TopicFindings
    from streamlearn.learner.probe import ModelFindings

_MOST_SHOWN = 6
"""Partitions, topics or addresses that are listed one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One row: a part, whether it will do, what was found, and what to do where it will not."""

    part: str
    ok: bool
    found: str
    mend: str = ""

    def document(self) -> dict[str, Any]:
        """Return the row as JSON values; `mend` is null where nothing needs mending."""
        return {"part": self.part, "ok": self.ok, "found": self.found, "mend": self.mend or None}


def kafka_rows(findings: KafkaFindings, config: Config) -> list[Probe]:
    """Return a row for the brokers, for each entry of `kafka.topics`, and for the dead letters."""
    rows = [Probe(part="kafka", ok=True, found=f"reachable: {_listed(findings.brokers)}")]
    rows += [_topic_row(entry, findings) for entry in config.kafka.topics]
    if (topic := config.kafka.dead_letter_topic) is not None:
        rows.append(_dead_letter_row(topic, findings))
    return rows


def _topic_row(entry: str, findings: KafkaFindings) -> Probe:
    topics = findings.wanted[entry]
    if entry.startswith("^"):
        names = [topic.name for topic in topics]
        if not topics:
            mend = "create a topic that it matches, or mend kafka.topics"
            return Probe(part=f"topics {entry}", ok=False, found=_missing(findings), mend=mend)
        partitions, records = sum(len(topic.partitions) for topic in topics), sum(topic.records for topic in topics)
        found = f"{_count(len(names), 'topic')}, {_count(partitions, 'partition')}, {_count(records, 'record')}"
        return Probe(part=f"topics {entry}", ok=True, found=f"{found}: {_listed(names)}")
    if topics:
        return Probe(part=f"topic {entry}", ok=True, found=_topic(topics[0]))
    similar = difflib.get_close_matches(entry, findings.topics, n=1)
    hint = f" (did you mean {similar[0]!r}?)" if similar else ""
    mend = f"create it, grant us Describe on it, or mend kafka.topics{hint}"
    return Probe(part=f"topic {entry}", ok=False, found=_missing(findings), mend=mend)


def _missing(findings: KafkaFindings) -> str:
    others = [name for name in findings.topics if not name.startswith("__")]
    return f"not there, or not ours to see; there is {_listed(others) or 'no topic at all'}"


def _topic(topic: TopicFindings) -> str:
    marks = [f"{place}: {low:,}–{high:,}" for place, (low, high) in sorted(topic.partitions.items())]
    count = f"{_count(len(marks), 'partition')}, {_count(topic.records, 'record')}"
    return f"{count} (offsets {_listed(marks)})"


def _dead_letter_row(topic: str, findings: KafkaFindings) -> Probe:
    part = f"dead letters {topic}"
    if findings.dead_letters:
        return Probe(part=part, ok=True, found="there")
    if findings.auto_create is False:
        mend = "create it, set auto.create.topics.enable on the brokers, or remove kafka.dead_letter_topic"
        return Probe(part=part, ok=False, found="not there, and the brokers create no topics", mend=mend)
    sure = (
        "the brokers create it" if findings.auto_create else "to be created by the brokers, which do not say if they do"
    )
    return Probe(part=part, ok=True, found=f"not there yet; {sure} with the first dead letter")


def store_rows(url: str, _config: Config) -> list[Probe]:
    """Return the row of a store that has proved itself."""
    return [Probe(part="store", ok=True, found=f"writable, conditional writes honoured ({url})")]


def model_rows(findings: ModelFindings, _config: Config) -> list[Probe]:
    """Return a row for the model, and one for the memory that learning it takes."""
    base, lora = findings.base, findings.lora
    template = "chat template" if findings.chat_template else "no chat template, so `messages` are dead letters"
    found = [
        f"{base.served_name}, {base.parameters / 1e6:,.0f} M parameters on {findings.device} in {findings.dtype}",
        f"tokenizer loads, {template}",
        f"chunks of {findings.context_tokens} tokens",
        f"LoRA rank {lora.rank} on {_listed(lora.target_modules)} ({lora.parameters / 1e6:,.2f} M parameters)",
    ]
    needed, available = findings.needed_bytes, findings.available_bytes
    enough = needed <= available
    memory = Probe(
        part="memory",
        ok=enough,
        found=f"about {size(needed)} needed, {size(available)} free on {findings.device}",
        mend="" if enough else "free some, take a smaller model.name, or lower model.context_tokens and lora.rank",
    )
    return [Probe(part="model", ok=True, found="; ".join(found)), memory]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
