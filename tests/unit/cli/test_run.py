"""What `run` writes where."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog

import streamlearn
from streamlearn.cli.app import main
from streamlearn.core.manifest import Scores, Totals
from streamlearn.ports import Fenced
from streamlearn.reporter import RunReport
from tests.unit.cli.test_app import CONFIG

REPORT = RunReport(
    seconds=12.3456,
    step_seconds=11.0,
    events=70,
    tokens_trained=5_000,
    totals=Totals(events=90, tokens=4_000),
    scores=Scores(),
    newest_version=3,
)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """Run the verb with a worker that does `work`; return exit code, standard output, standard error."""
    (tmp_path / "s.toml").write_text(CONFIG)

    def call(*arguments: str, work: Callable[[Any, bool], RunReport]) -> tuple[Any, str, str]:
        module = ModuleType("streamlearn.bootstrap")
        module.run = work  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "streamlearn.bootstrap", module)
        monkeypatch.setattr(streamlearn, "bootstrap", module, raising=False)
        with pytest.raises(SystemExit) as ending:
            main(["run", "-c", str(tmp_path / "s.toml"), *arguments])
        return (ending.value.code, *capsys.readouterr())

    return call


def working(config: Any, until_end: bool) -> RunReport:
    structlog.get_logger("streamlearn.test").info("learning", until_end=until_end, secret="hunter22")
    structlog.get_logger("streamlearn.test").debug("not at this level")
    return REPORT


def test_the_end_is_a_log_line_and_standard_output_stays_empty(run: Callable[..., tuple[Any, str, str]]) -> None:
    code, out, err = run(work=working)
    assert (code, out) == (0, "")
    learning, ended = (json.loads(line) for line in err.splitlines())
    assert (learning["event"], learning["until_end"]) == ("learning", False)
    assert {key: ended[key] for key in ("event", "seconds", "tokens", "events", "version")} == {
        "event": "ended",
        "seconds": 12.346,
        "tokens": 5_000,
        "events": 70,
        "version": "v000003",
    }


def test_no_secret_is_logged(run: Callable[..., tuple[Any, str, str]]) -> None:
    _, _, err = run(work=working)
    assert "***" in err
    assert "hunter22" not in err


def test_json_is_one_object_on_standard_output(run: Callable[..., tuple[Any, str, str]]) -> None:
    _, out, err = run("--json", "--until-end", work=working)
    assert json.loads(out) == {"seconds": 12.346, "tokens": 5_000, "events": 70, "version": "v000003"}
    assert '"until_end": true' in err


def test_a_fenced_worker_exits_with_three(run: Callable[..., tuple[Any, str, str]]) -> None:
    def fenced(_config: Any, until_end: bool) -> RunReport:
        raise Fenced("epoch 2 has taken over")

    code, out, err = run(work=fenced)
    assert (code, out) == (3, "")
    assert "streamlearn: epoch 2 has taken over" in err
