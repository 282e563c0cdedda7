"""The audit of pinned dependencies, against a database of our own: PyPA's real pip-audit asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools import audit

KNOWN = {
    "id": "GHSA-xxxx-yyyy-zzzz",
    "aliases": ["CVE-2099-0001"],
    "summary": "it does what it should not",
    "details": "",
    "modified": "2099-01-01T00:00:00Z",
    "published": "2099-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "six", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.99.0"}]}],
            "versions": ["1.17.0"],
        }
    ],
}


class Database(BaseHTTPRequestHandler):
    """Knows one vulnerability, of six 1.17.0."""

    def do_POST(self) -> None:
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"vulns": [KNOWN]} if asked["package"]["name"] == "six" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Database)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def audited(url: str, pins: str, accepted: str = "") -> tuple[int, str]:
        (tmp_path / "pins.txt").write_text(pins)
        (tmp_path / "accepted.toml").write_text(accepted)
        files = ["--pins", str(tmp_path / "pins.txt"), "--accepted", str(tmp_path / "accepted.toml")]
        code = audit.main(["--url", url, *files])
        return code, capsys.readouterr().out

    return audited


def test_a_vulnerable_pin_fails_and_says_what_to_take(url: str, run: Any) -> None:
    code, said = run(url, "six==1.17.0\nidna==3.20\n")

    assert code == 1
    assert "VULNERABLE six 1.17.0: CVE-2099-0001, GHSA-xxxx-yyyy-zzzz; take 1.99.0" in said


@pytest.mark.parametrize("name", ["GHSA-xxxx-yyyy-zzzz", "CVE-2099-0001"])
def test_one_that_does_not_reach_us_is_accepted_with_its_reason(url: str, run: Any, name: str) -> None:
    code, said = run(url, "six==1.17.0\n", f'"{name}" = "we never call it"\n')

    assert code == 0
    assert "we never call it" in said


def test_a_reason_is_needed(url: str, run: Any) -> None:
    with pytest.raises(SystemExit, match="has no reason"):
        run(url, "six==1.17.0\n", 'CVE-2099-0001 = ""\n')


def test_an_acceptance_that_has_become_idle_is_named(url: str, run: Any) -> None:
    """The list does not grow for ever."""
    code, said = run(url, "idna==3.20\n", 'CVE-2000-1 = "an old one"\n')

    assert code == 0
    assert "CVE-2000-1 is accepted but no longer found" in said
    assert "nothing is known against 1 pinned versions" in said


def test_a_database_out_of_reach_is_said_in_one_line_and_fails_nothing(run: Any) -> None:
    """`make check` works on a train, and does not say that all is well."""
    code, said = run("http://127.0.0.1:9/v1/query", "six==1.17.0\n")

    assert code == 0
    assert said == "audit: pins were not audited, going on: 127.0.0.1 does not answer (NewConnectionError)\n"


def test_all_that_is_pinned_can_be_asked_about(url: str) -> None:
    """A line of constraints.txt that pip-audit does not understand would end the audit."""
    count, found = audit.ask(audit.PINS, url=url)

    assert count == sum("==" in line for line in audit.PINS.read_text("utf-8").splitlines())
    assert [each.package for each in found] == ["six"]


def test_every_acceptance_in_use_has_a_reason() -> None:
    assert all(audit.accepted(audit.ACCEPTED).values())
