"""What reaches standard error, and what never does."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
import structlog

from streamlearn.telemetry import logs

SECRET = "hun'ter2&ü"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Logging is the process's; what a test does to it ends with the test."""
    root, ours = logging.getLogger(), logging.getLogger("streamlearn")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    hooks = sys.excepthook, threading.excepthook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Unwritable:
    """An object whose own words fail, and tell."""

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


def lines(capture: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capture.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_an_event_is_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Fields that every log pipeline reads, in UTC."""
    logs.configure("info", "json")

    structlog.get_logger("streamlearn.daemon").info("checkpoint committed", seq=3, seconds=0.25)

    (line,) = lines(capsys)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "streamlearn.daemon",
        "event": "checkpoint committed",
        "seq": 3,
        "seconds": 0.25,
    }


def test_what_is_below_the_level_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json")

    structlog.get_logger("streamlearn.daemon").info("quiet")
    structlog.get_logger("streamlearn.daemon").warning("loud")
    logging.getLogger("streamlearn.ingest.librdkafka").info("quiet")

    assert [line["event"] for line in lines(capsys)] == ["loud"]


@pytest.mark.parametrize(
    ("level", "heard"),
    [("debug", ["info", "warning", "error"]), ("info", ["warning", "error"]), ("error", ["error"])],
)
def test_libraries_are_heard_only_when_it_matters(
    level: logs.Level, heard: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """At debug, botocore and urllib3 write whole requests."""
    logs.configure(level, "json")

    library = logging.getLogger("urllib3.connectionpool")
    for say in (library.debug, library.info, library.warning, library.error):
        say("a line of %s", "urllib3")

    found = lines(capsys)
    assert [line["level"] for line in found] == heard
    assert {line["event"] for line in found} == {"a line of urllib3"}


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_secret_is_written_wherever_it_is(style: logs.Format, capsys: pytest.CaptureFixture[str]) -> None:
    """Logs are copied to places that secrets must not reach."""
    logs.configure("info", style, {SECRET, "12345678", ""})
    log = structlog.get_logger("streamlearn.test")

    log.info(f"event {SECRET}", text=SECRET, number=12345678, **{f"key {SECRET}": 1})
    log.info("nested", value={"a": [{SECRET: (SECRET.encode(), {SECRET})}], "b": Exception(SECRET)})
    log.info("written", value=[ValueError(SECRET)], url="http://me:hun%27ter2%26%C3%BC@host/", quoted=repr([SECRET]))
    log.info("odd", value=Unwritable())
    try:
        raise ValueError(f"refused {SECRET}")
    except ValueError:
        log.exception("failed")
    logging.getLogger("botocore").warning("sent %s", SECRET, extra={"authorization": SECRET})
    logging.getLogger("botocore").warning("sent %d", SECRET)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"deprecated {SECRET}", stacklevel=1)

    said = capsys.readouterr().err
    for form in (SECRET, "hun", "ter2", "12345678"):
        assert form not in said
    assert said.count("***") >= 12
    assert "refused ***" in said
    assert "deprecated ***" in said


def test_a_longer_secret_is_masked_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Of `user:password`, the password must not stay because the user was masked first."""
    logs.configure("info", "json", ["me", "me:pa"])

    structlog.get_logger("streamlearn").info("x", auth="me:pa")

    assert lines(capsys)[0]["auth"] == "***"


def test_a_secret_is_masked_however_it_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    """Objects are written by their `repr`, requests as JSON or as an address."""
    secret = 'back\\slash "q" ü'
    logs.configure("info", "json", [secret])

    structlog.get_logger("streamlearn").info(
        "x",
        python=Exception([secret]),
        json=json.dumps({"k": secret}),
        unicode=json.dumps({"k": secret}, ensure_ascii=False),
        address=f"?k={quote(secret, safe='')}&l={quote_plus(secret)}",
    )

    (line,) = lines(capsys)
    assert line["python"] == "['***']"
    assert line["json"] == line["unicode"] == '{"k": "***"}'
    assert line["address"] == "?k=***&l=***"


def test_without_secrets_nothing_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json", [""])

    structlog.get_logger("streamlearn").info("x", text="all of it")

    assert lines(capsys)[0]["text"] == "all of it"


def test_an_exception_is_a_text_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Log pipelines cut at line ends."""
    logs.configure("info", "json")

    try:
        raise ValueError("no such topic")
    except ValueError:
        structlog.get_logger("streamlearn").exception("failed")

    (line,) = lines(capsys)
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: no such topic")


def test_weird_values_are_written_somehow(capsys: pytest.CaptureFixture[str]) -> None:
    """A log line is not worth a worker."""
    logs.configure("info", "json")
    cycle: list[Any] = []
    cycle.append(cycle)

    structlog.get_logger("streamlearn").info(
        "weird",
        nan=float("nan"),
        float32=np.float32(0.5),
        int64=np.int64(3),
        huge=10**5000,
        surrogate="\udc80",
        cycle=cycle,
        keys={(1, 2): 3},
        unwritable=Unwritable(),
        level="mine",
        time="mine",
    )

    (line,) = lines(capsys)
    assert (line["nan"], line["float32"], line["int64"]) == ("nan", 0.5, 3)
    assert line["keys"] == {"(1, 2)": 3}
    assert line["unwritable"] == "<Unwritable that cannot be written>"
    assert line["level"] == "info"
    assert line["time"] != "mine"


def test_a_closed_standard_error_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of a pipe may go away while the worker learns."""
    logs.configure("info", "json")
    closed = io.StringIO()
    closed.close()
    for gone in (closed, None):
        monkeypatch.setattr(sys, "stderr", gone)
        structlog.get_logger("streamlearn").info("to nobody")


def test_standard_error_may_be_replaced_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A live view on the terminal takes it over for a while."""
    logs.configure("info", "json")
    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stderr", replaced)

    structlog.get_logger("streamlearn").info("hello")

    assert '"hello"' in replaced.getvalue()


def test_a_pipe_gets_json_and_a_terminal_a_readable_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("info", "auto")
    structlog.get_logger("streamlearn").info("to a pipe")
    assert lines(capsys)[0]["event"] == "to a pipe"

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    logs.configure("info", "auto")
    structlog.get_logger("streamlearn").info("to a person", seq=3)
    assert "\x1b[" in terminal.getvalue()
    assert "to a person" in terminal.getvalue()


def test_a_pipe_never_gets_colours(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the readable form is asked for, or a stream's text brings its own."""
    logs.configure("info", "console")

    structlog.get_logger("streamlearn").warning("to a file", seq=3, text="\x1b[31mred")

    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "seq=3" in said


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_may_want_no_colours(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    logs.configure("info", "auto")

    structlog.get_logger("streamlearn").warning("plain")

    assert "\x1b" not in terminal.getvalue()
    assert "plain" in terminal.getvalue()


def test_a_library_that_logs_its_own_way_is_taken_over(capsys: pytest.CaptureFixture[str]) -> None:
    """Transformers puts up a handler of its own at import."""
    logs.configure("info", "json")
    library = logging.getLogger("some_library")
    library.addHandler(logging.StreamHandler())
    library.propagate = False

    logs.route_libraries()
    logging.getLogger("some_library.part").warning("hello")

    assert [line["event"] for line in lines(capsys)] == ["hello"]


def test_configuring_twice_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logs.configure("info", "json")

    structlog.get_logger("streamlearn").info("once")

    assert len(lines(capsys)) == 1


def test_what_nobody_catches_is_logged(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last words of a process are a line like any other, without secrets."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    logs.configure("info", "json", [SECRET])

    try:
        raise RuntimeError(SECRET)
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, error.__traceback__)

    def fail() -> None:
        raise RuntimeError(SECRET)

    thread = threading.Thread(target=fail, name="publisher")
    thread.start()
    thread.join()

    main, other = lines(capsys)
    assert main["exception"].endswith("RuntimeError: ***")
    assert (other["thread"], other["exception"].rpartition("\n")[2]) == ("publisher", "RuntimeError: ***")


def test_a_hook_of_somebody_else_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test runner or a debugger wants to see exceptions itself."""
    calls: list[str] = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: calls.append("theirs"))
    logs.configure("info", "json")

    sys.excepthook(RuntimeError, RuntimeError(), None)

    assert calls == ["theirs"]
