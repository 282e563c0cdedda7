"""What a run has left behind: every object of a lineage, every record of its topics.

Reads Kafka and the store with other libraries than streamlearn does where
there are any, and imports nothing from it: what is wrong there must not hide
itself here. Judges nothing; that is `checker`'s.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import boto3
from botocore.config import Config as BotoConfig
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

_READERS = 8
_TIMEOUT_S = 30.0
_BATCH, _LOOK_S = 1_000, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One message of a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def header(self, name: str) -> str | None:
        """Return the last header of that name, as a reader of Connect's would."""
        return next(
            (value.decode() for key, value in reversed(self.headers) if key == name and value is not None), None
        )


@dataclass(frozen=True, slots=True)
class Blob:
    """An object: what it is known by, and its bytes."""

    sha256: str
    size: int
    body: bytes

    @staticmethod
    def of(body: bytes) -> Blob:
        return Blob(hashlib.sha256(body).hexdigest(), len(body), body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the checker may look at."""

    objects: Mapping[str, Blob]
    """By key below the lineage: `head.json`, `ledger/…`."""
    records: Mapping[int, list[Record]]
    """What a reader of committed records sees of each partition, from its beginning to its end."""
    letters: list[Record]
    """The dead-letter topic, in order within each partition."""

    def keep(self, folder: Path) -> None:
        """Write everything to `folder`, for whoever wants to know what happened."""
        for key, blob in self.objects.items():
            path = folder / "store" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(blob.body)
        _write(folder / "records.jsonl", (each for partition in self.records.values() for each in partition))
        _write(folder / "letters.jsonl", self.letters)


def objects_of(endpoint: str | None, keys: tuple[str, str], bucket: str, prefix: str) -> dict[str, Blob]:
    """Return every object below `prefix/` of the bucket, by its key from there on.

    Args:
        keys: access key and secret.
    """
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        region_name="us-east-1",
        config=BotoConfig(
            s3={"addressing_style": "path"},
            max_pool_connections=_READERS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    names = [item["Key"] for page in pages for item in page.get("Contents", ())]
    with ThreadPoolExecutor(_READERS) as readers:
        bodies = readers.map(lambda name: client.get_object(Bucket=bucket, Key=name)["Body"].read(), names)
        return {name.removeprefix(f"{prefix}/"): Blob.of(body) for name, body in zip(names, bodies, strict=True)}


def records_of(address: str, topic: str) -> dict[int, list[Record]]:
    """Return every record of `topic` that is committed, by partition; partitions without any included."""
    logger = logging.getLogger("chaos.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "chaos-checker",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        },
        logger=logger,
    )
    try:
        partitions = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions
        found: dict[int, list[Record]] = {number: [] for number in sorted(partitions)}
        consumer.assign([TopicPartition(topic, number, 0) for number in found])
        reading, heard = set(found), time.monotonic()
        while reading:
            # It comes back when it has so many or when the time is over, however few there are.
            messages = consumer.consume(_BATCH, _LOOK_S)
            heard = time.monotonic() if messages else heard
            if time.monotonic() - heard > _TIMEOUT_S:
                raise TimeoutError(f"{topic} has not come to its end, and {_TIMEOUT_S:g} s without a record are over")
            for message in messages:
                if (error := message.error()) is None:
                    found[_place(message)[0]].append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    reading.discard(_place(message)[0])
                else:
                    raise OSError(f"{topic}: {error.str()}")
    finally:
        consumer.close()
    return found


def _place(message: Message) -> tuple[int, int]:
    partition, offset = message.partition(), message.offset()
    assert partition is not None, "what was consumed has a place"
    assert offset is not None, "what was consumed has a place"
    return partition, offset


def _record(message: Message) -> Record:
    partition, offset = _place(message)
    return Record(
        partition=partition,
        offset=offset,
        key=message.key(),
        value=message.value(),
        headers=tuple(cast("list[tuple[str, bytes | None]]", message.headers() or [])),
    )


def _write(path: Path, records: Iterable[Record]) -> None:
    def shown(part: bytes | None) -> str | None:
        return None if part is None else base64.b64encode(part).decode()

    with path.open("w") as file:
        for each in records:
            line: dict[str, Any] = {"partition": each.partition, "offset": each.offset, "key": shown(each.key)}
            line |= {"value": shown(each.value), "headers": [[name, shown(value)] for name, value in each.headers]}
            file.write(json.dumps(line) + "\n")
