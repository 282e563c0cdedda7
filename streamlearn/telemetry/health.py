"""Is the worker alive, and is it doing its work?

Alive means: where the loop is meant to come round, it did lately. Waits that
may be of any length - loading a model, standing by for a lease, the last
checkpoint - are announced by `not_ready`, and the watch rests until the next
sign of the loop: a restart would only make them longer.

What keeps a worker that has begun from admitting events - a store or brokers
that are away - counts once it has for a while; see `Trouble`.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import structlog

from streamlearn.ports import Clock, Health, Telemetry

_log = structlog.get_logger(__name__)

_TROUBLE_S = 5.0
"""A wait for the store or the brokers that is shorter is their ordinary pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An answer to a probe."""

    ok: bool
    said: str
    """One line for whoever reads it with curl."""


class WorkerHealth:
    """A `Health` that can be asked; safe from any thread."""

    def __init__(self, *, unhealthy_after_s: float, clock: Clock, telemetry: Telemetry) -> None:
        self._unhealthy_after_s = unhealthy_after_s
        self._clock = clock
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._reason: str | None = "starting"
        self._since = clock.monotonic()
        self._beaten_at: float | None = None
        """None while the watch rests."""

    def beat(self) -> None:
        """The loop came round; from here on it is watched."""
        with self._lock:
            self._beaten_at = self._clock.monotonic()

    def ready(self) -> None:
        """Model loaded, head acquired, topics assigned."""
        with self._lock:
            self._reason = None
            self._since = self._beaten_at = self._clock.monotonic()

    def not_ready(self, reason: str) -> None:
        """Alive, but not learning, for `reason`; the watch rests until the next `beat` or `ready`."""
        with self._lock:
            if reason != self._reason:
                self._reason, self._since = reason, self._clock.monotonic()
            self._beaten_at = None

    def live(self) -> Verdict:
        """Answer `/healthz`: whether a restart could help."""
        with self._lock:
            reason, age_s = self._reason, self._age_s()
        if age_s > self._unhealthy_after_s:
            return Verdict(
                ok=False,
                said=f"the loop has not come round for {age_s:.0f} s (http.unhealthy_after_s = "
                f"{self._unhealthy_after_s:g})",
            )
        return Verdict(ok=True, said="OK" if reason is None else f"OK: {reason}")

    def readiness(self) -> Verdict:
        """Answer `/readyz`: whether the worker does its work."""
        live = self.live()
        if not live.ok:
            return live
        with self._lock:
            reason, for_s = self._reason, self._clock.monotonic() - self._since
        if reason is not None:
            return Verdict(ok=False, said=f"not ready for {for_s:.0f} s: {reason}")
        return Verdict(ok=True, said="ready")

    def show(self) -> None:
        """Set the gauges of health; to be called before they are read, as time passes by itself."""
        with self._lock:
            age_s = self._age_s()
        self._telemetry.gauge("streamlearn_loop_age_seconds", age_s)
        self._telemetry.gauge("streamlearn_ready", float(self.readiness().ok))

    def _age_s(self) -> float:
        return 0.0 if self._beaten_at is None else self._clock.monotonic() - self._beaten_at


class Trouble:
    """What keeps a worker from admitting events; for its loop's thread alone."""

    def __init__(self, health: Health, clock: Clock) -> None:
        self._health = health
        self._clock = clock
        self._since = math.inf
        self._told: str | None = None

    def note(self, why: str | None) -> None:
        """Nothing could be admitted now for `why`, or, with None, something could; told in health and log."""
        if why is None:
            self._since = math.inf
            if self._told is not None:
                self._told = None
                _log.info("events are admitted again")
                self._health.ready()
            return
        now = self._clock.monotonic()
        self._since = min(self._since, now)
        if now - self._since >= _TROUBLE_S:
            if why != self._told:
                _log.warning("not ready", why=why)
            self._told = why
            self._health.not_ready(why)
