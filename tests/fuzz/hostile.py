"""Hostile values, and valid documents with something wrong in them.

Random bytes rarely come past the first check; so what is valid is taken, and
a field of it dropped, doubled, renamed or given another type, depth or size.
"""

from __future__ import annotations

import copy
import json
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st

HUGE = 10**400
DEEP = "[" * 100_000

LEAVES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    HUGE,
    1e308,
    -0.0,
    0.5,
    "",
    " ",
    "\x00",
    "\x1b[2J\x9b31m",
    "../../etc/passwd",
    "v000001",
    "ﷺ" * 100,
    "a" * 10_000,
    "1" * 5_000,
    [],
    {},
    [[]],
    {"": {}},
)
"""Values that a field may be given in place of its own."""

NAMES = {
    "empty": "",
    "parent": "..",
    "out of its folder": "../other",
    "out of a folder within": "a/../../b",
    "absolute": "/etc/passwd",
    "two parts": "a/b",
    "backslash": "a\\b",
    "hidden": ".ssh",
    "an option": "-rf",
    "NUL": "a\x00b",
    "line end": "a\n",
    "carriage return": "a\rb",
    "escape": "\x1b[31mred",
    "delete": "a\x7f",
    "C1 control": "a\x9bb",
    "10 kB": "a" * 10_240,
    "blank": " ",
    "trailing blank": "a ",
    "trailing dot": "a.",
    "only dots": "...",
    "a device": "aux",
    "a device in capitals": "CON",
    "a device with an extension": "nul.json",
    "a numbered device": "com1",
    "Cyrillic a": "l\u0430test",
    "full width": "ｌａｔｅｓｔ",
    "full-width dots": "\uff0e\uff0e",
    "one dot leader": "\u2024\u2024",
    "division slash": "a\u2215b",
    "right to left": "a\u202egpj.exe",
    "zero width": "late\u200bst",
    "combining": "late\u0301st",
    "lone surrogate": "a\ud800",
    "percent": "%2e%2e%2fetc",
    "URL": "s3://elsewhere",
    "wildcard": "*",
    "shell": "$(reboot)",
}
"""What must never become a part of a key or a path."""


def mutations(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of copies of `document` with one to three things wrong."""
    return st.lists(st.tuples(st.randoms(use_true_random=False), st.sampled_from(LEAVES)), min_size=1, max_size=3).map(
        lambda changes: _changed(document, changes)
    )


def _changed(document: dict[str, Any], changes: list[tuple[Any, Any]]) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    for random, leaf in changes:
        path = random.choice(list(_places(changed)) or [()])
        if not path:
            continue
        table: Any = changed
        for part in path[:-1]:
            table = table[part]
        _harm(table, path[-1], leaf, random)
    return changed


def _harm(table: Any, key: Any, leaf: Any, random: Any) -> None:
    match random.randrange(5):
        case 0:
            del table[key]
        case 1 if isinstance(table, dict):
            table[str(leaf)[:2_000]] = table.pop(key)
        case 2 if isinstance(table, dict):
            table[f"{key}_"] = table[key]
        case 3:
            table[key] = [table[key]]
        case _:
            table[key] = copy.deepcopy(leaf)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in `value`."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from _places(below, (*path, key))


def as_json(document: Any) -> bytes:
    """Return `document` as it could stand on a store; numbers of any length, as JSON has no bound."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


@contextmanager
def within(*, seconds: float, megabytes: float | None = None) -> Iterator[None]:
    """Fail where the block takes longer, or more memory of Python's at any one time.

    The time is CPU time of this thread, so that a busy machine changes nothing.
    """
    if megabytes is not None:
        tracemalloc.start()
    began = time.thread_time()
    try:
        yield
        took = time.thread_time() - began
        peak = tracemalloc.get_traced_memory()[1] / 1e6 if megabytes is not None else 0.0
    finally:
        if megabytes is not None:
            tracemalloc.stop()
    assert took <= seconds, f"took {took:.1f} s of CPU time, above {seconds:g}"
    assert peak <= (megabytes or 0.0), f"took {peak:.1f} MB, above {megabytes}"
