"""A broker, a store, a topic, a model, and the configuration that joins them for a chaos run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chaos.evidence import Evidence, objects_of, records_of
from tests.services.kafka import KafkaService, OwnedKafka
from tests.services.s3 import S3Server, given, run_minio, run_seaweedfs

PARTITIONS = 3
LINEAGE = "chaos"
TTL_S = 2.0
CHECKPOINT_EVENTS = 20
AT_RISK = 3 * CHECKPOINT_EVENTS
"""Events that a worker can have read and not committed: one checkpoint in flight, one that waits for it, and what a
step admits beyond; a checkpoint that is due by count waits for the one before."""
_STORES = {"seaweedfs": run_seaweedfs, "minio": run_minio, "given": given}
STORES = tuple(_STORES)


class Missing(Exception):
    """There is nothing real to run on."""


@dataclass(frozen=True)
class Scene:
    """Where a run takes place."""

    kafka: KafkaService
    s3: S3Server
    topic: str
    letters: str
    bucket: str
    prefix: str
    config: Path

    @property
    def folder(self) -> Path:
        """Where logs go."""
        return self.config.parent

    @property
    def env(self) -> dict[str, str]:
        """What a worker needs beside its configuration."""
        keys = {"AWS_ACCESS_KEY_ID": self.s3.access_key, "AWS_SECRET_ACCESS_KEY": self.s3.secret_key}
        return keys | ({"AWS_SESSION_TOKEN": self.s3.session_token} if self.s3.session_token else {})

    def evidence(self) -> Evidence:
        """Return what there is now."""
        return Evidence(
            objects=objects_of(
                self.s3.endpoint_url,
                (self.s3.access_key, self.s3.secret_key),
                self.bucket,
                f"{self.prefix}/{LINEAGE}",
            ),
            records=records_of(self.kafka.address, self.topic),
            letters=[each for part in records_of(self.kafka.address, self.letters).values() for each in part],
        )


def set_scene(kafka: KafkaService, s3: S3Server, model: Path, folder: Path) -> Scene:
    """Make topics, a place on the store and a configuration in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    topic, letters = kafka.new_topic("chaos", partitions=PARTITIONS), kafka.new_topic("chaos-letters")
    url = s3.fresh().url
    place = urlsplit(url)
    config = folder / "streamlearn.toml"
    endpoint = f'[store.s3]\nendpoint_url = "{s3.endpoint_url}"' if s3.endpoint_url else ""
    config.write_text(_CONFIG.format(kafka=kafka, topic=topic, letters=letters, url=url, s3=endpoint, model=model))
    return Scene(kafka, s3, topic, letters, place.netloc, place.path.strip("/"), config)


@contextmanager
def broker() -> Iterator[KafkaService]:
    """Run Apache Kafka from `KAFKA_HOME`, or use the cluster of `STREAMLEARN_TEST_KAFKA`.

    Raises:
        Missing: neither is there. A mock will not do: it has neither transactions that abort nor a life of its own.
    """
    if address := os.environ.get("STREAMLEARN_TEST_KAFKA"):
        yield KafkaService(address, f"Apache Kafka at {address} (STREAMLEARN_TEST_KAFKA)", real=True)
        return
    home = os.environ.get("KAFKA_HOME")
    if not home or not shutil.which("java"):
        raise Missing("no real broker: set KAFKA_HOME to a Kafka distribution (and have java in the PATH)")
    with tempfile.TemporaryDirectory(prefix="streamlearn-chaos-kafka-") as data:
        service = OwnedKafka(Path(home).resolve(), Path(data))
        try:
            yield service
        finally:
            service.stop()


@contextmanager
def store(name: str) -> Iterator[S3Server]:
    """Run the S3 server of that name, or use the one of `STREAMLEARN_TEST_S3`.

    Raises:
        Missing: it is not there.
    """
    if name == "given" and not os.environ.get("STREAMLEARN_TEST_S3"):
        raise Missing("no store is given: set STREAMLEARN_TEST_S3 to its address, and credentials as boto3 finds them")
    with ExitStack() as running:
        try:
            server = running.enter_context(_STORES[name]())
        except pytest.skip.Exception as why:
            raise Missing(str(why)) from None
        yield server


_CONFIG = f"""
[stream]
name = "{LINEAGE}"
[kafka]
bootstrap_servers = "{{kafka.address}}"
topics = ["{{topic}}"]
start = "earliest"
dead_letter_topic = "{{letters}}"
[ingest]
max_chars = 1_000
[ingest.fields]
id = "id"
[store]
url = "{{url}}"
retry_budget_s = 30
{{s3}}
[model]
name = "{{model}}"
device = "cpu"
dtype = "fp32"
context_tokens = 32
[lora]
rank = 1
[window]
max_tokens = 4_000
[mix]
reservoir_tokens = 4_000
[anchor]
chunks = 4
tokens = 16
[learner]
learning_rate = 1e-2
step_chunks = 4
flush_s = 0.3
threads = 1
[checkpoint]
every_s = 0.4
every_events = {CHECKPOINT_EVENTS}
[publish]
every = "40events"
[lease]
ttl_s = {TTL_S}
[http]
port = 0
[log]
format = "json"
"""
