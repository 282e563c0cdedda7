"""Fill a topic, let a worker learn it, and say what memory that took; see the package."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from confluent_kafka import Producer

from benchmarks.memory.records import TOPIC, timestamp_ms, value_of
from benchmarks.memory.sampling import ALLOWED_MB, Sample, Samples, events_passed, sampled
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.reader import LineageReader
from tests.services.kafka import KafkaService, OwnedKafka
from tests.services.ports import free_ports

_CONFIG = """\
[stream]
name = "memory"
[kafka]
bootstrap_servers = "{address}"
topics = ["{topic}"]
start = "earliest"
[ingest.fields]
id = "id"
source = "source"
[store]
url = "{store}"
[model]
name = "number"
[learner]
step_chunks = 32
[checkpoint]
every_s = 5
[publish]
every = "30s"
[http]
port = {port}
[log]
level = "warning"
format = "json"
"""


def main() -> None:
    """Measure, print, and exit 1 where the promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Memory over a long backlog.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamlearn-memory-") as folder, broker(Path(folder)) as service:
        found = measured(told.events, service, Path(folder))
    if told.json:
        typer.echo(json.dumps(found))
    else:
        typer.echo("\n".join(f"{key:24} {value}" for key, value in found.items()))
    sys.exit(0 if found["kept"] else 1)


@contextmanager
def broker(folder: Path) -> Iterator[KafkaService | None]:
    """Yield the most real Kafka there is; None where there is none."""
    home = os.environ.get("KAFKA_HOME")
    if address := os.environ.get("STREAMLEARN_TEST_KAFKA"):
        yield KafkaService(address, f"Apache Kafka at {address}", real=True)
    elif home and shutil.which("java"):
        (folder / "kafka").mkdir()
        service = OwnedKafka(Path(home).resolve(), folder / "kafka")
        try:
            yield service
        finally:
            service.stop(kill=True)
    else:
        yield None


def measured(events: int, service: KafkaService | None, folder: Path) -> dict[str, Any]:
    """Return the figures of one run."""
    (port,) = free_ports(1)
    topic, config, log = TOPIC, folder / "streamlearn.toml", folder / "worker.log"
    if service is not None:
        topic = service.new_topic(TOPIC, config={"retention.ms": "-1"})
        fill(service, topic, events)
    address = service.address if service is not None else "127.0.0.1:1"
    config.write_text(_CONFIG.format(address=address, topic=topic, store=folder / "store", port=port))
    made_up = [] if service is not None else ["--made-up", str(events)]
    began = time.monotonic()
    with log.open("wb") as out, subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "benchmarks.memory.worker", "-c", str(config), *made_up], stdout=out, stderr=out
    ) as worker:  # fmt: skip
        try:
            samples = sampled(worker.pid, events, lambda: events_passed(port), tell)
        finally:
            if worker.poll() is None:
                worker.kill()
    seconds = time.monotonic() - began
    if worker.returncode != 0:
        sys.exit(f"the worker ended with {worker.returncode}:\n{log.read_text(errors='replace')[-4_000:]}")
    where = service.name if service is not None else "none: a log made up in the worker's process (set KAFKA_HOME)"
    return figures(samples, events, seconds, folder / "store") | {"broker": where}


def figures(samples: Samples, events: int, seconds: float, store: Path) -> dict[str, Any]:
    """Return what a run says; it only counts when every event was learnt."""
    newest = LineageReader(DirectoryStore(store), "memory").versions()[-1].manifest
    passed = newest.totals.events
    return {
        "kept": samples.holds and passed == events,
        "events": passed,
        "outcomes": {
            name: getattr(newest.totals, name) for name in ("admitted", "duplicate", "filtered", "dead_letter")
        },
        "seconds": round(seconds, 1),
        "events_per_second": round(events / seconds),
        "plateau_mb": round(samples.plateau, 1),
        "highest_after_mb": round(samples.highest_after, 1),
        "last_tenth_mb": round(samples.last, 1),
        "above_plateau_mb": round(samples.highest_after - samples.plateau, 1),
        "allowed_mb": ALLOWED_MB,
        "samples": len(samples.taken),
    }


def fill(service: KafkaService, topic: str, events: int) -> None:
    """Write the backlog."""
    producer = Producer({"bootstrap.servers": service.address, "linger.ms": 50, "compression.type": "lz4"})
    for number in range(events):
        value, at = value_of(number), timestamp_ms(number)
        while True:
            try:
                producer.produce(topic, value, partition=0, timestamp=at)
                break
            except BufferError:
                producer.poll(0.5)
        if number % 100_000 == 0:
            typer.echo(f"written {number:>10,} events", err=True)
    if left := producer.flush(120):
        sys.exit(f"the broker did not take {left:,} events")


def tell(sample: Sample, seconds: float) -> None:
    """Show where it stands."""
    typer.echo(f"{seconds:7.0f} s  {sample.done:6.1%}  {sample.megabytes:7.1f} MB", err=True)


if __name__ == "__main__":
    main()
