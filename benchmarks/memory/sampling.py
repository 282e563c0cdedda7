"""What a process takes while it works, and whether that stays where it settles. Looks from outside."""

from __future__ import annotations

import statistics
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

PLATEAU = (0.2, 0.4)
"""Share of the events during which the process settles: window, memory of texts and buffers are full by then."""
ALLOWED_MB = 150.0
_SAMPLE_S = 0.1
_LOOK_S = 1.0
"""Between two looks at how far it is; asking the worker costs it something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Resident memory at some place of the run."""

    done: float
    """Share of the events."""
    megabytes: float


@dataclass(slots=True)
class Samples:
    """All of a run."""

    taken: list[Sample] = field(default_factory=list)

    @property
    def plateau(self) -> float:
        """Median megabytes while the process settles; 0 where it was over before a look."""
        low, high = PLATEAU
        return statistics.median([each.megabytes for each in self.taken if low <= each.done < high] or [0.0])

    @property
    def highest_after(self) -> float:
        """Most megabytes after that."""
        return max((each.megabytes for each in self.taken if each.done >= PLATEAU[1]), default=0.0)

    @property
    def last(self) -> float:
        """Median megabytes of the last tenth."""
        return statistics.median([each.megabytes for each in self.taken if each.done >= 1.0 - 0.1] or [0.0])

    @property
    def holds(self) -> bool:
        """Whether the promise was kept, which needs something to have been seen."""
        return self.plateau > 0.0 and 0.0 < self.highest_after <= self.plateau + ALLOWED_MB


def sampled(pid: int, events: int, passed: Callable[[], float], tell: Callable[[Sample, float], None]) -> Samples:
    """Return what process `pid` takes until it ends.

    Args:
        pid: of a child of ours.
        events: how many it will pass.
        passed: asks how many it has passed.
        tell: called now and then with the newest sample and the seconds so far.
    """
    samples, process, began = Samples(), psutil.Process(pid), time.monotonic()
    done, looked, told = 0.0, 0.0, 0.0
    while True:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return samples
            megabytes = process.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            return samples
        now = time.monotonic()
        if now - looked >= _LOOK_S:
            done, looked = max(done, passed() / events), now
        samples.taken.append(Sample(done=done, megabytes=megabytes))
        if now - told >= 10 * _LOOK_S:
            told = now
            tell(samples.taken[-1], now - began)
        # A sample is a moment of the process, not an event to wait for.
        time.sleep(_SAMPLE_S)


def events_passed(port: int) -> float:
    """Return what a worker's `/metrics` say that it has passed; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("streamlearn_events_total{"))
