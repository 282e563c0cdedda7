"""`log` tells every decision once, in words and as JSON, and what was champion when."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from streamlearn.cli.app import main
from streamlearn.core.judgement import Alarm, Decision, Judgement, Ruling
from streamlearn.core.manifest import Alias
from streamlearn.registry.aliases import move_alias
from streamlearn.registry.directory import DirectoryStore
from streamlearn.registry.documents import to_bytes
from streamlearn.registry.keys import Keys
from tests.contract.making import commit, evidence, judged, never, promoted, rolled_back, writer
from tests.fakes.daemon import ManualClock
from tests.unit.cli.conftest import Shell

MIDNIGHT = 1_795_478_400.0
"""2026-11-24T00:00:00Z, a Tuesday, in seconds since 1970."""


def held(version: str, number: int) -> Ruling:
    return Ruling(
        decision=Decision.HOLD,
        reason="not shown to be better by 0.005 nats/token in 2000 blocks (mean +0.0010, bound -0.0020)",
        evidence=evidence(version, "v000001", mean=0.001),
        number=number,
        chunk=100 * number,
        champion="v000001",
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """v000001 was promoted at 10, v000002 held, v000003 promoted at 13 and rolled back at 14 after the last version."""
    root, clock = tmp_path / "store", ManualClock()
    lineage = writer(DirectoryStore(root), clock, owner="worker-7")
    lineage.acquire(never)

    def at(hour: int, first: int, last: int, judgement: Judgement | None = None, *, publish: bool = False) -> None:
        clock.time = MIDNIGHT + 3_600.0 * hour
        commit(
            lineage,
            first,
            last,
            judgement=judgement,
            publish=publish,
            created_at=f"2026-11-24T{hour:02d}:00:00.000+00:00",
        )

    first, hold, third = promoted("v000001"), held("v000002", 2), promoted("v000003", 3, over="v000001")
    alarm = Alarm(signal="live", chunk=205, cut=198, rise=0.4321)
    at(9, 0, 3, publish=True)
    at(10, 3, 4, judged(first))
    at(11, 4, 6, judged(first), publish=True)
    at(12, 6, 9, judged(hold, alarms=(alarm,)), publish=True)
    at(13, 9, 10, judged(third, alarms=(alarm,), candidate=evidence("v000004", "v000003")), publish=True)
    at(14, 10, 11, judged(rolled_back("v000003", 4, to="v000001")))
    move_alias(
        DirectoryStore(root),
        Keys("news"),
        "canary",
        4,
        epoch=1,
        by="Ada",
        at="2026-11-24T15:00:00+00:00",
        reason="a try\nat night",
    )
    lineage.release()
    return root


@pytest.fixture
def shell(store: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(store, capsys)


GAIN = "gain over the base 0.250 nats/token"
MOVED = "by worker-7 (epoch 1)"
LINES = [
    ("2026-11-24T09:00:00Z", f"v000001 published as the first: 3 events (+3), 30 tokens (+30), {GAIN}"),
    ("2026-11-24T09:00:00Z", f"latest moved from no version to v000001 {MOVED}: published"),
    (
        "2026-11-24T10:00:00Z",
        (
            "ruling 1: v000001 promoted over the base: better by 0.08 nats/token; "
            f"champion moved from the base to v000001 {MOVED}"
        ),
    ),
    ("2026-11-24T11:00:00Z", f"v000002 published from v000001: 6 events (+3), 60 tokens (+30), {GAIN}"),
    ("2026-11-24T11:00:00Z", f"latest moved from v000001 to v000002 {MOVED}: published"),
    (
        "",
        (
            "ruling 2: v000002 held, v000001 stays champion: not shown to be better by 0.005 nats/token in 2000 blocks "
            "(mean +0.0010, bound -0.0020)"
        ),
    ),
    (
        "",
        "drift: the loss of the live model rose by 0.4321 nats/token at about chunk 198, noticed at chunk 205",
    ),
    ("2026-11-24T12:00:00Z", f"v000003 published from v000002: 9 events (+3), 90 tokens (+30), {GAIN}"),
    ("2026-11-24T12:00:00Z", f"latest moved from v000002 to v000003 {MOVED}: published"),
    (
        "2026-11-24T13:00:00Z",
        (
            "ruling 3: v000003 promoted over v000001: better by 0.08 nats/token; "
            f"champion moved from v000001 to v000003 {MOVED}"
        ),
    ),
    ("2026-11-24T13:00:00Z", f"v000004 published from v000003: 10 events (+1), 100 tokens (+10), {GAIN}"),
    ("2026-11-24T13:00:00Z", f"latest moved from v000003 to v000004 {MOVED}: published"),
    (
        "2026-11-24T14:00:00Z",
        (
            "ruling 4: v000003 rolled back to v000001: worse by 0.3 nats/token; the next version tells which offsets "
            f"are drawn on no more; champion moved from v000003 to v000001 {MOVED}"
        ),
    ),
    ("2026-11-24T15:00:00Z", "canary moved from no version to v000004 by Ada (epoch 1): a try\\x0aat night"),
]


def told(text: str) -> list[tuple[str, str]]:
    """Split each line into its time and its words."""
    return [(line[:20].strip(), line[22:]) for line in text.splitlines()]


def test_the_log_tells_the_lineage_s_life_in_words(shell: Shell) -> None:
    """One line each in a pipe; a move that carries out a ruling is no second line."""
    assert told(shell("log")) == LINES


def test_the_next_version_tells_what_is_distrusted(shell: Shell, store: Path) -> None:
    lineage = writer(DirectoryStore(store), owner="worker-8")
    lineage.acquire(never)
    fall = rolled_back("v000003", 4, to="v000001")
    commit(lineage, 11, 12, publish=True, judgement=judged(fall), created_at="2026-11-24T16:00:00.000+00:00")

    said = next(words for _, words in told(shell("log")) if words.startswith("ruling 4"))
    assert "; offsets drawn on no more: news 0: 3–5; champion moved" in said
    (entry,) = [each for each in shell.json("log") if each["kind"] == "ruling" and each["number"] == 4]
    assert entry["distrusted"] == {"news": {"0": [3, 6]}}
    shown = " ".join(shell("show", "5").split())
    assert "ruling 4 v000003 rolled back to v000001: worse by 0.3 nats/token" in shown
    assert "drawn on no more news 0: 3–5" in shown


def test_json_has_the_same_entries_with_all_figures(shell: Shell) -> None:
    entries = shell.json("log")

    assert [entry["kind"] for entry in entries] == [
        "version", "move", "ruling", "version", "move", "ruling", "alarm", "version", "move", "ruling", "version",
        "move", "ruling", "move",
    ]  # fmt: skip
    assert entries[0] == {
        "kind": "version", "at": "2026-11-24T09:00:00.000+00:00", "version": "v000001", "parent": None, "epoch": 1,
        "events": 3, "events_since_parent": 3, "tokens": 30, "tokens_since_parent": 30, "live": 3.25, "base": 3.5,
        "gain": 0.25, "champion": None,
    }  # fmt: skip
    assert entries[2] == {
        "kind": "ruling", "number": 1, "decision": "promote", "reason": "better by 0.08 nats/token",
        "evidence": {
            "subject": "v000001", "against": None, "blocks": 24, "chunks": 390, "skipped": 0, "mean": 0.08, "sd": 0.1,
            "bound": 0.08 / 3, "alpha": 0.05, "held_out_rise": 0.002,
        },
        "champion": "v000001", "chunk": 100, "distrusted": {}, "told_by": "v000002",
        "move": {
            "kind": "move", "at": "2026-11-24T10:00:00.000+00:00", "alias": "champion", "by": "worker-7",
            "from_version": None, "to_version": "v000001", "reason": "promote: better by 0.08 nats/token", "epoch": 1,
        },
    }  # fmt: skip
    assert entries[6] == {
        "kind": "alarm", "signal": "live", "chunk": 205, "cut": 198, "rise": 0.4321, "told_by": "v000003",
    }  # fmt: skip
    assert entries[13]["reason"] == "a try\nat night"


@pytest.mark.parametrize(("alias", "places"), [("champion", [2, 9, 12]), ("latest", [1, 4, 8, 11]), ("canary", [13])])
def test_one_alias_s_history_is_its_moves(shell: Shell, alias: str, places: list[int]) -> None:
    assert told(shell("log", "--alias", alias)) == [LINES[place] for place in places]
    assert len(shell.json("log", "--alias", alias)) == len(places)


def test_what_was_champion_last_tuesday(shell: Shell) -> None:
    """The day has as many answers as there were champions; a moment has one."""
    day = shell.json("log", "--at", "2026-11-24", "--alias", "champion")
    assert [span["version"] for span in day] == [None, "v000001", "v000003", "v000001"]
    (noon,) = shell.json("log", "--at", "2026-11-24T13:30:00+01:00", "--alias", "champion")
    assert noon == {
        "alias": "champion", "version": "v000001", "since": "2026-11-24T10:00:00.000+00:00",
        "until": "2026-11-24T13:00:00.000+00:00", "reason": "promote: better by 0.08 nats/token",
    }  # fmt: skip
    rows = [line.split() for line in shell("log", "--at", "2026-11-24T13:30:00Z").splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["canary", "no", "version"],
        ["champion", "v000003", "2026-11-24T13:00:00Z"],
        ["latest", "v000004", "2026-11-24T13:00:00Z"],
    ]


def test_before_anybody_was_promoted_the_base_was_champion(shell: Shell) -> None:
    text = " ".join(shell("log", "--at", "2026-11-23").split())

    assert "champion the base" in text
    assert "latest no version" in text
    assert text.count("it had named no version yet") == 3


def test_a_lineage_without_a_champion_says_who_it_is(shell: Shell, store: Path) -> None:
    """The alias is made with the first promotion."""
    (store / "news/aliases/champion.json").unlink()

    (span,) = [each for each in shell.json("log", "--at", "2026-11-24") if each["alias"] == "champion"]
    assert span == {"alias": "champion", "version": None, "since": None, "until": None, "reason": None}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--at", "Tuesday"], 2, "'Tuesday' is no time; write 2026-11-24, or 2026-11-24T09:30:00Z"),
        (["--alias", "best"], 1, "has no alias 'best'; it has: canary, champion, latest"),
        (["--alias", "../x"], 2, "is no name for an alias"),
        (["--at", "2026-11-24", "--alias", "best"], 1, "has no alias 'best'"),
    ],
)
def test_what_cannot_be_told_is_named(shell: Shell, arguments: list[str], code: int, words: str) -> None:
    assert words in shell("log", *arguments, exits=code)


def test_a_lineage_that_is_not_there_is_an_error(store: Path, shell: Shell) -> None:
    for arguments in ((), ("--at", "2026-11-24")):
        said = shell.bare("log", *arguments, "--store", str(store), "--lineage", "old", exits=1)
        assert "there are: news" in said


def test_a_new_lineage_says_when_there_will_be_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lineage = writer(DirectoryStore(tmp_path / "new"))
    lineage.acquire(never)
    commit(lineage, 0, 1)
    shell = Shell(tmp_path / "new", capsys)

    assert shell.json("log") == []
    assert shell("log") == ""
    with pytest.raises(SystemExit):
        main(["log", "--store", str(tmp_path / "new"), "--lineage", "news"])
    assert "publish.every says when the first version is due" in capsys.readouterr().err


def test_an_alias_without_a_history_says_so(shell: Shell, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new writer touches the alias before anybody is promoted."""
    (store / "news/aliases/champion.json").write_bytes(to_bytes(Alias(name="champion", version=None, epoch=1)))

    assert shell.json("log", "--alias", "champion") == []
    with pytest.raises(SystemExit):
        main(["log", "--alias", "champion", "--store", str(store), "--lineage", "news"])
    assert capsys.readouterr() == ("", "alias 'champion' has never named a version\n")


def test_damage_is_told_and_hides_nothing_else(shell: Shell, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the damaged parts told alone is missing; standard output stays what it is."""
    (store / "news/versions/v000002/manifest.json").write_bytes(b"{")
    (store / "news/aliases/canary.json").write_bytes(b"[]")
    with pytest.raises(SystemExit) as ending:
        main(["log", "--store", str(store), "--lineage", "news", "--json"])
    out, err = capsys.readouterr()

    assert ending.value.code == 0
    assert "version v000002 is left out" in err
    assert "alias 'canary' is left out" in err
    entries = json.loads(out)
    assert [each["version"] for each in entries if each["kind"] == "version"] == ["v000001", "v000003", "v000004"]
    # The alias still tells of what the damaged manifest told.
    assert [each["number"] for each in entries if each["kind"] == "ruling"] == [1, 2, 3, 4]
    assert "canary.json is damaged" in shell("log", "--alias", "canary", exits=1)


def test_a_ruling_that_no_alias_knows_of_is_marked(shell: Shell, store: Path) -> None:
    (store / "news/aliases/champion.json").unlink()

    assert "the history of champion does not know of it" in shell("log")


def test_versions_show_what_was_ruled_about_each(shell: Shell) -> None:
    """Also what only the alias knows yet."""
    rows = {line.split()[0]: line.split() for line in shell("versions").splitlines() if line.startswith("v0")}

    assert "promoted" in rows["v000001"]
    assert "champion" in rows["v000001"]
    assert "held" in rows["v000002"]
    assert {"rolled", "back"} <= set(rows["v000003"])
    # It was; a rollback, of which no manifest tells yet, takes the candidate back as well.
    assert "candidate" not in rows["v000004"]


def test_versions_show_who_is_compared(shell: Shell, store: Path) -> None:
    lineage = writer(DirectoryStore(store), owner="worker-8")
    lineage.acquire(never)
    fall = rolled_back("v000003", 4, to="v000001")
    commit(lineage, 11, 12, publish=True, judgement=judged(fall, candidate=evidence("v000005", "v000001")))

    rows = {line.split()[0]: line.split() for line in shell("versions").splitlines() if line.startswith("v0")}
    assert "candidate" in rows["v000005"]
    assert {"rolled", "back"} <= set(rows["v000003"])


def test_show_tells_how_the_version_stood(shell: Shell) -> None:
    text = " ".join(shell("show", "v000004").split())

    assert "champion then v000003" in text
    assert (
        "candidate v000004 against v000003: 24 blocks, gain +0.0800 nats/token, at least +0.0267 with 95% confidence, "
        "held-out text +0.0020"
    ) in text
    assert "ruling 3 v000003 promoted over v000001: better by 0.08 nats/token" in text
    assert "drift the loss of the live model rose by 0.4321 nats/token" in text
    assert "champion then the base" in " ".join(shell("show", "v000001").split())


def test_in_a_terminal_words_are_folded_beside_the_time(store: Path) -> None:
    """A pipe gets whole lines, for grep; people get lines that they can read."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from streamlearn.cli.app import main; main()",
            "log",
            "--store",
            str(store),
            "--lineage",
            "news",
        ],
        stdout=theirs,
        env={**os.environ, "COLUMNS": "72"},
    )
    os.close(theirs)
    with open(ours, "rb", closefd=True) as screen:  # noqa: PTH123 - a descriptor, not a path
        lines = _until_closed(screen).decode().splitlines()
    assert program.wait(60) == 0

    assert max(map(len, lines)) <= 72
    assert {line[:2] for line in lines} == {"20", "  "}
    assert (
        " ".join(" ".join(lines).split())
        == " ".join(f"{time} {words}" for time, words in LINES).replace("  ", " ").strip()
    )


def _until_closed(screen: BinaryIO) -> bytes:
    found = b""
    while True:
        try:
            part = os.read(screen.fileno(), 65_536)
        except OSError:
            # Linux: the other end was closed.
            return found
        if not part:
            return found
        found += part
