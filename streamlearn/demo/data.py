"""The streams that come with the package."""

from __future__ import annotations

from pathlib import Path

PREFIX = "bundled:"

_FILES = {"changelogs": "changelogs.jsonl.gz"}


def resolve(name: str) -> Path:
    """Return the file that `name` means: a bundled stream (`bundled:changelogs`) or a path as it is.

    Raises:
        ValueError: no such stream is bundled; names those that are.
    """
    if not name.startswith(PREFIX):
        return Path(name)
    stream = name.removeprefix(PREFIX)
    if stream not in _FILES:
        known = ", ".join(PREFIX + known for known in _FILES)
        raise ValueError(f"{name} is not bundled; there is {known}, or give a file")
    return Path(__file__).with_name("data") / _FILES[stream]
