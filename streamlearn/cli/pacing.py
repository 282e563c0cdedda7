"""When the next record may go: at once, at a rate, or as far apart as the events were.

Knows no clock: the time is handed in, in seconds that never go back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from streamlearn.config_file import ConfigError

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|h))?")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_MOST_OWED_S = 1.0
"""Seconds of a rate that are made up for after a hold-up; more would be a burst."""


class Pace(Protocol):
    """Decides when a record is due."""

    def due(self, ts: float | None, now: float, /) -> float:
        """Return when the next record, of event time `ts`, may go; called once for each."""


class AtOnce:
    """As fast as the brokers take them."""

    def due(self, _ts: float | None, now: float, /) -> float:
        """Return `now`."""
        return now


@dataclass(slots=True)
class AtRate:
    """So many records a second, evenly."""

    per_second: float
    _next: float | None = None

    def due(self, _ts: float | None, now: float, /) -> float:
        """Return the next place in the grid."""
        due = now if self._next is None else max(self._next, now - _MOST_OWED_S)
        self._next = due + 1.0 / self.per_second
        return due


@dataclass(slots=True)
class OwnTime:
    """As far apart as the events were, divided by `speed_up`."""

    speed_up: float
    _began: tuple[float, float] | None = None

    def due(self, ts: float | None, now: float, /) -> float:
        """Return when the event is due; one that is older than the first goes at once."""
        assert ts is not None, "pacing by event time needs one for every record"
        if self._began is None:
            self._began = (ts, now)
        first, began = self._began
        return began + (ts - first) / self.speed_up


def rate(text: str) -> float:
    """Return records a second.

    >>> rate("50"), rate("50/s"), rate("90/m")
    (50.0, 50.0, 1.5)

    Raises:
        ConfigError: it is none.
    """
    match = _RATE.fullmatch(text.replace(" ", ""))
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"--rate {text}: write records a second, such as 50/s, or 90/m or 90/h for slower ones")
    return float(match[1]) / _UNIT_S[match[2] or "s"]


def pace(rate_text: str | None, field: str | None, speed_up: float | None) -> Pace:
    """Return the pace that `--rate`, `--pace` and `--speed-up` mean.

    Raises:
        ConfigError: they contradict each other.
    """
    if rate_text is not None and field is not None:
        raise ConfigError("--rate and --pace both say how fast; give one of them")
    if speed_up is not None and field is None:
        raise ConfigError("--speed-up goes with --pace FIELD, which names the time stamp to keep pace with")
    if speed_up is not None and not speed_up > 0:
        raise ConfigError(f"--speed-up {speed_up:g} would never get on; give a number above 0, such as 60")
    if rate_text is not None:
        return AtRate(rate(rate_text))
    return OwnTime(speed_up or 1.0) if field is not None else AtOnce()
