"""The command, whole: processes, table, document and picture."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from streamlearn.bench.compare import compare
from streamlearn.bench.run import ArmFailed, Wishes, _peak_rss_mb, run_arm
from streamlearn.cli import app as program
from streamlearn.cli.bench import progress
from tests.services.worker import DEADLINE_S, wait_until

KEYS = {
    "arm", "nats_per_token", "nats_per_token_last_fifth", "bits_per_byte", "forgetting", "anchor_nats", "tokens_per_s",
    "peak_rss_mb", "seconds",
}  # fmt: skip


def ending(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        program.main(arguments)
    return caught.value.code


def test_two_arms_side_by_side(
    stream: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The document has what a script wants, the picture is one, and standard output holds the table alone."""
    figures, picture = tmp_path / "figures.json", tmp_path / "curve.png"
    settings = ["anchor.chunks=2", "anchor.tokens=16", f"model.cache_dir={tmp_path / 'cache'}", "learner.threads=1"]
    code = ending(
        "bench", "learn", "--stream", str(stream), "--model", str(tiny_model), "--arms", "streamlearn@1e-3",
        "--json", str(figures), "--plot", str(picture), *(part for each in settings for part in ("--set", each)),
    )  # fmt: skip
    said = capsys.readouterr()

    assert code == 0, said.err
    document = json.loads(figures.read_text())
    assert document.keys() >= {"stream", "model", "seed", "chunks", "tokens", "arms"}
    assert document["chunks"] == 10
    assert [row["arm"] for row in document["arms"]] == ["frozen", "streamlearn@1e-3"], "the base is always there"
    assert all(row.keys() >= KEYS for row in document["arms"])
    assert all(set(row["topics"]) == {"even", "odd"} for row in document["arms"])
    frozen, ours = document["arms"]
    assert frozen["above"].keys() == {"arm", "mean", "low", "high"}
    assert frozen["above"]["mean"] == pytest.approx(frozen["nats_per_token"] - ours["nats_per_token"], abs=2e-4)
    assert ours["above"] is None
    assert frozen["anchor_loss"] == 0.0
    assert picture.read_bytes().startswith(b"\x89PNG")
    for row in document["arms"]:
        found = re.search(rf"│ {row['arm']} +│ +([\d.]+) │", said.out)
        assert found, "however narrow the screen"
        assert float(found[1]) == pytest.approx(row["nats_per_token"], abs=1e-3)
    assert "…" not in said.out
    assert "streamlearn@1e-3, its anchor first: 100%" in said.err
    assert not re.search(r"^\d{4}-", said.out, re.MULTILINE), "no log lines in it"


def test_an_arm_on_the_next_stream_has_a_clock_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An experiment runs one arm on several streams, and each takes only its own time."""
    now = iter([0.0, 60.0, 100.0, 150.0])
    monkeypatch.setattr("streamlearn.cli.bench.time", SimpleNamespace(monotonic=lambda: next(now)))
    tell = progress()

    for done in (1, 200, 1, 200):
        tell("frozen", done, 200)

    assert [line.rpartition(", ")[2] for line in capsys.readouterr().err.splitlines()] == ["60 s", "0 s", "50 s"]


def test_an_arm_that_fails_is_named_with_its_reason(wishes: Wishes, tmp_path: Path) -> None:
    (tmp_path / "no.jsonl").write_text("")
    broken = dataclasses.replace(wishes, stream=str(tmp_path / "no.jsonl"))

    with pytest.raises(ArmFailed, match=r"arm frozen: ValueError: .*holds no line"):
        run_arm("frozen", broken, lambda *_: None)


_PARENT = """
import multiprocessing
import threading
from streamlearn.bench import run

def child():
    run._lived = lambda *_: threading.Event().wait()
    run._child("frozen", None, None)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    print(process.pid, flush=True)
    process.join()
"""


@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL])
def test_no_arm_outlives_the_command(tmp_path: Path, blow: signal.Signals) -> None:
    """It would take a core for an hour, and nobody would know what for."""
    (tmp_path / "parent.py").write_text(_PARENT)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    try:
        parent.send_signal(blow)
        assert parent.wait(DEADLINE_S) == -blow
        wait_until(lambda: not _lives(child), "the child's end")
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_an_unknown_arm_or_setting_is_told_before_any_arm_runs(wishes: Wishes) -> None:
    """Not after the hour that the arms before it took."""

    def told(arm: str, *_: int) -> None:
        raise AssertionError(f"{arm} ran")

    with pytest.raises(ValueError, match="there is no arm 'magic'"):
        compare(["frozen", "magic"], wishes, told)


def test_peak_memory_is_the_arms_own() -> None:
    """Not that of the process that began it, which a child inherits in `ru_maxrss`."""
    block = np.ones(400 * 2**20, dtype=np.uint8)
    asked = "from streamlearn.bench.run import _peak_rss_mb; print(_peak_rss_mb())"
    child = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)

    assert 5 < int(child.stdout) < 400 <= _peak_rss_mb()
    del block


# --- the command line -------------------------------------------------------------------------


def test_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending("bench", "learn", "--help") == 0
    said = capsys.readouterr().out
    for option in ("--stream", "--max-tokens", "--arms", "--seed", "--json", "--set", "--plot", "--part"):
        assert option in said


def test_it_lists_the_arms(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending("bench", "learn", "--arms", "list") == 0
    told = capsys.readouterr()
    said = set(told.out.split())
    assert "adamw_loop@3e-5" in told.err, "a rate may be added"
    assert {"frozen", "sgd_loop", "adamw_loop", "trainer_nightly", "streamlearn"} < said
    assert "streamlearn-without-anchor" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "learner"], "write section.key=value"),
        (["--set", "learner=3"], "write section.key=value"),
        (["--set", "learner.learning_rte=1"], "did you mean learner.learning_rate?"),
        (["--set", "learner.learning_rate=fast"], "learner.learning_rate"),
        (["--part", "third"], "`first-half`"),
        (["--arms", "frozen@1e-3"], "has no rate"),
        (["--arms", "sgd_loop@quick"], "'quick' is no learning rate"),
        (["--arms", "magic"], "there is no arm 'magic'"),
        (["--max-tokens", "0"], "max-tokens"),
        (["--arms", "frozen", "--stream", "/nowhere.jsonl"], "/nowhere.jsonl"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    arguments: list[str], words: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending("bench", "learn", "--model", str(tiny_model), *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
