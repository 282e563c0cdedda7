"""`streamlearn produce`, from the command line into a broker's topic and back."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlearn.cli.app import main
from streamlearn.cli.feed import OldRecords
from streamlearn.cli.meter import Meter
from streamlearn.demo.broker import embedded_broker
from streamlearn.ingest.probe import Contact
from tests.unit.ingest_tools.conftest import messages

STREAMLEARN = [sys.executable, "-c", "from streamlearn.cli.app import main; main()"]
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with embedded_broker() as address:
        yield address


class Shell:
    """Runs `produce` in this process, into a topic of its own."""

    def __init__(self, broker: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.broker = broker
        self.topic = f"t-{uuid.uuid4().hex[:8]}"
        self.to = ["--bootstrap-servers", broker, "--topic", self.topic]
        self._capsys = capsys

    def __call__(self, *arguments: str, exits: int = 0) -> tuple[str, str]:
        """Return standard output and standard error."""
        with pytest.raises(SystemExit) as ending:
            main(["produce", *arguments])
        said = self._capsys.readouterr()
        assert ending.value.code == exits, said.err
        return said.out, said.err

    def sent(self, count: int) -> list[tuple[bytes | None, bytes | None, int]]:
        """Return (value, key, time stamp in ms) of what is in partition 0."""
        found = messages(self.broker, self.topic, 0, count)
        return [(m.value(), m.key(), m.timestamp()[1]) for m in found]


@pytest.fixture
def shell(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(broker, capsys)


def rows(count: int, name: str = "rows.jsonl") -> str:
    Path(name).write_text("".join(json.dumps({"ts": 1_700_000_000 + n, "id": f"e{n}"}) + "\n" for n in range(count)))
    return name


def test_every_line_arrives_with_its_event_time(shell: Shell) -> None:
    out, _ = shell(rows(100), *shell.to, "--partition", "0", "--key", "id")
    assert shell.sent(100) == [
        (json.dumps({"ts": 1_700_000_000 + n, "id": f"e{n}"}).encode(), f"e{n}".encode(), (1_700_000_000 + n) * 1000)
        for n in range(100)
    ]
    assert re.search(r"100 records \(3\.\d kB\) of rows\.jsonl sent to topic .* all acknowledged", out)


def test_json_is_one_object_with_the_figures(shell: Shell) -> None:
    name = rows(10)
    out, _ = shell(name, *shell.to, "--limit", "4", "--json")
    document = json.loads(out)
    assert document.pop("seconds") >= 0
    size = sum(len(line) for line in Path(name).read_bytes().splitlines()[:4])
    assert document == {"file": name, "topic": shell.topic, "records": 4, "bytes": size, "acknowledged": 4}


def test_brokers_security_topic_and_time_field_come_from_the_configuration(shell: Shell) -> None:
    """A JSON stream is fed by the file that the worker reads it with."""
    Path("streamlearn.toml").write_text(
        f'[stream]\nname = "n"\n[kafka]\nbootstrap_servers = "{shell.broker}"\ntopics = ["{shell.topic}"]\n'
        '[kafka.client]\n"security.protocol" = "plaintext"\n"fetch.min.bytes" = 1\n"fetch.wait.max.ms" = 100\n'
        '[ingest.fields]\nts = "meta.at"\n[store]\nurl = "s"\n[model]\nname = "m"\n'
    )
    Path("f").write_text('{"meta": {"at": "2020-01-01"}, "ts": 5}\n')
    shell("f", "--partition", "0")
    assert [ts for *_, ts in shell.sent(1)] == [1_577_836_800_000]


def test_no_ts_leaves_the_time_of_writing(shell: Shell) -> None:
    """For topics that delete what is old by its own time stamp."""
    began = time.time()
    shell(rows(1), *shell.to, "--partition", "0", "--no-ts")
    assert shell.sent(1)[0][2] >= int(began * 1000)


def test_standard_input_may_be_gzip(shell: Shell) -> None:
    done = subprocess.run(
        [*STREAMLEARN, "produce", "-", *shell.to, "--partition", "0", "--json"],
        input=gzip.compress(b"one\ntwo\n"),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["acknowledged"] == 2
    assert [value for value, *_ in shell.sent(2)] == [b"one", b"two"]


def test_a_rate_is_kept(shell: Shell) -> None:
    out, _ = shell(rows(11), *shell.to, "--rate", "20/s", "--json")
    assert 0.5 <= json.loads(out)["seconds"] < 5.0


def test_pacing_follows_the_events_own_time(shell: Shell) -> None:
    out, _ = shell(rows(7), *shell.to, "--pace", "ts", "--speed-up", "10", "--json")
    assert 0.6 <= json.loads(out)["seconds"] < 5.0


def test_a_line_without_time_stamp_stops_pacing_with_what_was_sent_safe(shell: Shell) -> None:
    Path("f").write_text('{"ts": 1}\n\n{"text": "x"}\n{"ts": 2}\n')
    out, err = shell("f", *shell.to, "--pace", "ts", "--json", exits=1)
    assert "line 3 has no time stamp to keep pace with" in err
    assert "--pace" in err
    assert (json.loads(out)["records"], json.loads(out)["acknowledged"]) == (1, 1)


def test_blank_lines_are_left_out_and_said(shell: Shell) -> None:
    Path("f").write_text("a\n\nb\n")
    out, _ = shell("f", *shell.to)
    assert "1 blank line left out" in out


def test_a_record_that_is_refused_is_no_silent_loss(shell: Shell) -> None:
    Path("f").write_text("a\n" + "x" * 2_000_000 + "\nb\n")
    out, err = shell("f", *shell.to, "--json", exits=1)
    assert (json.loads(out)["records"], json.loads(out)["acknowledged"]) == (3, 2)
    assert "1 of 3 records was not acknowledged (line 2: " in err


def test_a_missing_file_is_said_before_brokers_are_looked_for(shell: Shell) -> None:
    _, err = shell("gone", "--bootstrap-servers", "127.0.0.1:1", "--topic", "t", exits=2)
    assert "cannot read gone" in err


def test_a_name_that_is_not_bundled_is_refused(shell: Shell) -> None:
    _, err = shell("bundled:nope", *shell.to, exits=2)
    assert "there is bundled:changelogs" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "which brokers?"),
        (["--bootstrap-servers", "b:1"], "needs --topic NAME"),
        (["--bootstrap-servers", "b:1", "--topic", "t", "-c", "x.toml"], "both name brokers"),
        (["--bootstrap-servers", "b:1", "--topic", "t", "--rate", "3", "--pace", "ts"], "both say how fast"),
        (["--bootstrap-servers", "b:1", "--topic", "t", "--ts", "a", "--no-ts"], "contradict"),
        (["-c", "two.toml"], "kafka.topics = ['a', 'b'] is not one name: give --topic NAME"),
        (["-c", "pattern.toml"], "is not one name"),
        (["-c", "gone.toml"], "cannot read gone.toml"),
    ],
)
def test_what_is_not_clear_is_asked_for(shell: Shell, arguments: list[str], words: str) -> None:
    for name, topics in (("two", '"a", "b"'), ("pattern", '"^a"')):
        Path(f"{name}.toml").write_text(
            f'[stream]\nname = "n"\n[kafka]\nbootstrap_servers = "b:1"\ntopics = [{topics}]\n'
            '[store]\nurl = "s"\n[model]\nname = "m"\n'
        )
    _, err = shell(rows(1), *arguments, exits=2)
    assert words in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_feed_flushes_and_says_how_far_it_got(shell: Shell, number: int, code: int) -> None:
    name = rows(10_000)
    process = subprocess.Popen(
        [*STREAMLEARN, "produce", name, *shell.to, "--partition", "0", "--rate", "200/s", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert shell.sent(20), "nothing was sent"
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    document = json.loads(out)
    assert process.returncode == code, err
    assert 0 < document["records"] == document["acknowledged"] < 10_000
    assert "Traceback" not in err
    assert len(shell.sent(document["records"])) == document["records"]


def test_a_feed_that_waits_for_input_can_be_interrupted(shell: Shell) -> None:
    process = subprocess.Popen(
        [*STREAMLEARN, "produce", "-", *shell.to, "--partition", "0", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert shell.sent(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["acknowledged"] == 1
    finally:
        process.kill()
        process.communicate()


class FakeRetention:
    """A topic that keeps records for so many seconds."""

    def __init__(self, kept: float | None) -> None:
        self.kept = kept

    def seconds(self, wait_s: float = 0.0) -> float | None:
        return self.kept


@pytest.mark.parametrize(
    ("age_s", "kept", "warned"), [(10_000, 7_200.0, True), (10_000, 20_000.0, False), (10_000, None, False)]
)
def test_events_older_than_the_topic_keeps_them_are_warned_of_once(
    age_s: float, kept: float | None, warned: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker deletes by the records' own time stamps: twenty years of release notes are gone within minutes."""
    monkeypatch.setattr("streamlearn.cli.feed.Retention", lambda *_: FakeRetention(kept))
    old = OldRecords(Contact("b:1"), "news", Meter("x"))
    now = time.time()
    for ts in (now, now - age_s, now - age_s - 1):
        old.note(ts)
    old.warn(0.5)
    err = capsys.readouterr().err
    assert err.count("topic news keeps records for 2 hours of their own time") == int(warned)


def test_a_plain_line_is_shown_now_and_then_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([0.0, 1.0, 11.0, 12.0, 22.0])
    monkeypatch.setattr("streamlearn.cli.meter.time", type("Clock", (), {"monotonic": lambda: next(moments)}))
    meter = Meter("f → t")
    for count in (1, 110, 120, 440):
        meter.update(count / 1000, count, count - 10)
    assert capsys.readouterr().err.splitlines() == [
        "f → t:  11% 110 sent, 100 acknowledged, 9/s, 11 s",
        "f → t:  44% 440 sent, 430 acknowledged, 20/s, 22 s",
    ]


def test_help_is_not_kept_waiting_by_librdkafka() -> None:
    code = (
        "import sys\nfrom streamlearn.cli.app import main\n"
        "try: main(['produce', '--help'])\nexcept SystemExit: pass\n"
        "assert 'confluent_kafka' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
