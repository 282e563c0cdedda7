"""What `check` says of a configuration and of the parts it names."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from streamlearn.cli.app import main
from streamlearn.cli.check import as_toml
from streamlearn.cli.findings import Probe
from streamlearn.config_file import load, masked, resolve
from tests.unit.cli.test_app import CONFIG


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "s.toml").write_text(CONFIG)
    return tmp_path / "s.toml"


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ending:
        main(["check", *arguments])
    return ending.value.code, capsys.readouterr().out


def test_what_is_printed_is_itself_a_configuration_with_every_default(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = check(capsys, "--offline", "-c", str(config))
    assert code == 0
    printed = tomllib.loads(out)
    assert printed["learner"]["learning_rate"] == 0.001
    printed["kafka"]["client"]["sasl.password"] = "hunter22"
    assert resolve(printed, {}) == load(config, {})


def test_offline_json_has_the_masked_configuration(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = check(capsys, "--offline", "--json", "-c", str(config))
    assert code == 0
    assert json.loads(out) == {"config": masked(load(config, {})), "probes": None}
    assert "hunter22" not in out


def test_unset_keys_are_shown_as_comments() -> None:
    document: dict[str, Any] = {"a": {"x": None, "y": [1, "b"], "deep": {"sasl.m": True}}}
    assert as_toml(document).splitlines() == [
        "[a]",
        "# x is not set",
        'y = [1, "b"]',
        "",
        "[a.deep]",
        '"sasl.m" = true',
    ]


ROWS = [
    Probe(part="kafka", ok=True, found="reachable"),
    Probe(part="store", ok=False, found="gone", mend="start it"),
]


@pytest.mark.parametrize(("rows", "code"), [(ROWS, 1), (ROWS[:1], 0)])
def test_the_probes_are_a_table_and_decide_the_exit_code(
    rows: list[Probe], code: int, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlearn.cli.probes.probe_all", lambda _config: rows)
    exits, out = check(capsys, "-c", str(config))
    assert exits == code
    shown = [line.split() for line in out.splitlines()]
    assert ["ok", "kafka", "reachable"] in shown
    assert (["FAIL", "store", "gone", "start", "it"] in shown) == (code == 1)


def test_json_has_the_probes_and_nothing_else(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlearn.cli.probes.probe_all", lambda _config: ROWS)
    exits, out = check(capsys, "--json", "-c", str(config))
    assert exits == 1
    assert json.loads(out)["probes"] == [
        {"part": "kafka", "ok": True, "found": "reachable", "mend": None},
        {"part": "store", "ok": False, "found": "gone", "mend": "start it"},
    ]
