"""What a command ends with, and what it does not wait for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from streamlearn.cli import app as program
from streamlearn.ports import Fatal, Fenced, StoreUnavailable

STREAMLEARN = [sys.executable, "-c", "from streamlearn.cli.app import main; main()"]
HEAVY = {"torch", "transformers", "peft", "boto3", "confluent_kafka", "matplotlib", "rich.live"}

CONFIG = """
[stream]
name = "news"
[kafka]
bootstrap_servers = "127.0.0.1:1"
topics = ["t"]
[kafka.client]
"sasl.password" = "hunter22"
[store]
url = "data"
[model]
name = "m"
"""


def ending(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        program.main(arguments)
    return caught.value.code


@pytest.mark.parametrize(
    "verb", ["demo", "check", "run", "versions", "show", "log", "ledger", "pull", "produce", "bench"]
)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(verb, "--help") == 0
    assert f"Usage: streamlearn {verb}" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending("--version") == 0
    assert capsys.readouterr().out.startswith("streamlearn ")


def test_an_unknown_verb_is_a_usage_error() -> None:
    assert ending("lern") == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [(Fenced("another writer"), 3), (Fatal("broken"), 1), (StoreUnavailable("gone"), 1), (ValueError("mend me"), 2)],
)
def test_an_ending_has_its_exit_code_and_one_clear_line(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_arguments: object, prog_name: str) -> None:
        raise error

    monkeypatch.setattr(program, "app", fail)
    assert ending() == code
    assert capsys.readouterr().err == f"streamlearn: {error}\n"


def test_a_bad_configuration_is_one_message_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text(CONFIG + "nam = 1\n")
    for verb in ("run", "check", "versions"):
        assert ending(verb, "-c", str(tmp_path / "bad.toml")) == 2
        message = capsys.readouterr().err
        assert "model.nam = 1: unknown key" in message
        assert "Traceback" not in message


def test_no_configuration_at_all_says_how_to_give_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ending("run") == 2
    assert "-c FILE" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom streamlearn.cli.app import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_checking_offline_imports_no_torch_and_opens_no_connection(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(CONFIG)
    code = (
        "import sys, socket\nfrom streamlearn.cli.app import main\n"
        "def refuse(*_): raise AssertionError('a connection')\nsocket.socket.connect = refuse\n"
        f"try: main(['check', '--offline', '-c', {str(tmp_path / 's.toml')!r}])\n"
        "except SystemExit as ending: assert ending.code == 0, ending.code\n"
        f"assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert '"sasl.password" = "***"' in done.stdout
    assert "hunter22" not in done.stdout + done.stderr


def test_a_reader_that_goes_away_ends_us_quietly(store: Path) -> None:
    """As in `streamlearn ledger | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    arguments = ["ledger", "--json", "--store", str(store), "--lineage", "news"]
    try:
        done = subprocess.run(
            [*STREAMLEARN, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert done.stderr == ""


@pytest.mark.parametrize("verb", ["versions", "ledger"])
def test_warnings_are_readable_on_standard_error_and_standard_output_is_the_verbs(
    verb: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe into `jq` holds, whatever is logged."""
    assert ending(verb, "--json", "--store", str(store), "--lineage", "news") == 0
    capsys.readouterr()
    log = structlog.get_logger("streamlearn.registry.retrying")
    log.info("of no interest")
    log.warning("the store does not answer")
    out, err = capsys.readouterr()
    assert out == ""
    assert "the store does not answer" in err
    assert "of no interest" not in err


def test_secrets_of_the_configuration_are_masked_in_what_any_verb_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text(CONFIG)
    assert ending("check", "--offline", "-c", str(tmp_path / "s.toml")) == 0
    capsys.readouterr()
    structlog.get_logger("streamlearn.x").warning("told", password="hunter22")
    assert "hunter22" not in capsys.readouterr().err


def test_an_interruption_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_arguments: object, prog_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "app", interrupted)
    assert ending() == 130
    assert capsys.readouterr().err == ""


def test_ctrl_c_ends_a_verb_that_waits(tmp_path: Path) -> None:
    """A check of brokers that do not answer is not sat out."""
    silent = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    (tmp_path / "s.toml").write_text(CONFIG.replace('"sasl.password" = "hunter22"', "").replace("127.0.0.1:1", address))
    process = subprocess.Popen(
        [*STREAMLEARN, "check", "-c", str(tmp_path / "s.toml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert "probing Kafka" in process.stderr.readline()
        silent.settimeout(20)
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            # Well before the ten seconds that the brokers are given.
            assert process.wait(6) == 130
        said = process.stderr.read()
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()
        silent.close()
