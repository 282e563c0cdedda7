"""The only port that a worker opens: who reaches it, what it gives, and what it costs to be rude to it."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from streamlearn.config import Http
from streamlearn.telemetry import http as ours
from streamlearn.telemetry.health import WorkerHealth
from streamlearn.telemetry.http import HttpServer
from streamlearn.telemetry.prometheus import PrometheusTelemetry
from tests.fakes.daemon import ManualClock
from tests.services.worker import wait_until


@contextmanager
def served(host: str) -> Iterator[int]:
    """Serve on `host` and yield the port."""
    telemetry = PrometheusTelemetry()
    health = WorkerHealth(unhealthy_after_s=120.0, clock=ManualClock(), telemetry=telemetry)
    server = HttpServer(Http(host=host, port=0), telemetry.registry, health)
    server.start()
    try:
        yield int(server.address.rpartition(":")[2])
    finally:
        server.close()


def answers(host: str, port: int) -> bool:
    """Whether somebody at `host` answers."""
    try:
        with socket.create_connection((host, port), timeout=5) as client:
            return said(client, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
    except OSError:
        return False


def said(client: socket.socket, request: bytes) -> bytes:
    """Send a request as it stands, and return all of the answer."""
    client.sendall(request)
    return b"".join(iter(lambda: client.recv(65536), b""))


def own_addresses() -> list[str]:
    """Return addresses of this machine beside 127.0.0.1."""
    found = ["127.0.0.2"]
    # Nothing is sent: connecting a datagram socket only asks which address would be used.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        found.append(str(probe.getsockname()[0]))
    return found


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_the_default_is_this_machine_only() -> None:
    """Metrics name topics, so nobody else reads them unless told to."""
    with served(Http().host) as port:
        assert answers("127.0.0.1", port)
        for address in own_addresses():
            assert not answers(address, port), address
        assert not answers("::1", port)


def test_every_address_only_where_it_is_asked_for() -> None:
    with served("0.0.0.0") as port:
        for address in ("127.0.0.1", *own_addresses()):
            assert answers(address, port), address


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6_is_bound_as_configured() -> None:
    with served("::1") as port:
        assert answers("::1", port)
        assert not answers("127.0.0.1", port)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/metrics/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd",
        "/..\\..\\etc\\passwd", "/etc/passwd%00", "/metrics/", "file:///etc/passwd", "http://169.254.169.254/",
        "/debug/pprof", "/static/x",
    ],
)  # fmt: skip
def test_no_path_leads_to_anything_but_the_three_pages(path: str) -> None:
    """There is no file behind them, so that there is nothing to climb out of."""
    with served("127.0.0.1") as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        answer = said(client, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.0 404")
    assert b"root:" not in answer
    assert path.encode() not in answer, "nothing of the request comes back"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_nothing_can_be_changed(method: str) -> None:
    with served("127.0.0.1") as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        answer = said(client, f"{method} /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
    assert answer.split()[1] in {b"405", b"501"}


def test_a_request_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow loris: each byte comes in time, the whole does not."""
    monkeypatch.setattr(ours._Handler, "timeout", 0.4)
    with served("127.0.0.1") as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.settimeout(0.05)
        client.sendall(b"GET /metrics HTTP/1.0\r\nX: ")
        began = time.monotonic()

        def hung_up() -> bool:
            try:
                client.sendall(b"y")
                return client.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(hung_up, "the server to hang up", deadline_s=30)
        assert time.monotonic() - began >= 0.3


def test_a_request_without_end_costs_no_memory() -> None:
    """Headers beyond 16 KiB are not read, whatever they promise; the next client is answered."""
    before = resident_bytes()
    with served("127.0.0.1") as port, ExitStack() as stack:
        for _ in range(ours._MAX_CLIENTS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            with suppress(OSError):  # hung up on in the middle
                client.sendall(
                    b"GET / HTTP/1.0\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 60_000) for n in range(90))
                )
        assert resident_bytes() - before < 32 * 2**20
        assert answers("127.0.0.1", port)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_crowd_gets_no_more_threads_than_there_are_places() -> None:
    """Whoever comes is answered; those who only sit there are hung up on, the first of them first."""
    with served("127.0.0.1") as port, ExitStack() as stack:
        for _ in range(4 * ours._MAX_CLIENTS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        assert answers("127.0.0.1", port)
        wait_until(lambda: _answering() <= ours._MAX_CLIENTS, "threads of those who were hung up on")


def _answering() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())
