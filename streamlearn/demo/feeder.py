"""Feeds the demo's rows into a topic, in order, from a process of its own.

`python -m streamlearn.demo.feeder --bootstrap-servers HOST:PORT --stream NAME`
ends when the last row is acknowledged, or when its parent is gone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, Message, Producer

from streamlearn.demo.slice import Slice, open_slice
from streamlearn.ports import Fatal

_BATCH = 200
"""Rows between two looks at whether the parent still lives."""
_MAX_MESSAGE = 5 * 2**20
"""Bytes; librdkafka itself refuses rows above 1 MB, the built-in broker takes whatever a slice may hold."""
_FLUSH_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 5.0
_LOOK_S = 0.1
"""Between two looks at whether someone wants to stop: Ctrl-C only sets a flag."""


class Feeder:
    """The running process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def wait(self, timeout_s: float = 120.0, *, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Return True once every row is in the topic, False when `should_stop` said so before.

        Raises:
            Fatal: the process failed, or took longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (code := self._exit_code_within(_LOOK_S)) is None:
            if should_stop():
                return False
            if time.monotonic() >= deadline:
                raise Fatal(f"the feeder did not finish within {timeout_s:g} s")
        if code != 0:
            raise Fatal(f"the feeder ended with exit code {code}; what it said is above")
        return True

    def _exit_code_within(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def feeding(bootstrap_servers: str, stream: str) -> Iterator[Feeder]:
    """Run a feeder for as long as the block, at most."""
    command = [sys.executable, "-m", "streamlearn.demo.feeder"]
    # A group of its own: Ctrl-C is the demo's to answer, not the feeder's.
    process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
        [*command, "--bootstrap-servers", bootstrap_servers, "--stream", stream, "--parent", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Feeder(process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def feed(rows: Slice, bootstrap_servers: str, parent: int | None = None) -> int:
    """Produce all rows to partition 0 and return how many were acknowledged.

    Stops early when `parent` is no longer this process's parent.
    """
    acknowledged = 0

    def delivered(error: KafkaError | None, _message: Message) -> None:
        nonlocal acknowledged
        acknowledged += error is None

    # Idempotent: a retry must neither repeat nor reorder a row, or offsets would mean other rows next time.
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.max.bytes": _MAX_MESSAGE,
        }
    )
    for place, row in enumerate(rows.rows):
        if place % _BATCH == 0:
            producer.flush(_FLUSH_TIMEOUT_S)
            if parent is not None and os.getppid() != parent:
                break
        producer.produce(rows.topic, row, partition=0, on_delivery=delivered)
    producer.flush(_FLUSH_TIMEOUT_S)
    return acknowledged


def main() -> int:
    """Feed as the arguments say; 0 when every row arrived."""
    parser = argparse.ArgumentParser(prog="streamlearn.demo.feeder")
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    try:
        rows = open_slice(arguments.stream)
    except ValueError as error:
        sys.stderr.write(f"feeder: {error}\n")
        return 1
    count = feed(rows, arguments.bootstrap_servers, arguments.parent)
    if count != len(rows.rows):
        sys.stderr.write(f"feeder: {count} of {len(rows.rows)} rows were acknowledged\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
