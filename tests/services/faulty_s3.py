"""A real S3 server behind one that lies when told to: it answers chosen requests with S3's own errors.

What a line does to bytes is `proxy`'s; this speaks HTTP, so that it can say
`503 SlowDown` to the third write of the head, or forward that write and lose
the answer.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tests.services.s3 import S3Server


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as S3 tells it."""

    status: int
    code: str


INTERNAL_ERROR = Answer(500, "InternalError")
SLOW_DOWN = Answer(503, "SlowDown")
UNAVAILABLE = Answer(503, "ServiceUnavailable")
CONDITIONAL_CONFLICT = Answer(409, "ConditionalRequestConflict")
OPERATION_ABORTED = Answer(409, "OperationAborted")
REQUEST_TIMEOUT = Answer(400, "RequestTimeout")
EXPIRED_TOKEN = Answer(400, "ExpiredToken")
STORAGE_FULL = Answer(507, "XMinioStorageFull")
TRANSIENT = (INTERNAL_ERROR, SLOW_DOWN, UNAVAILABLE, CONDITIONAL_CONFLICT, OPERATION_ABORTED, REQUEST_TIMEOUT)


@dataclass
class _Rule:
    """What becomes of the next `times` requests of `method` whose path holds `key`."""

    answer: Answer | None
    """None: the request is forwarded, and the connection cut before the answer."""
    method: str
    key: str
    times: float
    used: int = 0

    def wants(self, method: str, path: str) -> bool:
        return self.used < self.times and method == self.method and self.key in path


class FaultyS3:
    """How the server in between answers; everything it was not told about it passes on."""

    def __init__(self, server: S3Server, port: int) -> None:
        assert server.endpoint_url is not None, "a server of the tests, not AWS"
        self.upstream = urlsplit(server.endpoint_url).netloc
        self.server = replace(server, endpoint_url=f"http://127.0.0.1:{port}", buckets=[])
        """The same server, asked through us."""
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def fail(self, answer: Answer, *, method: str = "PUT", key: str = "", times: float = 1) -> Callable[[], int]:
        """Answer the next `times` such requests with an error; returns what tells how many it has been."""
        return self._add(_Rule(answer, method, key, times))

    def lose_answers(self, *, method: str = "PUT", key: str = "", times: float = 1) -> Callable[[], int]:
        """Let the next `times` such requests take place and their answers be lost."""
        return self._add(_Rule(None, method, key, times))

    def heal(self) -> None:
        """Pass everything on again."""
        with self._lock:
            self._rules.clear()

    def rule(self, method: str, path: str) -> _Rule | None:
        """Return what is to become of a request, and count it."""
        with self._lock:
            found = next((rule for rule in self._rules if rule.wants(method, path)), None)
            if found is not None:
                found.used += 1
            return found

    def _add(self, rule: _Rule) -> Callable[[], int]:
        with self._lock:
            self._rules.append(rule)
        return lambda: rule.used


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # or a client that expects "100 Continue" waits for it in vain
    told: FaultyS3
    timeout = 60

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        rule = self.told.rule(self.command, unquote(self.path))
        if rule is not None and rule.answer is not None:
            self._say(rule.answer)
            return
        status, headers, answer = self._forwarded(body)
        if rule is not None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(answer)))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - the names are the base class's

    def _forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        line = http.client.HTTPConnection(self.told.upstream, timeout=60)
        try:
            line.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                # The signature covers the host as the client knows it, and not what two neighbours agree on.
                if name.lower() not in {"expect", "connection"}:
                    line.putheader(name, value)
            line.endheaders(body)
            answer = line.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            line.close()

    def _say(self, answer: Answer) -> None:
        text = f'<?xml version="1.0"?><Error><Code>{answer.code}</Code><Message>as a test wants it</Message></Error>'
        self.send_response_only(answer.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests want."""


@contextmanager
def faulty(server: S3Server) -> Iterator[FaultyS3]:
    """Stand in front of `server` until the block ends."""

    class Handler(_Handler):
        pass

    http_server = _Server(("127.0.0.1", 0), Handler)
    Handler.told = told = FaultyS3(server, http_server.server_port)
    thread = threading.Thread(target=http_server.serve_forever, args=(0.05,), name="faulty-s3", daemon=True)
    thread.start()
    try:
        yield told
    finally:
        http_server.shutdown()
        thread.join()
        http_server.server_close()
