"""What lies on a store may be anything; what is read from it is a document of ours, or `Damaged`."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from streamlearn.core.judgement import Alarm
from streamlearn.core.manifest import (
    Alias,
    AliasMove,
    CheckpointState,
    EventLine,
    FileDigest,
    Head,
    Lease,
    Manifest,
    ScoreLine,
    Totals,
)
from streamlearn.registry.documents import Damaged, from_bytes, to_bytes
from streamlearn.registry.ledger import pack, unpack
from tests.contract.making import draft, evidence, judged, lines, promoted, rolled_back
from tests.fakes.daemon import DIGEST
from tests.fuzz.hostile import DEEP, HUGE, NAMES, as_json, mutations, within

_FILE = FileDigest(sha256=DIGEST, size=7)
_FALLEN = rolled_back("v000003")
_STANDS = judged(
    promoted("v000003"),
    _FALLEN,
    candidate=evidence("v000004"),
    watched=evidence("v000003", "v000001"),
    alarms=(Alarm(signal="base", chunk=90, cut=80, rise=0.5),),
)
_STATE = CheckpointState(
    **dict(draft(3, judgement=_STANDS)),
    lineage="news",
    epoch=2,
    seq=7,
    parent="0000000006-0123456789ab",
    files={"adapter.safetensors": _FILE},
    ledger=_FILE,
    version=4,
    parent_version=3,
    adapter_config="{}",
)
DOCUMENTS: list[BaseModel] = [
    Head(
        lineage="news", epoch=2, checkpoint="0000000007-0123456789ab", version=4, lease=Lease(owner="x", expires_at=1)
    ),
    _STATE,
    Manifest(
        **{name: getattr(_STATE, name) for name in Manifest.model_fields if name in CheckpointState.model_fields}
        | {
            "version": "v000004",
            "parent": "v000003",
            "checkpoint": "0000000007-0123456789ab",
            "since_parent": Totals(),
            "files": {"adapter_config.json": _FILE},
        }
    ),
    Alias(
        name="champion",
        version=None,
        epoch=2,
        history=(
            AliasMove(at="2026-11-24", by="x", from_version=None, to_version="v000003", reason="by hand", epoch=2),
            AliasMove(
                at="2026-11-24T09:00:00.000+00:00",
                by="x",
                from_version="v000003",
                to_version=None,
                reason="roll back: worse",
                epoch=2,
                ruling=2,
                evidence=_FALLEN.evidence,
            ),
        ),
    ),
]
LINE = lines([7])


def read(kind: type[BaseModel], body: bytes) -> BaseModel | None:
    """Return the document, or None where it is told to be damaged in one short printable line."""
    try:
        return from_bytes(kind, "news/x.json", body)
    except Damaged as damage:
        said = str(damage)
        assert said.startswith("news/x.json is damaged")
        assert len(said) < 600
        assert said.replace("…", "").isascii()
        assert said.isprintable()
        return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_document_with_something_wrong_is_told_or_is_another_document(
    document: BaseModel, data: st.DataObject
) -> None:
    """No third thing: what passes can be written again, and reads as the same."""
    changed = data.draw(mutations(json.loads(to_bytes(document))))

    if (found := read(type(document), as_json(changed))) is not None:
        assert from_bytes(type(document), "news/x.json", to_bytes(found)) == found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_bytes_that_were_cut_or_changed_are_told_or_are_a_document(document: BaseModel, data: st.DataObject) -> None:
    body = bytearray(to_bytes(document))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read(type(document), bytes(body[: data.draw(st.integers(0, len(body)))]))


@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_told(body: bytes) -> None:
    assert read(Head, body) is None


BODIES = {
    "deep": DEEP.encode(),
    "deep in a field": b'{"lineage":' + DEEP.encode(),
    "deep and whole": b'{"stream":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "a number without end": b'{"epoch":' + b"9" * 1_000_000 + b"}",
    "a fraction without end": b'{"epoch":1.' + b"9" * 1_000_000 + b"}",
    "beyond any float": b'{"lease":{"owner":"x","expires_at":1e999}}',
    "no number": b'{"lease":{"owner":"x","expires_at":NaN}}',
    "half a character": b'{"lineage":"\\ud800"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"lineage":"news"}'.encode("utf-16"),
    "two documents": b'{"lineage":"news","epoch":1}{"lineage":"news","epoch":1}',
    "a million keys": b'{"a":0,' * 1 + b",".join(b'"%d":0' % n for n in range(200_000)) + b"}",
    "a key without end": b'{"' + b"k" * 5_000_000 + b'":1,"lineage":"news","epoch":1}',
    "a key that a terminal obeys": b'{"\\u001b[2J\\u009b31m\\u202e":1,"lineage":"news","epoch":1}',
}


@pytest.mark.parametrize("kind", [type(document) for document in DOCUMENTS], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_hostile_document_is_told_soon_and_in_one_line(kind: type[BaseModel], body: bytes) -> None:
    """Neither depth nor length of what somebody else wrote ends us, or fills a log."""
    with within(seconds=10, megabytes=60):
        assert read(kind, body) is None


def test_a_document_far_larger_than_any_of_ours_is_not_even_read() -> None:
    """Reading it would take thirty times its size."""
    body = b'"' + b"a" * 65 * 2**20 + b'"'
    with within(seconds=5, megabytes=1):
        assert read(Head, body) is None


@pytest.mark.parametrize("offset", [-1, -2, -1000, 2**63, HUGE])
def test_progress_that_means_an_end_of_the_log_is_refused(offset: int) -> None:
    """To librdkafka -1 is the end: everything up to it would be lost without a word."""
    changed = json.loads(to_bytes(_STATE)) | {"progress": {"news": {"0": offset}}}

    assert read(CheckpointState, as_json(changed)) is None


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_manifest_or_state_cannot_name_a_file_outside(name: str) -> None:
    """Its files become keys of the store, and paths where a version is pulled."""
    if name in {"aux", "CON", "nul.json", "com1"}:
        pytest.skip("keys.py refuses devices; see test_names.py")
    for document in DOCUMENTS:
        if isinstance(document, Manifest | CheckpointState):
            changed: dict[str, Any] = json.loads(to_bytes(document))
            changed["files"][name] = {"sha256": DIGEST, "size": 1}
            assert read(type(document), as_json(changed)) is None


# --- the ledger ---------------------------------------------------------------


def unpacked(body: bytes) -> int | None:
    """Return how many lines there are, None where it is told that something is wrong."""
    try:
        return sum(1 for _ in unpack("news/ledger/x", body))
    except Damaged as damage:
        if not str(damage).startswith("news/ledger/x is no ledger"):
            raise
        return None


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_ledger_lines_with_something_wrong_are_told_or_are_lines(data: st.DataObject) -> None:
    line = json.loads(data.draw(st.sampled_from(LINE)).model_dump_json())
    body = gzip.compress(as_json(data.draw(mutations(line))) + b"\n")

    assert unpacked(body) in {None, 1}


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_ledger_with_a_byte_changed_is_never_silently_another(place: int, value: int) -> None:
    """Beside our own digest, gzip's tells; only what its header does not mean may change."""
    whole = lines(range(9))
    body = bytearray(pack(whole))
    body[place % len(body)] = value
    with contextlib.suppress(Damaged):
        assert list(unpack("news/ledger/x", bytes(body))) == whole


def bomb(piece: bytes, times: int) -> bytes:
    """Return the gzip of `piece` so many times; only the check sum at its very end is missing."""
    press = zlib.compressobj(9, wbits=31)
    first = press.compress(piece) + press.flush(zlib.Z_FULL_FLUSH)
    # Begun anew after a full flush, so that the same bytes may follow for ever.
    return first + (press.compress(piece) + press.flush(zlib.Z_FULL_FLUSH)) * (times - 1)


def test_a_line_that_unpacks_to_a_gigabyte_is_refused_at_its_beginning() -> None:
    """A megabyte on the store; neither the reader's time nor its memory follow what it claims."""
    body = bomb(bytes(2**20), 1_024)
    assert len(body) < 1_200_000

    with within(seconds=2, megabytes=2):
        assert unpacked(body) is None


def test_lines_that_unpack_to_far_more_than_memory_are_read_one_by_one() -> None:
    """Whoever prints a ledger holds a line of it, however many there are."""
    line = LINE[0].model_dump_json().encode() + b"\n"
    body, read_lines = bomb(line * 500, 2_000_000), 0
    assert len(body) < 2**30

    with within(seconds=20, megabytes=2):
        for _ in itertools.islice(unpack("news/ledger/x", body), 10_000):
            read_lines += 1
    assert read_lines == 10_000


@pytest.mark.parametrize(
    "line",
    [
        EventLine(
            id="\x00" * 1_000, topic="t" * 249, partition=2**31 - 1, offset=2**63 - 1, ts=-62135596800.0,
            outcome="dead_letter", chunks=2**31, tokens=2**31, bytes=2**31,
        ),
        ScoreLine(id="🂡" * 1_000, chunk=10**6, tokens=2**31, bytes=2**31, nll=1.7e308, nll_base=-1.7e308),
    ],
)  # fmt: skip
def test_the_longest_line_of_ours_is_read(line: EventLine | ScoreLine) -> None:
    """The bound on a line refuses nothing that ingest lets through."""
    assert list(unpack("key", pack([line]))) == [line]
