"""Saying the same thing not too often.

A flood of equal troubles becomes one line in a while that tells how many it
stands for. Knows neither what is said nor where it goes.
"""

from __future__ import annotations

from collections.abc import Callable

_MAX_KEYS = 1_000
"""Kinds remembered at once; more than any stream has, so that hostile input cannot grow the table."""


class Limited:
    """Lets each kind of message pass once in `every_s` seconds; safe from any thread.

    >>> now = 0.0
    >>> limited = Limited(every_s=10.0, monotonic=lambda: now)
    >>> [limited.due("NotJson") for _ in range(3)]
    [0, None, None]
    >>> now = 10.0
    >>> limited.due("NotJson")
    2
    """

    def __init__(self, *, every_s: float, monotonic: Callable[[], float]) -> None:
        self._every_s = every_s
        self._monotonic = monotonic
        self._said: dict[str, tuple[float, int]] = {}

    def due(self, kind: str) -> int | None:
        """Return how many of `kind` were held back before this one, or None to hold this one back too."""
        now = self._monotonic()
        said_at, held_back = self._said.get(kind, (float("-inf"), 0))
        if now - said_at < self._every_s:
            self._said[kind] = (said_at, held_back + 1)
            return None
        if kind not in self._said and len(self._said) >= _MAX_KEYS:
            self._said.clear()
        self._said[kind] = (now, 0)
        return held_back
