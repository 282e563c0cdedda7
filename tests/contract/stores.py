"""Every store that the contract suites run on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from streamlearn.ports import ObjectStore
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.open import open_store
from streamlearn.registry.retrying import RetryingStore
from tests.fakes.daemon import SilentTelemetry
from tests.fakes.store import MemoryStore
from tests.services.containers import docker_answers
from tests.services.s3 import S3Server


class RealClock:
    """The machine's own time, without the parts that `bootstrap` imports beside it."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


# A server from outside, or in a container, is tested beside the two local ones where there is one.
GIVEN = ["s3"] if os.environ.get("STREAMLEARN_TEST_S3") or docker_answers() else []
S3_KINDS = ["seaweedfs", "minio", *GIVEN]
KINDS = ["memory", "directory", *S3_KINDS]


def fresh_store(kind: str, request: pytest.FixtureRequest) -> ObjectStore:
    """Return an empty store of `kind`."""
    if kind == "memory":
        return MemoryStore()
    if kind == "directory":
        folder: Path = request.getfixturevalue("tmp_path")
        return DirectoryStore(folder / "store")
    server: S3Server = request.getfixturevalue(kind)
    return open_store(server.fresh())


def patient(store: ObjectStore) -> RetryingStore:
    """Return `store` as the worker uses it."""
    return RetryingStore(store, budget_s=20.0, clock=RealClock(), telemetry=SilentTelemetry())
