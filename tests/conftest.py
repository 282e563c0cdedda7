"""What all tests share: tiny models, real services, and the say of which real parts this run has used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny import make_model
from tests.services import kafka as kafka_service
from tests.services import s3 as s3_service
from tests.services.kafka import kafka, mock_kafka
from tests.services.s3 import minio, s3, seaweedfs

__all__ = ["kafka", "minio", "mock_kafka", "s3", "seaweedfs", "tiny_model"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model of 40,000 parameters that has learnt nothing yet."""
    return make_model(tmp_path_factory.mktemp("tiny-model"))


_PARTS = pytest.StashKey[dict[str, None]]()


def _parts() -> list[str]:
    return [*kafka_service.parts_used(), *s3_service.used()]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that runs tests for another tells it which parts they have used."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["parts"] = _parts()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Hear what `pytest_sessionfinish` told."""
    told = getattr(node, "workeroutput", {}).get("parts", [])
    node.config.stash.setdefault(_PARTS, {}).update(dict.fromkeys(told))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which real parts stood behind the results."""
    parts = dict.fromkeys(_parts()) | terminalreporter.config.stash.get(_PARTS, {})
    if parts:
        terminalreporter.write_line(f"real parts used: {'; '.join(parts)}")
