"""The whole line: events on Kafka, a worker as a process, versions on S3, an adapter that any PEFT user loads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from confluent_kafka import Consumer, Producer, TopicPartition
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.integration.test_bad_records import BAD, bad
from tests.services.kafka import KafkaService
from tests.services.ports import free_ports
from tests.services.s3 import S3Server
from tests.services.worker import RunningWorker, running, streamlearn, wait_until

ANIMALS = ("fox", "dog", "owl", "cat", "hen")


def texts(first: int, last: int) -> list[str]:
    """Sentences with something to learn and a number that makes each one new."""
    return [
        f"the quick brown {ANIMALS[n % len(ANIMALS)]} jumps over the lazy {ANIMALS[n * 3 % len(ANIMALS)]} number {n}"
        for n in range(first, last)
    ]


class Line:
    """A topic, a bucket and a configuration that joins them."""

    def __init__(self, kafka: KafkaService, s3: S3Server, model: Path, folder: Path) -> None:
        self._kafka = kafka
        self.topic = kafka.new_topic("line", partitions=3)
        store = s3.fresh()
        (self.port,) = free_ports(1)
        self.config = folder / "streamlearn.toml"
        self.env = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        if s3.session_token is not None:
            self.env["AWS_SESSION_TOKEN"] = s3.session_token
        endpoint = f'[store.s3]\nendpoint_url = "{s3.endpoint_url}"' if s3.endpoint_url else ""
        self.config.write_text(
            f"""
            [stream]
            name = "line"
            [kafka]
            bootstrap_servers = "{kafka.address}"
            topics = ["{self.topic}"]
            start = "earliest"
            [ingest.fields]
            id = "id"
            [store]
            url = "{store.url}"
            {endpoint}
            [model]
            name = "{model}"
            device = "cpu"
            dtype = "fp32"
            [anchor]
            chunks = 4
            tokens = 16
            [hygiene]
            # Sentences that differ in a number are near duplicates.
            near_duplicates = false
            [learner]
            learning_rate = 1e-2
            flush_s = 0.5
            threads = 1
            [checkpoint]
            every_s = 1
            [publish]
            every = "60steps"
            [lease]
            ttl_s = 6
            [http]
            port = {self.port}
            [log]
            format = "json"
            """
        )

    def produce(self, rows: Sequence[str], first: int) -> None:
        """Write one event a row, spread over the partitions by a key."""
        producer = Producer({"bootstrap.servers": self._kafka.address, "enable.idempotence": True})
        for number, text in enumerate(rows, start=first):
            value = json.dumps({"id": f"event-{number}", "text": text}).encode()
            producer.produce(self.topic, value, key=str(number).encode())
        assert producer.flush(60) == 0

    def ends(self) -> dict[str, int]:
        """Return the next offset to be written of every partition that holds something."""
        consumer = Consumer({"bootstrap.servers": self._kafka.address, "group.id": "look"})
        try:
            partitions = consumer.list_topics(self.topic, timeout=30).topics[self.topic].partitions
            marks = {
                str(each): consumer.get_watermark_offsets(TopicPartition(self.topic, each), timeout=30)[1]
                for each in partitions
            }
        finally:
            consumer.close()
        return {partition: high for partition, high in marks.items() if high}

    def read(self, *arguments: str) -> Any:
        """Return what a reading command prints with --json."""
        return json.loads(streamlearn(*arguments, "-c", str(self.config), "--json", env=self.env))

    def ledger(self) -> list[dict[str, Any]]:
        """Return the committed ledger."""
        printed = streamlearn("ledger", "-c", str(self.config), "--json", env=self.env)
        return [json.loads(line) for line in printed.splitlines()]

    def assert_every_offset_once(self) -> None:
        """The ledger holds each offset of each partition exactly once, in order, and nothing else."""
        seen: dict[str, list[int]] = {}
        for line in self.ledger():
            if line["kind"] == "event":
                seen.setdefault(str(line["partition"]), []).append(line["offset"])
        assert seen == {partition: list(range(end)) for partition, end in self.ends().items()}


@pytest.fixture
def line(kafka: KafkaService, s3: S3Server, tiny_model: Path, tmp_path: Path) -> Line:
    return Line(kafka, s3, tiny_model, tmp_path)


def nats_per_token(model: Any, tokenizer: Any, rows: Sequence[str]) -> float:
    nll = tokens = 0.0
    for text in rows:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss.item()
        nll += loss * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    return nll / tokens


def test_events_become_an_adapter_that_predicts_later_events_better(
    line: Line, tiny_model: Path, tmp_path: Path
) -> None:
    """From Kafka to S3 to `PeftModel.from_pretrained`, and the adapter is worth having."""
    line.produce(texts(0, 400), first=0)

    said = line.read("run", "--until-end")

    versions = line.read("versions")
    assert len(versions) >= 2
    newest = versions[-1]
    assert (said["version"], said["events"]) == (newest["version"], 400)
    assert newest["aliases"] == ["latest"]
    assert newest["events"] == 400
    assert newest["progress"] == {line.topic: line.ends()}
    assert newest["scores"]["live"]["nats_per_token"] < newest["scores"]["base"]["nats_per_token"] - 1.0
    line.assert_every_offset_once()

    streamlearn("pull", "latest", str(tmp_path / "adapter"), "-c", str(line.config), env=line.env)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    later = texts(10_000, 10_020)
    without = nats_per_token(base, tokenizer, later)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert nats_per_token(adapted, tokenizer, later) < without - 1.0


def test_a_worker_is_watched_stopped_and_started_without_losing_or_repeating_an_event(line: Line) -> None:
    """SIGTERM exits 0 after a checkpoint; the restart goes on at the next offset."""
    line.produce(texts(0, 150), first=0)
    with running(line.config, line.port, env=line.env) as worker:
        wait_until(lambda: worker.get("/readyz")[0] == 200, "readiness")
        wait_until(lambda: worker.metric("streamlearn_events_total") == 150, "the first events")
        wait_until(lambda: worker.metric("streamlearn_tokens_learnt_total") > 0, "tokens learnt")
        assert worker.get("/healthz")[0] == 200
        assert worker.stop() == 0
    before = line.read("versions")
    assert {str(line["outcome"]) for line in line.ledger() if line["kind"] == "event"} == {"admitted"}
    line.assert_every_offset_once()

    line.produce(texts(150, 300), first=150)
    with running(line.config, line.port, env=line.env) as worker:
        wait_until(lambda: worker.metric("streamlearn_events_total") == 150, "the later events, and only those")
        assert worker.stop() == 0

    line.assert_every_offset_once()
    assert [version["version"] for version in line.read("versions")][: len(before)] == [v["version"] for v in before]
    scored = [(each["id"], each["chunk"]) for each in line.ledger() if each["kind"] == "score"]
    assert len(scored) == len(set(scored)) == 300


def test_a_worker_that_was_killed_loses_and_repeats_nothing(line: Line) -> None:
    """kill -9 changes nothing but the time."""
    line.produce(texts(0, 3_000), first=0)
    with running(line.config, line.port, env=line.env) as worker:
        wait_until(
            lambda: worker.metric("streamlearn_checkpoint_seconds_count") >= 3, "checkpoints with events in them"
        )
        assert 0 < worker.metric("streamlearn_events_total") < 3_000, "it is killed in the middle"
        worker.process.kill()
        worker.process.wait(30)
    committed = sum(each["kind"] == "event" for each in line.ledger())
    assert 0 < committed < 3_000
    streamlearn("run", "--until-end", "-c", str(line.config), env=line.env)

    line.assert_every_offset_once()
    scored = [(each["id"], each["chunk"]) for each in line.ledger() if each["kind"] == "score"]
    assert len(scored) == len(set(scored)) == 3_000


def test_a_thousand_bad_records_among_a_thousand_good_ones_stop_nothing(line: Line, kafka: KafkaService) -> None:
    """All good ones are learnt, all bad ones are in the dead-letter topic, and the ledger says which was which."""
    letters = kafka.new_topic("letters")
    document = line.config.read_text().replace("[ingest.fields]", "[ingest]\nmax_chars = 1_000\n[ingest.fields]")
    line.config.write_text(document.replace("[kafka]", f'[kafka]\ndead_letter_topic = "{letters}"'))
    # Neither is wrong here: this worker maps no time, and its records may be larger.
    harmless = ("a time that is none", "a record that is too large")
    kinds = [bad(value) for name, (value, _) in BAD.items() if name not in harmless]
    kinds.append(b'{"id": "b", "messages": [{"role": "user", "content": "x"}, {"role": "bad role!", "content": "y"}]}')
    producer = Producer({"bootstrap.servers": kafka.address, "enable.idempotence": True})
    for number, text in enumerate(texts(0, 1_000)):
        producer.produce(line.topic, json.dumps({"id": f"good-{number}", "text": text}).encode(), partition=0)
        producer.produce(line.topic, kinds[number % len(kinds)], partition=0)
    assert producer.flush(60) == 0

    streamlearn("run", "--until-end", "-c", str(line.config), env=line.env)

    line.assert_every_offset_once()
    ledger = line.ledger()
    outcomes = [each["outcome"] for each in ledger if each["kind"] == "event"]
    assert outcomes == ["admitted", "dead_letter"] * 1_000
    assert [each["id"] for each in ledger if each["kind"] == "score"] == [f"good-{n}" for n in range(1_000)]
    assert sum(headers_of(kafka, letters, 1_000).values()) == 1_000


def headers_of(kafka: KafkaService, topic: str, count: int) -> Counter[str]:
    """Return how often each exception class stands in the headers of the first `count` dead letters."""
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.assign(
        [TopicPartition(topic, partition, 0) for partition in consumer.list_topics(topic).topics[topic].partitions]
    )
    found: Counter[str] = Counter()

    def read() -> bool:
        for message in consumer.consume(500, 0.2):
            headers = dict(message.headers() or ())
            found[str(headers["__connect.errors.exception.class.name"])] += 1
        return found.total() >= count

    try:
        wait_until(read, "the dead letters")
    finally:
        consumer.close()
    return found


def test_a_second_worker_stands_by_and_takes_over(line: Line, tmp_path: Path) -> None:
    """One writer per lineage; the other says what it waits for."""
    (port,) = free_ports(1)
    other = tmp_path / "standby.toml"
    other.write_text(line.config.read_text().replace(f"port = {line.port}", f"port = {port}"))
    line.produce(texts(0, 60), first=0)

    def epoch_of(worker: RunningWorker) -> float:
        return worker.metric("streamlearn_epoch")

    with running(line.config, line.port, env=line.env) as first:
        wait_until(lambda: first.get("/readyz")[0] == 200, "the first worker")
        with running(other, port, env=line.env) as second:
            wait_until(lambda: "lease" in second.get("/readyz")[1], "the second to stand by")
            assert second.get("/readyz")[0] == 503
            assert second.get("/healthz")[0] == 200
            first.process.kill()
            first.process.wait(30)
            wait_until(lambda: second.get("/readyz")[0] == 200, "the take-over")
            assert epoch_of(second) == 2
            assert second.stop() == 0
    line.assert_every_offset_once()
