"""When the stream has changed.

Two series are watched: losses of the base, which never learns, tell that the
input changed; those of the live model that it has fallen behind. Only rises
alarm: to become better is what learning is for. What follows from an alarm
is another matter (`reaction`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from streamlearn.core.judgement import Alarm
from streamlearn.core.rises import Rise, RiseDetector


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSettings:
    """How easily an alarm is given."""

    delta: float
    """ADWIN's bound on the chance of a false alarm at each look."""
    min_chunks_apart: int
    """Fresh chunks between two alarms."""


class DriftWatch:
    """Watches the losses of all fresh chunks, in stream order."""

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings
        self.chunks = 0
        """Fresh chunks seen: the number of the next one."""
        self._base_chunks = 0
        self._last: int | None = None
        self._live = RiseDetector(settings.delta)
        self._base = RiseDetector(settings.delta)

    def observe(self, live: float, base: float | None) -> Alarm | None:
        """Take in one fresh chunk; return an alarm where one is due.

        Args:
            live: nats per token under the live model before it learnt the chunk.
            base: the same under the base, None where the chunk was not sampled.
        """
        number, self.chunks = self.chunks, self.chunks + 1
        live_rise, base_rise = self._live.add(live), None
        if base is not None:
            self._base_chunks += 1
            base_rise = self._base.add(base)
        # One alarm a chunk; that of the base tells more, since learning cannot blur it.
        if base_rise is not None and (alarm := self._alarm("base", number, base_rise)) is not None:
            return alarm
        return self._alarm("live", number, live_rise) if live_rise is not None else None

    def begin_live_anew(self) -> None:
        """Forget the live model's losses, as when another one is scored from now on."""
        self._live = RiseDetector(self._settings.delta)

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON: up to 30 kB once the memories are full."""
        return {
            "chunks": self.chunks,
            "base_chunks": self._base_chunks,
            "last": self._last,
            "live": self._live.document(),
            "base": self._base.document(),
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self.chunks, self._base_chunks = int(document["chunks"]), int(document["base_chunks"])
        self._last = None if document["last"] is None else int(document["last"])
        self._live.restore(document["live"])
        self._base.restore(document["base"])

    def _alarm(self, signal: Literal["base", "live"], number: int, rise: Rise) -> Alarm | None:
        # The base is scored on a share of the chunks; each stands for as many as there were on average.
        apart = self.chunks / self._base_chunks if signal == "base" else 1.0
        cut = max(self.chunks - round(rise.values * apart), 0)
        # A change from before the last alarm was reacted to then: the slower series only now tells of it.
        if self._last is not None and (number - self._last < self._settings.min_chunks_apart or cut <= self._last):
            return None
        self._last = number
        return Alarm(signal=signal, chunk=number, cut=cut, rise=rise.amount)
