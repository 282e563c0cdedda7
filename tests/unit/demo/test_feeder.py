"""The embedded broker and its feeder, as real processes on a real socket."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from streamlearn.demo.broker import embedded_broker
from streamlearn.demo.feeder import feed, feeding
from streamlearn.demo.slice import open_slice
from streamlearn.ports import Fatal

DEADLINE_S = 20.0


def values(address: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "test", "auto.offset.reset": "earliest", "log_level": 2}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            assert message.offset() == len(found)
            found.append(message.value() or b"")
    consumer.close()
    return found


def test_every_row_arrives_in_order_at_the_offset_of_its_place(tmp_path: Path) -> None:
    """So an offset of an earlier run means the same row in the next one."""
    (tmp_path / "rows.txt").write_text("".join(f"line {n}\n" for n in range(450)))
    rows = open_slice(str(tmp_path / "rows.txt"))
    for _ in range(2):
        with embedded_broker() as address, feeding(address, str(tmp_path / "rows.txt")) as feeder:
            assert feeder.wait(DEADLINE_S)
            assert values(address, rows.topic, 450) == list(rows.rows)


def test_a_feeder_that_fails_is_no_silent_end_of_the_stream(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("line\n")
    with (
        embedded_broker() as address,
        feeding(address, str(tmp_path / "gone.txt")) as feeder,
        pytest.raises(Fatal, match="exit code 1"),
    ):
        feeder.wait(DEADLINE_S)


def test_a_row_larger_than_clients_usually_send_arrives(tmp_path: Path) -> None:
    """librdkafka's own limit of 1 MB would end the demo with a traceback."""
    (tmp_path / "rows.txt").write_bytes(b"x" * 3_000_000 + b"\nshort\n")
    rows = open_slice(str(tmp_path / "rows.txt"))
    with embedded_broker() as address:
        assert feed(rows, address) == 2
        assert values(address, rows.topic, 2) == list(rows.rows)


def test_waiting_ends_when_someone_wants_to_stop(tmp_path: Path) -> None:
    """Ctrl-C only sets a flag: without a look at it the demo would go on waiting for minutes."""
    (tmp_path / "rows.txt").write_text("line\n")
    # Nothing listens there, so the feeder cannot finish by itself in this time.
    with feeding("127.0.0.1:1", str(tmp_path / "rows.txt")) as feeder:
        assert feeder.wait(DEADLINE_S, should_stop=lambda: True) is False


def test_a_feeder_that_hangs_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("line\n")
    with (
        feeding("127.0.0.1:1", str(tmp_path / "rows.txt")) as feeder,
        pytest.raises(Fatal, match=r"within 0\.2 s"),
    ):
        feeder.wait(0.2)


def test_leaving_the_block_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("line\n")
    with feeding("127.0.0.1:1", str(tmp_path / "rows.txt")) as feeder:
        assert feeder.pid is not None
        os.kill(feeder.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(feeder.pid, 0)


def test_a_feeder_without_its_parent_stops(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("line\n")
    with embedded_broker() as address:
        assert feed(open_slice(str(tmp_path / "rows.txt")), address, parent=os.getppid() + 1) == 0
