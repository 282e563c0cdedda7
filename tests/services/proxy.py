"""A TCP line on the loopback that a test can cut, hold, slow down and mend again.

Knows no protocol: bytes go to one target and back. A fault holds for the
connections that are open when it begins and for those that come later, until
`heal`. For what a server would *say* (an error, a lost answer), see
`faulty_s3`.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

_PIECE = 64 * 1024
_SLICE_S = 0.05
"""Longest nap of a pump before it looks for a new fault."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing sends a reset instead of a farewell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How the line is; the default is a good one."""

    refused: bool = False
    """Nobody listens: connecting is refused, and what was open is reset."""
    held: bool = False
    """Connections are taken and nothing passes, either way: packets vanish."""
    delay_s: float = 0.0
    """Every piece comes so much later."""
    bytes_per_s: float = float("inf")
    """Each connection passes so many, in each direction."""
    cut_after: int | None = None
    """A connection is reset once its client has sent so many bytes, counted from its beginning."""


class Proxy:
    """Passes connections to `127.0.0.1:port` on to `target`; a context manager that closes all of them.

    with Proxy("127.0.0.1:9000") as proxy:
        ...                        # speak to proxy.address
        proxy.refuse()             # kill -9 of the server, as far as clients can tell
        proxy.blackhole()          # a firewall that drops packets
        proxy.cut_after(100_000)   # resets in mid-upload, again and again
        proxy.delay(0.2)           # a far server
        proxy.throttle(50_000)     # a thin line
        proxy.heal()
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").rpartition(":")
        self._target = (host, int(port))
        self._line = Line()
        self._closing = False
        self._lock = threading.Lock()
        self._pipes: set[_Pipe] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = self._listen(0)
        self.port = int(self._listener.getsockname()[1])
        self.taken = 0
        """Connections that were taken so far, also those that got no further."""
        self.cuts = 0
        """Connections that `cut_after` has reset."""

    @property
    def address(self) -> str:
        """Where to connect, `host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open now."""
        with self._lock:
            return len(self._pipes)

    def __enter__(self) -> Self:
        self._accept_from(self._listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self.refuse()
        for thread in self._threads:
            thread.join(30)

    # --- faults -----------------------------------------------------------------

    def refuse(self) -> None:
        """Refuse connections and reset those that are open."""
        self._set(Line(refused=True))

    def blackhole(self) -> None:
        """Take connections and pass nothing on; those that are open fall silent."""
        self._set(Line(held=True))

    def delay(self, seconds: float) -> None:
        """Pass every piece on so much later."""
        self._set(Line(delay_s=seconds))

    def throttle(self, bytes_per_s: float) -> None:
        """Pass so many bytes a second on, for each connection and direction."""
        self._set(Line(bytes_per_s=bytes_per_s))

    def cut_after(self, count: int) -> None:
        """Reset each connection once its client has sent `count` bytes; answers pass unharmed until then."""
        self._set(Line(cut_after=count))

    def drop(self) -> None:
        """Reset what is open, once; the line stays as it is."""
        with self._lock:
            pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cut()

    def heal(self) -> None:
        """Be a good line again; what was held goes on where it stopped."""
        self._set(Line())

    # --- the machinery ------------------------------------------------------------

    def _set(self, line: Line) -> None:
        if line.refused and self._listener is not None:
            # A shutdown wakes the thread that waits in accept; a close alone would not.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self._line = line
        if line.refused:
            self.drop()
        elif self._listener is None:
            self._listener = self._listen(self.port)
            self._accept_from(self._listener)

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        return listener

    def _accept_from(self, listener: socket.socket | None) -> None:
        assert listener is not None, "healed first"
        self._start(lambda: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # refused from now on
            self.taken += 1
            self._start(partial(self._serve, client))

    def _serve(self, client: socket.socket) -> None:
        """Carry one connection until both ways have ended."""
        while self._line.held and not self._closing:
            time.sleep(_SLICE_S)
        try:
            server = socket.create_connection(self._target, timeout=30)
        except OSError:
            _close(client, reset=True)
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pipe = _Pipe(client, server)
        with self._lock:
            self._pipes.add(pipe)
        if self._line.refused:
            pipe.cut()
        back = self._start(partial(self._pump, pipe, server, client, upward=False))
        self._pump(pipe, client, server, upward=True)
        back.join()
        with self._lock:
            self._pipes.discard(pipe)
        pipe.close()

    def _pump(self, pipe: _Pipe, source: socket.socket, sink: socket.socket, *, upward: bool) -> None:
        """Carry bytes one way until that way ends."""
        try:
            while (piece := source.recv(_PIECE)) and self._passes(piece):
                if upward and (limit := self._line.cut_after) is not None and pipe.sent + len(piece) > limit:
                    sink.sendall(piece[: max(limit - pipe.sent, 0)])
                    with self._lock:
                        self.cuts += 1
                    pipe.cut()
                    return
                pipe.sent += len(piece) if upward else 0
                sink.sendall(piece)
            if not pipe.was_cut:
                # The other way may still have something to say.
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            pipe.cut()

    def _passes(self, piece: bytes) -> bool:
        """Return whether `piece` may go on, when it may; a new fault, or its end, is heeded at once."""
        line = self._line
        due = time.monotonic() + line.delay_s + len(piece) / line.bytes_per_s
        while self._line.held or (self._line is line and time.monotonic() < due):
            if self._closing:
                return False
            time.sleep(min(_SLICE_S, max(due - time.monotonic(), 0.001)))
        return not self._line.refused

    def _start(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name="proxy", daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()]
            self._threads.append(thread)
            thread.start()
        return thread


class _Pipe:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self.was_cut = False
        self.sent = 0
        """Bytes the client has sent through."""

    def cut(self) -> None:
        """Let both pumps end; the client will see a reset, as from a host that died."""
        self.was_cut = True
        with suppress(OSError):
            # Wakes who reads, and tells the client nothing yet: a farewell before the reset would be none.
            self._client.shutdown(socket.SHUT_RD)
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give both sockets back; nobody reads from them any more."""
        _close(self._client, reset=self.was_cut)
        _close(self._server, reset=self.was_cut)


def _close(end: socket.socket, *, reset: bool) -> None:
    with suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()
