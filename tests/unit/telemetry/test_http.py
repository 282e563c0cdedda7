"""The port, over real sockets."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from streamlearn.config import Http
from streamlearn.ports import Fatal
from streamlearn.telemetry import http as ours
from streamlearn.telemetry.health import WorkerHealth
from streamlearn.telemetry.http import HttpServer
from streamlearn.telemetry.prometheus import PrometheusTelemetry
from tests.fakes.daemon import ManualClock


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.telemetry = PrometheusTelemetry()
        self.health = WorkerHealth(unhealthy_after_s=120.0, clock=self.clock, telemetry=self.telemetry)
        self.server = HttpServer(Http(port=0), self.telemetry.registry, self.health)
        self.server.start()

    @property
    def port(self) -> int:
        return int(self.server.address.rpartition(":")[2])

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read().decode(),
            )
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.server.close()


def eventually(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Wait until `condition` holds, for at most `deadline_s`."""
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.01)


def test_metrics_are_served_as_they_are_now(rig: Rig) -> None:
    """Ages too, though nothing has happened since the last scrape."""
    rig.telemetry.count("streamlearn_steps_total", 7.0)
    rig.health.ready()
    rig.clock.time += 5.0

    answer = rig.ask("/metrics")

    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "streamlearn_steps_total 7.0\n" in answer.body
    assert "streamlearn_loop_age_seconds 5.0\n" in answer.body
    assert "streamlearn_ready 1.0\n" in answer.body


def test_prometheus_may_ask_for_openmetrics(rig: Rig) -> None:
    rig.telemetry.count("streamlearn_steps_total", 7.0)
    rig.telemetry.info("streamlearn_build_info", version="1", python="3")

    answer = rig.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(answer.body)}  # type: ignore[no-untyped-call]
    assert families["streamlearn_steps"].samples[0].value == 7.0
    assert families["streamlearn_build"].type == "info"


def test_probes_follow_health(rig: Rig) -> None:
    """Alive while starting, ready when ready, neither when the loop hangs."""
    rig.health.not_ready("loading the model")
    assert (rig.ask("/healthz").status, rig.ask("/healthz").body) == (200, "OK: loading the model\n")
    assert (rig.ask("/readyz").status, rig.ask("/readyz").body) == (503, "not ready for 0 s: loading the model\n")

    rig.health.ready()
    assert (rig.ask("/healthz").status, rig.ask("/healthz").body) == (200, "OK\n")
    assert (rig.ask("/readyz").status, rig.ask("/readyz").body) == (200, "ready\n")

    rig.clock.time += 121.0
    assert rig.ask("/healthz").status == rig.ask("/readyz").status == 503
    assert "has not come round for 121 s" in rig.ask("/healthz").body


def test_the_root_shows_what_there_is(rig: Rig) -> None:
    answer = rig.ask("/")

    assert answer.headers["content-type"].startswith("text/html")
    for path in ("/metrics", "/healthz", "/readyz"):
        assert f'href="{path}"' in answer.body


def test_other_paths_and_methods_are_refused(rig: Rig) -> None:
    assert rig.ask("/favicon.ico").status == 404
    assert rig.ask("/metrics?name=x").status == 200
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = rig.ask("/metrics", method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_head_is_get_without_a_body(rig: Rig) -> None:
    get = rig.ask("/healthz")
    with rig.connect() as client:
        client.sendall(b"HEAD /healthz HTTP/1.0\r\n\r\n")
        # To the end of the connection: a client library would not show a body that must not be there.
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()

    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.0 200 ")
    assert f"Content-Length: {get.headers['content-length']}" in head.splitlines()
    assert body == ""


def test_requests_are_not_logged(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    """A probe every few seconds would drown what matters; nor does a client's rudeness reach standard error."""
    rig.ask("/healthz")
    rig.ask("/nowhere")
    with rig.connect() as rude:
        rude.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert b"400" in rude.recv(1000)
    rig.server.close()

    assert capfd.readouterr() == ("", "")


def test_silent_clients_hold_nobody_up(rig: Rig) -> None:
    """Far more of them than there are places: whoever asks is answered at once."""
    silent = [rig.connect() for _ in range(3 * ours._MAX_CLIENTS)]
    try:
        for client in silent:
            client.sendall(b"GET /metr")
        began = time.monotonic()
        assert rig.ask("/healthz").status == 200
        assert time.monotonic() - began < ours._PATIENCE_S / 2
        # And they take no more threads than there are places.
        eventually(lambda: _answering() <= ours._MAX_CLIENTS, deadline_s=ours._PATIENCE_S / 2)
    finally:
        for client in silent:
            client.close()


def _answering() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_a_client_that_says_nothing_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open connection does not keep its thread for ever."""
    assert ours._Handler.timeout == ours._PATIENCE_S
    monkeypatch.setattr(ours._Handler, "timeout", 0.05)
    with rig.connect() as silent:
        assert silent.recv(1) == b""


def test_a_client_that_reads_nothing_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with an answer larger than the kernel's buffers."""
    monkeypatch.setattr(ours._Handler, "timeout", 0.05)
    for source in range(20_000):
        rig.telemetry.gauge("streamlearn_nats_per_token", 1.0, model="live", source=f"{source:0200d}")
    with rig.connect() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        eventually(lambda: _answering() > 0)
        eventually(lambda: _answering() == 0)


def test_a_port_in_use_is_named_with_the_mend(rig: Rig) -> None:
    """Two workers on one machine: the second says what to do."""
    second = HttpServer(Http(port=rig.port), rig.telemetry.registry, rig.health)

    with pytest.raises(Fatal, match=rf"http.port = {rig.port}: the port is in use.*set http.port to a free one"):
        second.start()

    second.close()


@pytest.mark.parametrize(
    ("host", "said"), [("192.0.2.1", "no such address; set http.host"), ("no.such.host.invalid", "has no address")]
)
def test_an_address_that_is_not_ours_is_named(rig: Rig, host: str, said: str) -> None:
    server = HttpServer(Http(host=host, port=0), rig.telemetry.registry, rig.health)

    with pytest.raises(Fatal, match=said):
        server.start()


def test_closing_gives_the_port_back(rig: Rig) -> None:
    """A restart in the same process binds it again, and closing twice is one closing."""
    port = rig.port
    with rig.connect() as waiting:
        eventually(lambda: _answering() > 0)
        waiting.settimeout(ours._PATIENCE_S / 2)
        rig.server.close()
        rig.server.close()
        assert waiting.recv(1) == b""

    again = HttpServer(Http(port=port), rig.telemetry.registry, rig.health)
    again.start()
    again.close()


def test_a_server_that_never_started_can_be_closed() -> None:
    """A start-up that fails earlier closes what it has."""
    rig = Rig()
    rig.server.close()

    HttpServer(Http(port=0), rig.telemetry.registry, rig.health).close()


def test_an_ipv6_address_is_written_in_brackets() -> None:
    rig = Rig()
    rig.server.close()
    if not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    server = HttpServer(Http(host="::1", port=0), rig.telemetry.registry, rig.health)
    try:
        server.start()
    except Fatal as error:
        pytest.skip(f"no IPv6 on this machine: {error}")

    assert server.address.startswith("[::1]:")

    server.close()
