"""S3 over TLS: a private authority is trusted when it is named, and nothing else is, at once and in words."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from streamlearn.config import S3, Store
from streamlearn.ports import StoreRefused, StoreUnavailable, StreamlearnError
from streamlearn.registry.open import open_store
from streamlearn.registry.retrying import RetryingStore
from tests.contract.stores import RealClock
from tests.fakes.daemon import SilentTelemetry
from tests.security.parts import run_tls_minio
from tests.services.tls import Authority, Identity


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


class Door:
    """A server that shows its certificate and hangs up; counts who came to see it."""

    def __init__(self, identity: Identity | None) -> None:
        self._context: ssl.SSLContext | None = None
        if identity is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(identity.certificate, identity.key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.visits = 0
        self.answer = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                self.visits += 1
                with client, suppress(OSError):
                    if self._context is not None:
                        self._context.wrap_socket(client, server_side=True).close()
                    elif self.answer:
                        client.recv(100)
                        client.sendall(self.answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(30)


@contextmanager
def door(identity: Identity | None) -> Iterator[Door]:
    """Stand a server with this certificate, or one that speaks no TLS, on the loopback."""
    opened = Door(identity)
    try:
        yield opened
    finally:
        opened.close()


def store_at(port: int, bundle: Path | None, *, host: str = "127.0.0.1", budget_s: float = 60.0) -> RetryingStore:
    """Return the store as the worker has it, with the patience of a worker."""
    key = SecretStr("testtest12")
    s3 = S3(
        endpoint_url=f"https://{host}:{port}",
        access_key_id=key,
        secret_access_key=key,
        ca_bundle=None if bundle is None else str(bundle),
    )
    store = open_store(Store(url="s3://bucket/line", s3=s3))
    return RetryingStore(store, budget_s=budget_s, clock=RealClock(), telemetry=SilentTelemetry())


def refusal(store: RetryingStore) -> str:
    with pytest.raises(StoreRefused) as refused:
        store.get("some/key")
    (line,) = str(refused.value).splitlines()
    return line


def test_a_private_authority_is_trusted_when_it_is_named(authority: Authority) -> None:
    """And only then: the same store without `ca_bundle` is refused, in words that name it."""
    with run_tls_minio(authority.identity("minio"), trust=authority.bundle) as server:
        settings = server.store()
        store = open_store(settings)
        store.probe()
        store.create("a/b", b"1")
        assert store.get("a/b").body == b"1"

        untold = settings.model_copy(update={"s3": settings.s3.model_copy(update={"ca_bundle": None})})
        with pytest.raises(StoreRefused, match=r"not trusted; name its authority in store\.s3\.ca_bundle"):
            open_store(untold).probe()


def test_an_unknown_authority_is_refused_at_once(authority: Authority, tmp_path: Path) -> None:
    """Waiting would not mend it, and a man in the middle gets no request."""
    stranger = Authority(tmp_path, "somebody else")
    for bundle in (None, stranger.bundle):
        with door(authority.identity("unknown")) as server:
            assert "store.s3.ca_bundle" in refusal(store_at(server.port, bundle))
            assert server.visits == 1


def test_a_certificate_that_has_run_out_is_refused_at_once(authority: Authority) -> None:
    with door(authority.identity("old", valid_for=-timedelta(days=1))) as server:
        said = refusal(store_at(server.port, authority.bundle))
        assert "expired" in said
        assert "clock" in said
        assert server.visits == 1


def test_a_certificate_for_another_host_is_refused_at_once(authority: Authority) -> None:
    with door(authority.identity("other", "s3.example.org")) as server:
        said = refusal(store_at(server.port, authority.bundle))
        assert "another host" in said
        assert "store.s3.endpoint_url" in said
        assert server.visits == 1


def test_a_server_without_tls_is_refused_at_once() -> None:
    with door(None) as server:
        server.answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
        said = refusal(store_at(server.port, None))
        assert "no TLS" in said
        assert "http://" in said
        assert server.visits == 1


def test_a_handshake_that_is_cut_is_waited_out() -> None:
    """A restarting load balancer is an outage, no fault of the settings."""
    with door(None) as server, pytest.raises(StoreUnavailable):
        store_at(server.port, None, budget_s=0.0).get("some/key")


@pytest.mark.parametrize(
    "content", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_bundle_that_holds_no_certificate_is_named(tmp_path: Path, content: str) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(content)
    with door(None) as server, pytest.raises((StoreRefused, StreamlearnError), match=r"store\.s3\.ca_bundle"):
        store_at(server.port, bundle, budget_s=0.0).get("some/key")
