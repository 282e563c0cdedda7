"""The worker as a process, as an operator runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STREAMLEARN = (sys.executable, "-c", "from streamlearn.cli.app import main; main()")
DEADLINE_S = 120.0


def wait_until(condition: Callable[[], object], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Return when `condition` is true; fail with `what` was waited for when it does not become so."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {deadline_s:g} s in vain for {what}")
        # A look, not a wait for luck: nothing tells us when another process has come so far.
        time.sleep(0.1)


def streamlearn(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, exits: int = 0) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        [*STREAMLEARN, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S * 2,
        env=os.environ | dict(env or {}),
        cwd=cwd,
    )
    assert done.returncode == exits, (
        f"{arguments}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


class RunningWorker:
    """`streamlearn run` in the background."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int) -> None:
        self.process = process
        self._log = log
        self._port = port

    @property
    def log(self) -> str:
        """What it has written to standard error."""
        return self._log.read_text(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of its HTTP server; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            assert self.process.poll() is None, f"the worker has ended: {self.log[-4000:]}"
            return 0, ""

    def metric(self, name: str) -> float:
        """Return the sum over all series of a metric; 0 where it is not there."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


@contextmanager
def running(config: Path, port: int, *, env: Mapping[str, str] | None = None) -> Iterator[RunningWorker]:
    """Run the worker until the block ends; it is gone afterwards, however that ends."""
    log = config.with_suffix(f".{time.monotonic_ns()}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*STREAMLEARN, "run", "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(env or {}),
        )
    try:
        yield RunningWorker(process, log, port)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
