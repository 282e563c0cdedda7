"""`window.safetensors` may be anything: its digest proves who wrote it to nobody."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlearn.core.arrays import Arrays, from_bytes, to_bytes, unpack
from streamlearn.core.batches import StepPlan
from streamlearn.core.near_duplicates import signature
from streamlearn.core.stream import StreamState
from streamlearn.core.vigilance import VigilanceSettings
from tests.fuzz.hostile import mutations, within
from tests.unit.core import making
from tests.unit.core.judging import CAPS, DRIFT, JUNK, REACTION
from tests.unit.core.making import arrival

WHAT_OTHERS_RAISE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What the daemon turns into one clear line where a checkpoint's state is restored."""


SETTINGS = making.settings(
    step_chunks=4,
    vigilance=VigilanceSettings(junk=JUNK, drift=DRIFT, reaction=REACTION),
    caps=CAPS,
    near_duplicates=True,
)


def learnt(events: int = 13) -> StreamState:
    """Return a stream with something in every part of its state."""
    stream = StreamState(SETTINGS)
    stream.rehearse([making.chunk(901), making.chunk(902, 5)])
    for offset in range(events):
        text = signature(" ".join(f"{offset} {place}" for place in range(20)))
        stream.admit(replace(arrival(offset, chunks=1 + offset % 3), signature=text))
        while batch := stream.next_batch(flush=False):
            nll = [1.0 + (offset * 37 % 11) / 10] * len(batch.draws)
            stream.record(batch, StepPlan(learning_rate=0.1), making.result_of(nll), [1.0] * len(batch.sampled))
    return stream


STREAM = learnt()
ARRAYS = to_bytes(STREAM.arrays())
DOCUMENT = json.loads(json.dumps(STREAM.document()))


def file(header: Any, data: bytes = b"") -> bytes:
    """Return a safetensors file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(dtype: str, shape: list[int], data: bytes = b"", **more: Any) -> bytes:
    return file({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)], **more}}, data)


FILES = {
    "empty": b"",
    "half a length": b"\x00" * 7,
    "a header larger than memory": struct.pack("<Q", 2**63) + b"{}",
    "a header larger than allowed": struct.pack("<Q", 100_000_001) + b"{}",
    "a header larger than the file": struct.pack("<Q", 1_000) + b"{}",
    "a shape beyond 64 bits": one("F32", [2**63, 4]),
    "a shape that comes round to nothing": one("F32", [2**32, 2**32]),
    "endless and empty": one("F32", [2**62, 0]),
    "a thousand dimensions": one("U8", [1] * 1_000, b"1"),
    "a negative dimension": one("U8", [-1], b"1"),
    "offsets that go back": one("F32", [2], data_offsets=[8, 0]),
    "offsets behind the end": one("F32", [2], b"1234", data_offsets=[0, 8]),
    "offsets with a hole": one("F32", [1], b"12345678", data_offsets=[4, 8]),
    "a type that numpy lacks": one("BF16", [1], b"12"),
    "a type of 8 bits": one("F8_E4M3", [1], b"1"),
    "a type of 4 bits": one("F4", [2], b"1"),
    "no type": one("PICKLE", [1], b"1"),
    "deep": file(b"[" * 100_000),
    "metadata of another kind": file({"__metadata__": {"a": 1}}),
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch hostile'\ntR.",
}


@pytest.mark.parametrize("body", FILES.values(), ids=FILES.keys())
def test_a_hostile_file_is_no_safetensors_file(body: bytes) -> None:
    with within(seconds=2, megabytes=1), pytest.raises(ValueError, match="no safetensors file of ours"):
        from_bytes(body)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_file_with_bytes_changed_is_told_or_is_arrays(data: st.DataObject) -> None:
    body = bytearray(ARRAYS)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, min(len(body), 3_000) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays = from_bytes(bytes(body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body))
    except ValueError as error:
        assert "no safetensors file of ours" in str(error)  # noqa: PT017 - either ending is right
        return
    for name in ("queue", "window", "reservoir", "anchor"):
        try:
            chunks = unpack(name, arrays)
        except ValueError:
            continue
        assert all(len(chunk.ids) == len(chunk.scored) >= 1 and chunk.ids.min() >= 0 for chunk in chunks)


def without(name: str) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.pop(name)


def altered(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.update({name: change(arrays[name])})


_KEYS = list(STREAM.arrays())
CHANGES: dict[str, Callable[[Arrays], Any]] = (
    {f"{name} missing": without(name) for name in _KEYS}
    | {f"{name} of another type": altered(name, lambda a: a.astype(np.complex64)) for name in _KEYS}
    | {f"{name} of more dimensions": altered(name, lambda a: a[..., None]) for name in _KEYS if "digests" not in name}
    | {f"{name} one entry short": altered(name, lambda a: a[:-1]) for name in _KEYS}
    | {f"{name} one entry long": altered(name, lambda a: np.append(a, a[-1:], axis=0)) for name in _KEYS}
    | {
        f"{name} is no number": altered(name, lambda a: np.full_like(a, np.nan))
        for name in _KEYS
        if name.endswith((".ts", ".newest"))
    }
    | {
        f"{name} negative": altered(name, lambda a: -1 - a)
        for name in _KEYS
        if name.endswith((".ids", ".length", ".text_bytes", ".offered"))
    }
    | {f"{name} huge": altered(name, lambda a: a + 2**30) for name in _KEYS if name.endswith(".length")}
)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_arrays_that_do_not_fit_each_other_are_refused_where_they_are_read(change: Callable[[Arrays], Any]) -> None:
    """Never a window that is silently shorter, and never an IndexError in the middle of a step."""
    arrays = STREAM.arrays()
    change(arrays)

    with within(seconds=5, megabytes=20), pytest.raises(ValueError, match=r"\w"):
        restored(DOCUMENT, arrays)


@given(mutations(DOCUMENT))
@settings(max_examples=60, deadline=None)
def test_a_state_with_something_wrong_is_refused_or_goes_on(document: dict[str, Any]) -> None:
    """Nothing but what the daemon tells in one line."""
    try:
        stream = restored(document, STREAM.arrays())
    except WHAT_OTHERS_RAISE:
        return
    assert stream.waiting == STREAM.waiting > 0


def restored(document: dict[str, Any], arrays: Arrays) -> StreamState:
    stream = StreamState(SETTINGS)
    stream.restore(document, arrays, progress=STREAM.progress, totals=STREAM.totals, event_time=STREAM.event_time)
    return stream


def test_what_was_written_is_read() -> None:
    """The checks refuse nothing of ours."""
    again = restored(DOCUMENT, from_bytes(ARRAYS))
    empty = StreamState(making.settings())
    empty.restore(
        empty.document(),
        from_bytes(to_bytes(empty.arrays())),
        progress={},
        totals=empty.totals,
        event_time=None,
    )

    assert to_bytes(again.arrays()) == ARRAYS
    assert again.document() == DOCUMENT
    assert empty.waiting == 0
