"""Documents are the same bytes for the same content, and are told when they are damaged."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.manifest import CheckpointState, FileDigest, Head, Lease
from streamlearn.registry.checkpoints import checkpoint_id
from streamlearn.registry.documents import Damaged, digest_of, from_bytes, to_bytes, verified
from tests.contract.making import draft
from tests.fakes.daemon import DIGEST


def state(note: str = "", seq: int = 7) -> CheckpointState:
    return CheckpointState(
        **dict(draft(3, note)),
        lineage="news",
        epoch=1,
        seq=seq,
        parent=None,
        files={"b": FileDigest(sha256=DIGEST, size=1), "a": FileDigest(sha256=DIGEST, size=2)},
        ledger=FileDigest(sha256=DIGEST, size=0),
    )


def test_equal_documents_are_equal_bytes_whatever_their_order() -> None:
    """Digests of documents are compared across processes."""
    one = state()
    other = one.model_copy(update={"files": dict(reversed(one.files.items()))})

    assert to_bytes(one) == to_bytes(other)
    assert json.loads(to_bytes(one))["progress"] == {"news": {"0": 3}}


@given(
    epoch=st.integers(1, 2**53),
    owner=st.text(st.characters(exclude_categories=["Cs"])),
    expires=st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_document_survives_its_bytes(epoch: int, owner: str, expires: float) -> None:
    head = Head(lineage="news", epoch=epoch, lease=Lease(owner=owner, expires_at=expires))

    assert from_bytes(Head, "news/head.json", to_bytes(head)) == head
    assert to_bytes(from_bytes(Head, "news/head.json", to_bytes(head))) == to_bytes(head)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "document"),
        (b'{"lineage": "news", "epoch": 1', "document"),
        (b"\xff\xfe", "document"),
        (b"[]", "document"),
        (b'{"lineage":"news","epoch":0}', "epoch"),
        (b'{"lineage":"news","epoch":1,"schema_number":2}', "schema_number"),
        (b'{"lineage":"news","epoch":1,"surprise":true}', "surprise"),
        (b'{"lineage":"news","epoch":1,"checkpoint":"../../etc"}', "checkpoint"),
    ],
)
def test_what_is_no_document_names_the_key_and_the_first_fault(body: bytes, words: str) -> None:
    with pytest.raises(Damaged, match=f"news/head.json is damaged or of another release: {words}"):
        from_bytes(Head, "news/head.json", body)


def test_altered_bytes_are_told_with_both_digests() -> None:
    expected = digest_of(b"adapter")

    assert verified("key", b"adapter", expected) == b"adapter"
    for body in (b"adapteR", b"", b"adapter "):
        with pytest.raises(Damaged, match=rf"key is damaged: expected sha256 {expected.sha256} \(7 bytes\), found"):
            verified("key", body, expected)


def test_a_checkpoint_s_name_follows_from_its_state() -> None:
    """So that two writers cannot give one name to two states."""
    assert checkpoint_id(state("one")) == checkpoint_id(state("one"))
    assert checkpoint_id(state("one")) != checkpoint_id(state("two"))
    assert checkpoint_id(state(seq=42)).startswith("0000000042-")


def test_a_number_that_is_none_is_refused_rather_than_stored_as_null() -> None:
    """It would be found out at the next restart, which could not begin."""
    with pytest.raises(ValueError, match="JSON compliant"):
        to_bytes(state().model_copy(update={"stream": {"mean": float("nan")}}))
