"""What all tests share: tiny models, real services, and the say of which real parts this run has used."""

from __future__ import annotations

from pathlib import Path

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which real parts stood behind the results."""
    parts = dict.fromkeys((*kafka_service.parts_used(), *s3_service.used()))
    if parts:
        terminalreporter.write_line(f"real parts used: {'; '.join(parts)}")
