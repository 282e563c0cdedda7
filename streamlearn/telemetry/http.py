"""`/metrics`, `/healthz` and `/readyz` over HTTP.

Answers whoever asks, in a thread each, and is never held up by a client: when
too many are connected, the one that came first is hung up on, and a quick
client is never the first for long. Decides nothing about health.
"""

from __future__ import annotations

import errno
import io
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streamlearn.config import Http
from streamlearn.ports import Fatal
from streamlearn.telemetry.health import Verdict, WorkerHealth

_log = structlog.get_logger(__name__)

_PATIENCE_S = 5.0
"""For all of a request, however it trickles in, and for all of an answer; half of Prometheus's scrape timeout."""
_MAX_REQUEST_BYTES = 16 * 1024
"""Line and headers; http.server alone would take 6 MB from each client."""
_MAX_CLIENTS = 32
"""Several Prometheis, probes and people at once, and still few threads."""
_TEXT = "text/plain; charset=utf-8"
_INDEX = """<!doctype html><title>streamlearn</title><h1>streamlearn</h1>
<ul><li><a href="/metrics">/metrics</a> numbers for Prometheus
<li><a href="/healthz">/healthz</a> is the process alive?
<li><a href="/readyz">/readyz</a> does it do its work?</ul>
"""


class HttpServer:
    """Serves one worker's registry and health from a thread of its own."""

    def __init__(self, config: Http, registry: CollectorRegistry, health: WorkerHealth) -> None:
        self._config = config
        self._handler = partial(_Handler, registry, health)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind the port and begin to answer.

        Raises:
            Fatal: the address cannot be bound; names the key and the mend.
        """
        self._server = _bound(self._config, self._handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="http", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens, `host:port`; a port of 0 has become the one that was free."""
        assert self._server is not None, "start the server first"
        host, port = str(self._server.server_address[0]), self._server.server_address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Hang up and give the port back; idempotent."""
        if self._thread is not None and self._server is not None:
            thread, self._thread = self._thread, None
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A TCP server with a thread for each client and a bound on clients."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, family: int, address: Any, handler: Callable[..., Any]) -> None:
        self.address_family = family
        self._clients: dict[socket.socket, None] = {}
        self._clients_lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Make room where there is none, then answer in a thread."""
        with self._clients_lock:
            while len(self._clients) >= _MAX_CLIENTS:
                first = next(iter(self._clients))
                del self._clients[first]
                _hang_up(first)
            self._clients[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a client that was answered."""
        with self._clients_lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening and hang up on everybody."""
        super().server_close()
        with self._clients_lock:
            for client in self._clients:
                _hang_up(client)
            self._clients.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        """Say what went wrong where we log; by default it is printed to standard error."""
        error = sys.exception()
        # A client that went away is its own affair; anything else is ours.
        if isinstance(error, OSError):
            _log.debug("an HTTP client went away", client=str(client_address[0]), why=str(error))
        else:
            _log.error("an HTTP client was not answered", client=str(client_address[0]), exc_info=error)


class _Request(io.RawIOBase):
    """What a client says, as far as it is patient and brief enough for us."""

    def __init__(self, client: socket.socket, patience_s: float) -> None:
        self._client = client
        self._until = time.monotonic() + patience_s
        self._left = _MAX_REQUEST_BYTES

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has come; raises OSError when time or bytes are used up."""
        if (remaining := self._until - time.monotonic()) <= 0 or self._left <= 0:
            raise TimeoutError("the request took too long" if remaining <= 0 else "the request is too long")
        self._client.settimeout(remaining)
        count = self._client.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    """One request of one client."""

    timeout = _PATIENCE_S
    server_version = "streamlearn"
    sys_version = ""

    def __init__(self, registry: CollectorRegistry, health: WorkerHealth, *args: Any) -> None:
        self._registry = registry
        self._health = health
        super().__init__(*args)

    def setup(self) -> None:
        """Read with a bound on the whole request: timeouts of single reads would let it trickle for ever."""
        super().setup()
        self.rfile = io.BufferedReader(_Request(self.connection, self.timeout))

    def do_GET(self) -> None:
        """Answer with the page at `path`."""
        match self.path.partition("?")[0]:
            case "/metrics":
                self._health.show()
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, encode(self._registry), kind)
            case "/healthz":
                self._answer_verdict(self._health.live())
            case "/readyz":
                self._answer_verdict(self._health.readiness())
            case "/":
                self._answer(HTTPStatus.OK, _INDEX.encode(), "text/html; charset=utf-8")
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"not found; there are /metrics, /healthz and /readyz\n", _TEXT)

    do_HEAD = do_GET  # noqa: N815 - `_answer` leaves the body out

    def _refuse(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n", _TEXT)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        """Keep requests out of the log: a probe every few seconds is no news."""

    def _answer_verdict(self, verdict: Verdict) -> None:
        status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, f"{verdict.said}\n".encode(), _TEXT)

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.connection.settimeout(self.timeout)  # for all of what is sent at once
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _hang_up(client: socket.socket) -> None:
    # Its thread wakes up with an error or an end of file, and closes it.
    with suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)


def _bound(config: Http, handler: Callable[..., Any]) -> _Server:
    where = f"http.host = {config.host!r}, http.port = {config.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _Server(family, address, handler)
    except socket.gaierror as error:
        raise Fatal(f"{where}: the host has no address ({error.strerror}); 0.0.0.0 binds all of them") from error
    except OSError as error:
        raise Fatal(f"{where}: {_mend(error)}") from error


def _mend(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "the port is in use, perhaps by another worker; set http.port to a free one, or to 0 to take any"
        case errno.EACCES:
            return "the port is not ours to bind; set http.port to one above 1023"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address; set http.host to one of its own, or to 0.0.0.0"
    return f"cannot listen there: {error.strerror}"
