"""A lineage of two versions in a directory, made by the registry itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from streamlearn.cli.app import main
from streamlearn.registry.directory import DirectoryStore
from tests.contract.making import commit, never, writer

EVENTS_EACH = 3


class Shell:
    """Runs the command line in this process."""

    def __init__(self, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._store = store
        self._capsys = capsys

    def __call__(self, *arguments: str, exits: int = 0) -> str:
        """Run against the store, return standard output, or standard error where it fails."""
        return self.bare(*arguments, "--store", str(self._store), "--lineage", "news", exits=exits)

    def bare(self, *arguments: str, exits: int = 0) -> str:
        with pytest.raises(SystemExit) as ending:
            main(arguments)
        out, err = self._capsys.readouterr()
        assert ending.value.code == exits, err
        return out if exits == 0 else err

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def shell(store: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(store, capsys)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with lineage `news`: v000001 knows offsets 0-2, v000002 knows 0-5, offset 6 is in no version yet."""
    root = tmp_path / "store"
    lineage = writer(DirectoryStore(root))
    lineage.acquire(never)
    commit(lineage, 0, EVENTS_EACH, publish=True)
    commit(lineage, EVENTS_EACH, 2 * EVENTS_EACH, publish=True)
    commit(lineage, 2 * EVENTS_EACH, 2 * EVENTS_EACH + 1)
    lineage.release()
    return root


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A verb configures logging for the process that it usually has to itself."""
    root = logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, logging.getLogger("streamlearn").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("streamlearn").setLevel(ours)
    logging.captureWarnings(False)
    structlog.reset_defaults()
