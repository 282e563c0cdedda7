"""A stream in which every other record is broken, from the broker through ingest to the dead-letter topic."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from confluent_kafka import Consumer, Message, Producer

from streamlearn.config import Config
from streamlearn.core.events import Arrival, Chunk, Completion, Content, Conversation, Outcome, Plain
from streamlearn.ingest.open import open_dead_letters, open_source
from streamlearn.ports import DeadLetters, EventSource, Fatal
from tests.fakes.daemon import SilentTelemetry
from tests.services.kafka import KafkaService, quiet_logger

DEADLINE_S = 60.0
MAX_CHARS = 1_000
MAX_BYTES = 6_000

BAD: dict[str, tuple[bytes | None, str]] = {
    "a tombstone": (None, "NullValue"),
    "an empty value": (b"", "EmptyValue"),
    "bytes that are not UTF-8": (b'{"text": "\xff\xfe"}', "NotUtf8"),
    "UTF-16": ('{"text": "x"}'.encode("utf-16"), "NotUtf8"),
    "bare text": (b"plain words", "NotJson"),
    "cut off JSON": (b'{"text": "cut', "NotJson"),
    "two objects": (b'{"text": "a"} {"text": "b"}', "NotJson"),
    "NaN": (b'{"text": "x", "n": NaN}', "NotJson"),
    "deep nesting": (b"[" * 5_000, "TooDeep"),
    "a huge number": (b'{"text": "x", "n": ' + b"9" * 5_000 + b"}", "HugeNumber"),
    "a list": (b'["text"]', "NotObject"),
    "a string": (b'"text"', "NotObject"),
    "no text": (b'{"title": "x"}', "MissingField"),
    "a null text": (b'{"text": null}', "NullField"),
    "a text that is a number": (b'{"text": 7}', "WrongType"),
    "a prompt without completion": (b'{"prompt": "x"}', "MissingField"),
    "a message without content": (b'{"messages": [{"role": "user"}]}', "MissingField"),
    "a blank text": (b'{"text": " \\n\\t\\u0000"}', "Empty"),
    "half a surrogate pair": (b'{"text": "\\ud83d"}', "LoneSurrogate"),
    "a text that is too long": (json.dumps({"text": "x" * (MAX_CHARS + 1)}).encode(), "TooLong"),
    "a record that is too large": (json.dumps({"text": "x" * MAX_BYTES}).encode(), "RecordTooLarge"),
    "a time that is none": (b'{"text": "x", "ts": "yesterday"}', "BadTime"),
}


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class WhitespaceChunker:
    """One token a word, its id the word's length."""

    def chunk(self, content: Content) -> tuple[Chunk, ...]:
        match content:
            case Plain():
                text = content.text
            case Completion():
                text = f"{content.prompt} {content.completion}"
            case Conversation():
                text = " ".join(message.content for message in content.messages)
        ids = np.array([0, *(len(word) for word in text.split())], dtype=np.int32)
        scored = np.ones(len(ids), dtype=np.bool_)
        scored[0] = False
        return (Chunk(ids=ids, scored=scored, text_bytes=len(text.encode())),)


@contextmanager
def opened(service: KafkaService, topic: str, letters: str, **errors: str) -> Iterator[tuple[EventSource, DeadLetters]]:
    config = Config.model_validate(
        {
            "stream": {"name": "bad"},
            "kafka": {
                "bootstrap_servers": service.address,
                "topics": [topic],
                "start": "earliest",
                "dead_letter_topic": letters,
            },
            "ingest": {
                "fields": {"id": "id", "ts": "ts"},
                "max_chars": MAX_CHARS,
                "max_record_bytes": MAX_BYTES,
                "buffer_records": 300,
            },
            "errors": errors,
            "store": {"url": "x"},
            "model": {"name": "x"},
        }
    )
    source = open_source(config, WhitespaceChunker(), SilentTelemetry(), SystemClock())
    dead_letters = open_dead_letters(config, SilentTelemetry())
    try:
        yield source, dead_letters
    finally:
        source.close()
        dead_letters.close()


def good(number: int) -> bytes:
    return json.dumps({"text": f"news number {number}", "id": f"n{number}", "ts": 1_700_000_000 + number}).encode()


def bad(value: bytes | None) -> bytes | None:
    """Give a JSON object the other fields that the configuration asks for, so that it is bad in one way only."""
    if value is None or not value.startswith(b'{"') or b'"ts"' in value:
        return value if value is None or b'"ts"' not in value else value.replace(b"{", b'{"id": "b", ', 1)
    return value.replace(b"{", b'{"id": "b", "ts": 1700000000, ', 1)


def produce(service: KafkaService, topic: str, count: int, first: int = 0) -> list[bytes | None]:
    """Write `count` good and `count` bad records in turn; return the bad ones."""
    producer = Producer({"bootstrap.servers": service.address}, logger=quiet_logger())
    kinds = [bad(value) for value, _ in BAD.values()]
    written: list[bytes | None] = []
    for number in range(first, first + count):
        value = kinds[number % len(kinds)]
        producer.produce(topic, good(number), partition=0)
        producer.produce(
            topic,
            value,
            key=b"key %d" % number,
            partition=0,
            timestamp=1_600_000_000_123 + number,
            headers=[("trace", b"%d" % number), ("__connect.errors.topic", b"an earlier one")],
        )
        written.append(value)
    assert producer.flush(DEADLINE_S) == 0
    return written


def take(source: EventSource, dead_letters: DeadLetters, count: int) -> list[Arrival]:
    """Take `count` arrivals and pass dead letters on, as the daemon does."""
    arrivals: list[Arrival] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(arrivals) < count:
        assert time.monotonic() < deadline, f"{len(arrivals)} of {count} arrived"
        if (arrival := source.take(0.2)) is None:
            continue
        if arrival.outcome is Outcome.DEAD_LETTER:
            dead_letters.send(arrival)
        arrivals.append(arrival)
    dead_letters.flush(DEADLINE_S)
    return arrivals


def consume(service: KafkaService, topic: str, count: int) -> list[Message]:
    consumer = Consumer(
        {"bootstrap.servers": service.address, "group.id": topic, "auto.offset.reset": "earliest"},
        logger=quiet_logger(),
    )
    consumer.subscribe([topic])
    messages: list[Message] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(messages) < count and time.monotonic() < deadline:
        messages += [message for message in consumer.consume(500, 0.2) if message.error() is None]
    messages += [message for message in consumer.consume(10, 0.5) if message.error() is None]
    consumer.close()
    return messages


def test_a_thousand_bad_records_among_a_thousand_good_ones_harm_nobody(kafka: KafkaService) -> None:
    """All good ones are learnt in order; all bad ones are kept as they were, with the reason."""
    assert len(BAD) >= 20
    topic, letters = kafka.new_topic("bad"), kafka.new_topic("bad-letters")
    written = produce(kafka, topic, 1_000)

    with opened(kafka, topic, letters) as (source, dead_letters):
        source.start({})
        arrivals = take(source, dead_letters, 2_000)
        until(lambda: source.caught_up(source.ends(lambda: False)))
        assert source.take(0.2) is None

    assert [a.offset for a in arrivals] == list(range(2_000)), "one arrival for every offset"
    admitted = [a for a in arrivals if a.outcome is Outcome.ADMITTED]
    assert [(a.id, a.ts, a.offset) for a in admitted] == [(f"n{i}", 1_700_000_000 + i, 2 * i) for i in range(1_000)]
    assert all(a.record is None for a in admitted), "only dead letters keep their bytes"
    errors = [error for _, error in BAD.values()]
    rejected = [a.rejection.error if a.rejection else None for a in arrivals[1::2]]
    assert rejected == [errors[i % len(errors)] for i in range(1_000)]

    kept = sorted(consume(kafka, letters, 1_000), key=lambda message: message.timestamp()[1])
    assert [m.value() for m in kept] == written
    assert [m.key() for m in kept] == [b"key %d" % i for i in range(1_000)]
    assert [m.timestamp()[1] for m in kept] == [1_600_000_000_123 + i for i in range(1_000)]
    for number, message in enumerate(kept):
        headers = cast("list[tuple[str, bytes]]", message.headers())
        assert headers[:2] == [("trace", b"%d" % number), ("__connect.errors.topic", b"an earlier one")]
        ours = dict(headers[2:])
        assert ours["__connect.errors.topic"] == topic.encode()
        assert ours["__connect.errors.partition"] == b"0"
        assert ours["__connect.errors.offset"] == b"%d" % (2 * number + 1)
        assert ours["__connect.errors.exception.class.name"] == errors[number % len(errors)].encode()
        assert len(ours["__connect.errors.exception.message"]) < 400, "never the whole text"
        assert set(ours) >= {
            f"__connect.errors.{name}"
            for name in ("connector.name", "task.id", "stage", "class.name", "exception.stacktrace")
        }


def test_memory_stays_flat_however_many_bad_records_come(kafka: KafkaService) -> None:
    """A broken producer does not take the worker down slowly."""
    topic, letters = kafka.new_topic("flat"), kafka.new_topic("flat-letters")
    resident: list[int] = []

    with opened(kafka, topic, letters) as (source, dead_letters):
        source.start({})
        for turn in range(6):
            produce(kafka, topic, 1_000, first=1_000 * turn)
            take(source, dead_letters, 2_000)
            resident.append(resident_bytes())

    # What is kept per round would be at least its 1.2 MB of bad records; the
    # mock cluster, which lives in this process, keeps as much as 5 MB a partition.
    bound = 4 * 2**20 if kafka.real else 24 * 2**20
    assert resident[-1] - resident[2] < bound, [f"{size / 2**20:.1f} MB" for size in resident]


def test_without_tolerance_the_worker_stops_before_the_first_bad_record(kafka: KafkaService) -> None:
    """`errors.tolerance = "none"` is for streams whose every record counts."""
    topic = kafka.new_topic("strict")
    producer = Producer({"bootstrap.servers": kafka.address}, logger=quiet_logger())
    for value in (good(0), good(1), b"broken", good(2)):
        producer.produce(topic, value, partition=0)
    producer.flush(DEADLINE_S)

    with opened(kafka, topic, "unused", tolerance="none") as (source, _):
        source.start({})
        taken: list[str] = []
        with pytest.raises(Fatal, match=rf"{topic} partition 0 offset 2 is no event \(NotJson\)"):  # noqa: PT012
            while len(taken) < 4:
                if (arrival := source.take(1.0)) is not None:
                    taken.append(arrival.id)

    assert taken == ["n0", "n1"], "what came before it was taken first"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
