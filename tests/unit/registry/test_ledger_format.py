"""The ledger's lines come back as they were, and nothing else is taken for one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.events import Outcome
from streamlearn.core.manifest import EventLine, ScoreLine
from streamlearn.registry.documents import Damaged
from streamlearn.registry.ledger import pack, unpack
from tests.contract.making import lines

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
EVENTS = st.builds(
    EventLine,
    id=NAMES,
    topic=NAMES,
    partition=st.integers(0, 99),
    offset=st.integers(0, 2**63 - 1),
    ts=st.floats(0, 4e9),
    outcome=st.sampled_from(Outcome),
)
SCORES = st.builds(
    ScoreLine,
    id=NAMES,
    chunk=st.integers(0, 9),
    tokens=st.integers(1, 256),
    bytes=st.integers(1, 999),
    nll=st.none() | st.floats(0, 1e4),
    flushed=st.booleans(),
)


@given(st.lists(EVENTS | SCORES, max_size=20))
def test_lines_come_back_in_order(found: list[EventLine | ScoreLine]) -> None:
    """Line ends within an id are the id's."""
    assert list(unpack("key", pack(found))) == found


def test_equal_lines_are_equal_bytes() -> None:
    """The object's digest is part of the state that names the checkpoint."""
    assert pack(lines(range(50))) == pack(lines(range(50)))


def test_the_object_is_what_zcat_shows() -> None:
    """One JSON object a line, for tools that know nothing of us."""
    shown = gzip.decompress(pack(lines([7]))).decode().splitlines()

    assert [json.loads(line)["kind"] for line in shown] == ["event", "score"]
    assert json.loads(shown[0])["outcome"] == "admitted"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda body: body[:-9],
    "altered": lambda body: body[:30] + bytes([body[30] ^ 0xFF]) + body[31:],
    "no gzip": gzip.decompress,
    "another kind": lambda body: gzip.compress(gzip.decompress(body).replace(b'"event"', b'"rumour"')),
    "half a line": lambda body: gzip.compress(gzip.decompress(body)[:-9]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_is_no_ledger_names_the_key(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(Damaged, match="news/ledger/x is no ledger"):
        list(unpack("news/ledger/x", damage(pack(lines(range(9))))))
