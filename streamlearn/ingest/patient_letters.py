"""Patience with brokers that do not take dead letters.

Tries again what is transient, with jittered backoff, within a budget of time;
what is refused is raised at once. The letters themselves stay queued in
between: nothing is sent twice for having been waited for.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import structlog

from streamlearn.core.events import Arrival
from streamlearn.ports import DeadLetters, SourceUnavailable, Telemetry

_log = structlog.get_logger(__name__)

_TRY_S = 5.0
"""Longest try; after the first the log and `/readyz` can say what is waited for."""
_FIRST_S, _LONGEST_S = 0.2, 5.0


class PatientDeadLetters:
    """`DeadLetters` that wait out the absences of others."""

    def __init__(
        self,
        letters: DeadLetters,
        *,
        budget_s: float,
        telemetry: Telemetry,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._letters = letters
        self._budget_s = budget_s
        self._monotonic = monotonic
        self._telemetry = telemetry
        self._closing = threading.Event()
        self._wait = wait or self._closing.wait
        self._random = random.Random()  # noqa: S311 - jitter, not a secret
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """What could not be made safe and is being tried again; None while all is well."""
        return self._trouble

    def room(self) -> bool:
        """Whether `send` would return at once."""
        return self._letters.room()

    def send(self, arrival: Arrival) -> None:
        """Queue the record of a rejected arrival; waits only where there was no `room`.

        Raises:
            SourceUnavailable: no room for longer than the budget.
            SourceRefused: there is no such topic, or no permission.
        """
        self._patiently("send", lambda _timeout_s: self._letters.send(arrival), self._budget_s)

    def flush(self, timeout_s: float) -> None:
        """Return when everything queued so far is acknowledged; each try takes `timeout_s` or less.

        Raises:
            SourceUnavailable: not within the budget.
            SourceRefused: there is no such topic, or no permission.
        """
        self._patiently("flush", self._letters.flush, timeout_s)

    def close(self) -> None:
        """Give everything back, and up what is being waited for; idempotent."""
        self._closing.set()
        self._letters.close()

    def _patiently(self, operation: str, attempt: Callable[[float], None], timeout_s: float) -> None:
        began, pause, tries = self._monotonic(), _FIRST_S, 0
        while True:
            left_s = max(self._budget_s - (self._monotonic() - began), 0.0)
            try:
                attempt(min(timeout_s, _TRY_S, left_s) if tries else min(timeout_s, _TRY_S))
            except SourceUnavailable as error:
                tries += 1
                waited = self._monotonic() - began
                if waited + pause > self._budget_s or self._closing.is_set():
                    raise SourceUnavailable(
                        f"{error} (tried {tries} times in {waited:.0f} s; kafka.retry_budget_s = {self._budget_s:g})"
                    ) from error
                self._trouble = str(error)
                self._telemetry.count("streamlearn_kafka_retries_total", operation=operation)
                _log.warning(
                    "the brokers do not take dead letters; trying again",
                    operation=operation,
                    tries=tries,
                    waited_s=round(waited),
                    why=str(error),
                )
                self._wait(self._random.uniform(0.5, 1.0) * pause)
                pause = min(2.0 * pause, _LONGEST_S)
            else:
                if tries:
                    _log.info("the brokers take dead letters again", operation=operation, tries=tries)
                    self._trouble = None
                return
