"""The guided run, as a newcomer sees it: a real process, its broker and its feeder, on a tiny model."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from streamlearn.config import Store
from streamlearn.demo import run as demo
from streamlearn.demo.feeder import Feeder
from streamlearn.registry.open import open_store
from streamlearn.registry.reader import LineageReader
from tests.services.worker import STREAMLEARN, wait_until

ANIMALS = ("fox", "dog", "owl", "cat", "hen")
ROWS = 200
DEADLINE_S = 90.0
KEYS = {
    "seconds", "tokens", "tokens_per_s", "tokens_per_s_step", "versions", "gain_nats_per_token", "gain_last_fifth",
    "live", "base", "peak_rss_mb", "store", "lineage",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ending:
    """What one demo left behind."""

    code: int
    document: dict[str, Any]
    said: str
    """Standard error."""


@dataclass(frozen=True, slots=True)
class Desk:
    """A place to run demos at, all on the same store."""

    folder: Path
    model: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def stream(self) -> Path:
        return self.folder / "rows.txt"

    def demo(self, *options: str, meanwhile: Callable[[subprocess.Popen[bytes], Path], None] | None = None) -> Ending:
        """Run `streamlearn demo` to its end; `meanwhile` gets the process and the file it writes its errors to."""
        out, err = self.folder / "out", self.folder / "err"
        command = [*STREAMLEARN, "demo", "--model", str(self.model), "--stream", str(self.stream)]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, "--store", str(self.store), "--json", *options],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
            )
        try:
            if meanwhile is not None:
                meanwhile(process, err)
            code = process.wait(DEADLINE_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(30)
        said, lines = err.read_text(), out.read_text().splitlines()
        assert lines, f"exit {code} without a word on standard output: {said[-4000:]}"
        return Ending(code, json.loads(lines[-1]), said)

    def events(self) -> list[int]:
        """Return how many events each version of the lineage had seen, oldest first."""
        reader = LineageReader(open_store(Store(url=str(self.store))), demo.LINEAGE)
        return [version.manifest.totals.events for version in reader.versions()]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Desk:
    """A stream with something to learn."""
    desk = Desk(tmp_path_factory.mktemp("demo"), tiny_model)
    desk.stream.write_text(
        "".join(
            f"the quick brown {ANIMALS[n % 5]} jumps over the lazy {ANIMALS[n * 3 % 5]} number {n}\n"
            for n in range(ROWS)
        )
    )
    return desk


def interrupt_after_a_step(process: subprocess.Popen[bytes], err: Path) -> None:
    """Press Ctrl-C once the worker's own metrics count a step."""

    def steps() -> float:
        assert process.poll() is None, f"the demo has ended: {err.read_text()[-4000:]}"
        if (address := re.search(r"Metrics:\s+(http://\S+/metrics)", err.read_text())) is None:
            return 0.0
        with urllib.request.urlopen(address[1], timeout=5) as answer:
            found = re.search(r"^streamlearn_steps_total (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    wait_until(steps, "the first step", deadline_s=DEADLINE_S)
    process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def interrupted(desk: Desk) -> Ending:
    """The first demo of the store, ended by Ctrl-C long before its time."""
    return desk.demo("--minutes", "5", meanwhile=interrupt_after_a_step)


def test_ctrl_c_ends_the_demo_early_and_well(desk: Desk, interrupted: Ending) -> None:
    """What was learnt until then is a version, and the closing is shown as after a whole run."""
    assert interrupted.code == 0, interrupted.said
    assert interrupted.document.keys() == KEYS
    assert interrupted.document["versions"] == 1
    assert interrupted.document["tokens"] > 0
    assert "Starting a fresh lineage" in interrupted.said
    assert re.search(r"^version +parent", interrupted.said, re.MULTILINE)
    assert re.search(r"^v000001 ", interrupted.said, re.MULTILINE)
    assert "Try next:" in interrupted.said
    assert "Traceback" not in interrupted.said
    assert "every row is learnt" not in interrupted.said


@pytest.mark.usefixtures("interrupted")
def test_a_second_demo_goes_on_and_a_fresh_one_starts_over(desk: Desk) -> None:
    """Offsets mean the same rows in every run, so rows learnt before are not learnt again."""
    (begun,) = desk.events()
    assert 0 < begun < ROWS

    second = desk.demo("--minutes", "1")
    assert second.code == 0, second.said
    assert second.document.keys() == KEYS
    assert "Continuing lineage 'demo' at v000001" in second.said
    assert "every row is learnt" in second.said
    assert second.document["versions"] == len(desk.events()) - 1 >= 1
    assert desk.events()[-1] == ROWS
    assert second.document["gain_nats_per_token"] > 0.5
    assert (desk.store / "demo-curve.png").read_bytes().startswith(b"\x89PNG")

    fresh = desk.demo("--minutes", "0.1", "--fresh")
    assert fresh.code == 0, fresh.said
    assert "--fresh: removing" in fresh.said
    assert "Starting a fresh lineage" in fresh.said
    assert fresh.document["versions"] == len(desk.events()) >= 1
    assert fresh.document["store"] == str(desk.store)
    assert fresh.document["lineage"] == demo.LINEAGE


class InterruptedFeeder(Feeder):
    """Never ends by itself, and Ctrl-C comes as soon as someone waits for it."""

    def wait(self, timeout_s: float = DEADLINE_S, *, should_stop: Callable[[], bool] = lambda: False) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return super().wait(timeout_s, should_stop=should_stop)


@contextmanager
def never_feeding(_address: str, _stream: str) -> Iterator[Feeder]:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        yield InterruptedFeeder(process)
    finally:
        process.kill()
        process.wait(30)


def test_ctrl_c_is_heard_before_the_rows_have_come(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is learnt and nothing kept, and the demo closes at once instead of waiting for the feeder."""
    monkeypatch.setattr(demo, "feeding", never_feeding)
    said = io.StringIO()
    wishes = demo.Wishes(minutes=5, model=str(desk.model), stream=str(desk.stream), store=tmp_path, fresh=False)
    outcome = demo.run(wishes, Console(file=said, width=100))
    assert (outcome.report.tokens_trained, outcome.published, outcome.picture) == (0, 0, None)
    assert outcome.document().keys() == KEYS
    assert "Learning." not in said.getvalue()


def test_a_store_elsewhere_is_refused_before_a_directory_of_that_name_appears(tmp_path: Path) -> None:
    done = subprocess.run(
        [*STREAMLEARN, "demo", "--store", "s3://bucket/prefix"],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(demo.__file__).parents[2])},
    )
    assert done.returncode == 2
    assert "the demo keeps its lineage in a directory; for S3 use `streamlearn run`" in done.stderr
    assert list(tmp_path.iterdir()) == []
