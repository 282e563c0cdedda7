"""Ctrl-C and SIGTERM, answered where it is safe to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A wait for input was cut short."""


class Interrupt:
    """Notes the first signal; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._reading = False

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has ended."""
        assert self.signal is not None, "nothing has interrupted us"
        return 128 + self.signal

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let a signal raise Interrupted in the block: a read that waits cannot look at a flag."""
        self._reading = True
        try:
            if self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._reading = False

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self._reading:
            raise Interrupted


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Handle SIGINT and SIGTERM for as long as the block."""
    interrupt = Interrupt()
    earlier = {number: signal.signal(number, interrupt.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
