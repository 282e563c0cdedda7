"""`streamlearn`, with what a chaos test may add: faults at named points, a clock that is wrong.

    python -m tests.chaos.worker [--fault POINT:NTH:SIGNAL]... [--skew SECONDS] -- run -c streamlearn.toml

`--fault uploaded:3:KILL` sends SIGKILL to the process when it comes to the
point `uploaded` for the third time (the points are those of `ports.Fault`).
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from streamlearn import bootstrap
from streamlearn.cli.app import main as streamlearn


@dataclass(frozen=True)
class Blow:
    """A signal at the `nth` time that the process comes to `point`."""

    point: str
    nth: int
    number: signal.Signals

    @staticmethod
    def parse(text: str) -> Blow:
        """Read `uploaded:3:KILL`; a point may hold colons itself."""
        point, nth, name = text.rsplit(":", 2)
        return Blow(point, int(nth), signal.Signals[f"SIG{name}"])

    def __str__(self) -> str:
        return f"{self.point}:{self.nth}:{self.number.name.removeprefix('SIG')}"


class Blows:
    """A `Fault` that strikes its own process."""

    def __init__(self, blows: Sequence[Blow]) -> None:
        self._blows = blows
        self._visits: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, point: str, /) -> None:
        with self._lock:
            visit = self._visits[point] = self._visits.get(point, 0) + 1
        for blow in self._blows:
            if (blow.point, blow.nth) == (point, visit):
                os.kill(os.getpid(), blow.number)


class SkewedClock(bootstrap.SystemClock):
    """A wall clock that is wrong by `skew_s`; what it measures is right."""

    def __init__(self, skew_s: float) -> None:
        self._skew_s = skew_s

    def now(self) -> float:
        return super().now() + self._skew_s


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `streamlearn` with the additions; ends the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", type=Blow.parse, action="append", default=[])
    parser.add_argument("--skew", type=float, default=0.0)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    told = parser.parse_args(arguments)
    bootstrap.Worker = functools.partial(  # type: ignore[misc, assignment]
        bootstrap.Worker, fault=Blows(told.fault), clock=SkewedClock(told.skew)
    )
    streamlearn([part for part in told.rest if part != "--"])


if __name__ == "__main__":
    main(sys.argv[1:])
