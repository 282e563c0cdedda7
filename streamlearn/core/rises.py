"""When the mean of a series went up, and since when.

river's ADWIN (Bifet and Gavaldà, "Learning from time-changing data with
adaptive windowing", SDM 2007) on z-scores: its bound has a term for values in
[0, 1], so a series of small spread, as losses in nats are, makes it blind.

What is subtracted and divided by is taken from a stretch of the series and
then held constant: a mean that followed the series would follow a slow rise
too, and hide it. It is taken anew only when the detector's memory is cut.

ADWIN's own state cannot be read back, but it is a function of its inputs. So
these are kept, at most `2 * HORIZON`, and a restart plays them again: no
pickle, no private format, nothing to trust.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from river.drift import ADWIN

CALIBRATION = 100
"""Values that give the first mean and spread; until then nothing is detected."""
HORIZON = 1024
"""Values that are remembered at least; twice as many at most. A rise slower than that is a trend, and no drift."""
_PER_NAT = 10_000
"""Values are kept as whole multiples of 1/10,000: small in a checkpoint, and exactly what was fed."""
_MAX_Z = 5.0
"""One value is no drift, however far out."""
_MIN_SPREAD = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rise:
    """The mean went up."""

    amount: float
    """Mean after the cut less mean before it, in the unit of the series."""
    values: int
    """Values since the cut, the newest included."""


class RiseDetector:
    """Tells when a series of nats per token has risen; falls are taken in silently."""

    def __init__(self, delta: float) -> None:
        self._delta = delta
        self._values: list[int] = []
        self._centre: float | None = None
        self._spread = 1.0
        self._adwin = _adwin(delta)

    def add(self, value: float) -> Rise | None:
        """Take in the next value; return the rise that it completes. What is no finite number is passed over."""
        if not math.isfinite(value):
            return None
        kept = round(value * _PER_NAT)
        self._values.append(kept)
        if self._centre is None:
            if len(self._values) >= CALIBRATION:
                self._calibrate()
            return None
        self._adwin.update(self._z(kept))
        if self._adwin.drift_detected:
            return self._cut()
        if len(self._values) >= 2 * HORIZON:
            self._values = self._values[-HORIZON:]
            self._calibrate()
        return None

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON: about 7 bytes a value."""
        return {"values": list(self._values), "centre": self._centre, "spread": self._spread}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`; plays the kept values again, which takes milliseconds."""
        self._values = [int(value) for value in document["values"]]
        self._centre = None if document["centre"] is None else float(document["centre"])
        self._spread = float(document["spread"])
        self._replay()

    def _cut(self) -> Rise | None:
        after = len(self._values) - self._split()
        before, self._values = self._values[:-after], self._values[-after:]
        amount = (_mean(self._values) - _mean(before)) / _PER_NAT
        # river forgets everything after a detection; what came after the cut is worth keeping.
        self._replay()
        return Rise(amount=amount, values=after) if amount > 0.0 else None

    def _split(self) -> int:
        """Return where the values fall apart best: the most likely place of one change of the mean.

        ADWIN drops no more of the past than its bound asks for, so where it cuts
        lies some hundred values before the change (measured: 72 at one standard
        deviation, 300 at 0.6). It says that there is a change, this says where.
        """
        z = np.array([self._z(kept) for kept in self._values])
        total = np.cumsum(z)
        first = np.arange(1, z.size)
        second = z.size - first
        gap = (total[-1] - total[:-1]) / second - total[:-1] / first
        return int(np.argmax(first * second * np.square(gap))) + 1

    def _calibrate(self) -> None:
        self._centre = _mean(self._values) / _PER_NAT
        self._spread = max(float(np.std(self._values)) / _PER_NAT, _MIN_SPREAD)
        self._replay()

    def _replay(self) -> None:
        self._adwin = _adwin(self._delta)
        if self._centre is not None:
            for kept in self._values:
                self._adwin.update(self._z(kept))

    def _z(self, kept: int) -> float:
        assert self._centre is not None
        return min(max((kept / _PER_NAT - self._centre) / self._spread, -_MAX_Z), _MAX_Z)


def _adwin(delta: float) -> Any:
    # river is marked as typed and its detectors are not, hence Any.
    return ADWIN(delta=delta)  # type: ignore[no-untyped-call]


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)
