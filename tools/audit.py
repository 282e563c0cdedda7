"""Are versions that constraints.txt pins known to be vulnerable? Asks OSV, by way of PyPA's pip-audit.

    python tools/audit.py [--url URL]

A vulnerability fails, unless `audit-accepted.toml` lists it with a reason. A
database that is out of reach fails nothing: it is said in one line, as `make
check` must work on a train. What could not be looked up is never called clean.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
PINS = ROOT / "constraints.txt"
ACCEPTED = ROOT / "tools/audit-accepted.toml"

_OSV = "https://api.osv.dev/v1/query"
_ANSWER_S = 5
"""For one question."""
_WHOLE_S = 120.0
"""For all of them; about a hundred, one after the other."""


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """A pinned version, and what is known of it."""

    package: str
    version: str
    names: tuple[str, ...]
    """Its id and aliases (PYSEC, GHSA, CVE)."""
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        mend = f"take {' or '.join(self.fixed_in)}" if self.fixed_in else "no release mends it yet"
        return f"{self.package} {self.version}: {', '.join(self.names)}; {mend}"


class Unreachable(Exception):
    """The database did not answer; says why in a few words."""


def ask(pins: Path, *, url: str = _OSV, whole_s: float = _WHOLE_S) -> tuple[int, list[Vulnerability]]:
    """Return how many of the pinned versions were looked up, and what is known of them.

    Raises:
        Unreachable: the database does not answer, or not in time.
    """
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps", "--disable-pip",
        "--vulnerability-service", "osv", "--osv-url", url, "--timeout", str(_ANSWER_S),
        "--format", "json", "--progress-spinner", "off",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=whole_s, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise Unreachable(f"no whole answer within {whole_s:g} s") from None
    try:
        # It exits 1 where it found something, and where it died.
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise Unreachable(_in_words(done.stderr, url) or f"pip-audit exits {done.returncode} without a word") from None
    known = [package for package in packages if "vulns" in package]
    if not known:
        raise Unreachable("it knows none of our packages, so that it cannot be the database")
    return len(known), [
        Vulnerability(
            package=str(package["name"]),
            version=str(package["version"]),
            names=(str(each["id"]), *map(str, each["aliases"])),
            fixed_in=tuple(map(str, each["fix_versions"])),
        )
        for package in known
        for each in package["vulns"]
    ]


def _in_words(said: str, url: str) -> str:
    """Return what pip-audit's traceback comes down to."""
    if causes := re.findall(r"(\w*(?:Error|Timeout))\(", said):
        return f"{urlsplit(url).hostname} does not answer ({causes[-1]})"
    return said.strip().rpartition("\n")[2][:200]


def accepted(file: Path) -> dict[str, str]:
    """Return id -> reason of the vulnerabilities that are lived with.

    Raises:
        SystemExit: an entry gives no reason.
    """
    entries: Mapping[str, Any] = tomllib.loads(file.read_text("utf-8")) if file.exists() else {}
    for name, reason in entries.items():
        if not isinstance(reason, str) or not reason.strip():
            raise SystemExit(f"audit: {file.name}: {name} has no reason; say why it does not reach us")
    return dict(entries)


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit, say what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=_OSV, help="of another OSV database (default: %(default)s)")
    parser.add_argument("--pins", type=Path, default=PINS, help=argparse.SUPPRESS)
    parser.add_argument("--accepted", type=Path, default=ACCEPTED, help=argparse.SUPPRESS)
    told = parser.parse_args(arguments)
    reasons = accepted(told.accepted)
    try:
        count, found = ask(told.pins, url=told.url)
    except Unreachable as why:
        _say(f"pins were not audited, going on: {why}")
        return 0
    open_ = [each for each in found if not reasons.keys() & set(each.names)]
    for each in found:
        for name in reasons.keys() & set(each.names):
            _say(f"accepted: {each} ({reasons[name]})")
    for name in sorted(reasons.keys() - {name for each in found for name in each.names}):
        _say(f"{name} is accepted but no longer found: remove it from {told.accepted.name}")
    for each in open_:
        _say(f"VULNERABLE {each}")
    if open_:
        _say(f"raise the pins, or accept each with a reason in {told.accepted.name}")
    elif not found:
        _say(f"nothing is known against {count} pinned versions")
    return 1 if open_ else 0


def _say(text: str) -> None:
    sys.stdout.write(f"audit: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
