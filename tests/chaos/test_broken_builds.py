"""The checker catches a build that breaks a promise, and only that build.

Each patch in `broken/` takes one safeguard away. The scenario that needs the
safeguard is played on the broken build, where the checker must complain, and
on the true one, where it must not.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.chaos.checker import Verdict, check
from tests.chaos.checker_events import KIND
from tests.chaos.lives import ROOT, Life, end_forks, executed, forked
from tests.chaos.scene import AT_RISK, Scene, set_scene
from tests.services.kafka import KafkaService
from tests.services.s3 import S3Server

BROKEN = Path(__file__).parent / "broken"
EVENTS = 300

_LATE = 'client = { "linger.ms" = 600_000 }'
"""Dead letters stay with the worker until long after its end, so that only a flush could get them out in time."""


@pytest.fixture(scope="module", autouse=True)
def forks() -> Iterator[None]:
    yield
    end_forks()


@pytest.fixture
def scene(kafka: KafkaService, s3: S3Server, tiny_model: Path, tmp_path: Path) -> Scene:
    return set_scene(kafka, s3, tiny_model, tmp_path / "scene")


@pytest.fixture
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tree with the `streamlearn` that the patch of this name makes of ours, and our tests."""
    patch = BROKEN / f"{request.param}.patch"
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "streamlearn", tree / "streamlearn", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "tests").symlink_to(ROOT / "tests", target_is_directory=True)
    done = subprocess.run(
        ["patch", "-p1", "--forward", "--fuzz=2", "--input", str(patch)],
        cwd=tree, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, (
        f"{patch.name} no longer applies: {done.stdout}{done.stderr}\nThe code that it breaks has changed. Renew it: "
        f"in a copy of the repository, take the same safeguard away by hand (the file's name says which), and write "
        f"`git diff -U2 streamlearn > tests/chaos/broken/{patch.name}`; then see this test pass."
    )
    return tree


def every_third(number: int) -> bool:
    return number % 3 == 1


def never(number: int) -> bool:
    return False


class Play:
    """Lives on a scene, on one build."""

    def __init__(self, scene: Scene, tree: Path | None) -> None:
        self._scene = scene
        self._tree = tree
        self._lives: list[Life] = []

    def send(self, first: int, last: int, *, bad: Callable[[int], bool]) -> None:
        """Write records `first` to `last` - 1 to two partitions in turn."""
        producer = Producer({"bootstrap.servers": self._scene.kafka.address, "enable.idempotence": True})
        for number in range(first, last):
            value = json.dumps({"id": f"e{number}", "text": f"a text with number {number}"}).encode()
            kind, value = (b"bad", b"no event") if bad(number) else (b"good", value)
            producer.produce(self._scene.topic, value, partition=number % 2, headers=[(KIND, kind)])
        assert producer.flush(60) == 0

    def begin(self, *faults: str, command: str = "run", late: bool = False) -> Life:
        """Start a worker, which `faults` strike; where it is `late`, dead letters wait in it."""
        config = self._scene.config
        if late:
            config = config.with_name("late.toml")
            config.write_text(self._scene.config.read_text().replace("[ingest]", f"{_LATE}\n[ingest]", 1))
        told = [part for fault in faults for part in ("--fault", fault)]
        told += ["--", *command.split(), "-c", str(config)]
        log = self._scene.folder / f"life-{len(self._lives)}.log"
        if self._tree is None:
            life = forked(told, log=log, env=self._scene.env)
        else:
            life = executed(told, log=log, env=self._scene.env, tree=self._tree)
        self._lives.append(life)
        return life

    def verdict(self, *, drained: bool) -> Verdict:
        """Return what the checker says now."""
        unclean = sum(life.code != 0 for life in self._lives)
        return check(self._scene.evidence(), drained=drained, unclean=unclean, at_risk=AT_RISK)

    def to_the_end(self) -> None:
        """Let a last worker finish what the others left."""
        last = self.begin(command="run --until-end")
        last.wait(lambda: last.code is not None, "the end of the stream")
        assert last.code == 0, last.last_words

    def ends(self) -> list[tuple[int | None, str]]:
        """Return how each life ended: its exit code and its last words."""
        return [(life.code, life.last_words) for life in self._lives]

    def over(self) -> None:
        """End whoever still lives."""
        for life in self._lives:
            life.end()


def killed_after_the_swap(play: Play) -> None:
    play.send(0, EVENTS, bad=every_third)
    life = play.begin("swapped:2:KILL")
    life.wait(lambda: life.code is not None, "its end at the swap")
    assert life.code == -signal.SIGKILL, life.last_words


def killed_in_the_flush(play: Play) -> None:
    # Good ones first, so that the life to be killed has nothing but dead letters to flush, at its first checkpoint.
    play.send(0, 60, bad=never)
    play.to_the_end()
    play.send(60, EVENTS, bad=lambda number: number < 100 or every_third(number))
    life = play.begin("dead_letters:flush:1:KILL", late=True)
    life.wait(lambda: life.code is not None, "its end in the flush")
    assert life.code == -signal.SIGKILL, life.last_words


def held_until_another_has_published(play: Play) -> None:
    play.send(0, EVENTS, bad=every_third)
    # Where nothing fences the zombie, it dies as soon as it has done its harm.
    zombie = play.begin("uploaded:2:STOP", "swapped:2:KILL")
    zombie.wait(lambda: zombie.stopped, "its being held before a swap")
    other = play.begin()
    other.wait(lambda: '"version": 2' in other.log or other.code is not None, "the version of who took over")
    assert other.code is None, other.last_words
    other.end()
    zombie.send(signal.SIGCONT)
    zombie.wait(lambda: zombie.code is not None, "the end of the zombie")


SCENARIOS = {
    "swap_before_upload": (killed_after_the_swap, "chain"),
    "commit_before_flush": (killed_in_the_flush, "dead_letter"),
    "no_lease_check": (held_until_another_has_published, "epoch"),
}


def test_every_patch_is_played() -> None:
    assert {path.stem for path in BROKEN.glob("*.patch")} == SCENARIOS.keys()


@pytest.mark.parametrize(
    ("broken", "scenario", "kind"),
    [pytest.param(name, *played, id=name) for name, played in SCENARIOS.items()],
    indirect=["broken"],
)
def test_a_broken_build_is_caught(
    scene: Scene, broken: Path, scenario: Callable[[Play], None], kind: str, request: pytest.FixtureRequest
) -> None:
    """A checker that never complains would prove nothing."""
    play = Play(scene, broken)
    try:
        scenario(play)
        found = play.verdict(drained=False)
    finally:
        play.over()

    assert kind in {fault.kind for fault in found.faults}, ([str(fault) for fault in found.faults], play.ends())


@pytest.mark.parametrize("scenario", [pytest.param(played[0], id=name) for name, played in SCENARIOS.items()])
def test_the_true_build_stands_the_same(scene: Scene, scenario: Callable[[Play], None]) -> None:
    """Neither right after the blow nor at the end is anything missing, half or twice."""
    play = Play(scene, None)
    try:
        scenario(play)
        at_once = play.verdict(drained=False)
        play.to_the_end()
        finally_ = play.verdict(drained=True)
    finally:
        play.over()

    assert [str(fault) for fault in (*at_once.faults, *finally_.faults)] == []
    assert finally_.events == EVENTS
