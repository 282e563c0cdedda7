"""From lines to records."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest

from streamlearn.cli.rows import FieldMap, opened
from streamlearn.ports import Fatal


def lines_of(path: Path) -> list[tuple[int, bytes]]:
    with opened(str(path)) as lines:
        return list(lines)


def test_lines_come_as_they_stand_with_their_numbers(tmp_path: Path) -> None:
    """What is broken in a line is the worker's to find, under the number an editor shows."""
    (tmp_path / "f").write_bytes(b'{"text": 1}\r\n\n  \n\xff\xfe broken\nlast without an end')
    with opened(str(tmp_path / "f")) as lines:
        assert list(lines) == [(1, b'{"text": 1}'), (4, b"\xff\xfe broken"), (5, b"last without an end")]
        assert lines.blank == 2
        assert lines.position == lines.size == (tmp_path / "f").stat().st_size


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_bytes(gzip.compress(b"a\nb\n"))
    assert lines_of(tmp_path / "f.jsonl") == [(1, b"a"), (2, b"b")]


def test_the_bundled_stream_can_be_named() -> None:
    with opened("bundled:changelogs") as lines:
        assert next(iter(lines))[1].startswith(b'{"ts": "2006')


def test_a_damaged_gzip_file_is_an_error_after_its_good_lines(tmp_path: Path) -> None:
    """Nothing of the rest is lost silently."""
    whole = gzip.compress(b"".join(b"line %d\n" % n for n in range(50_000)))
    (tmp_path / "f.gz").write_bytes(whole[: len(whole) // 2])
    seen: list[tuple[int, bytes]] = []
    with opened(str(tmp_path / "f.gz")) as lines, pytest.raises(Fatal, match=r"cannot be read on from line \d+"):
        seen.extend(lines)
    assert len(seen) > 1000


def test_a_file_without_lines_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(500 * 2**20)
    tracemalloc.start()
    with opened(str(tmp_path / "f")) as lines, pytest.raises(Fatal, match=r"line 1 of .* is over 16,777,216 bytes"):
        next(iter(lines))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


@pytest.mark.parametrize("name", ["gone.jsonl", "."])
def test_what_cannot_be_opened_is_a_usage_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"cannot read .*; name another file, or - for standard input"), opened(name):
        pass


@pytest.mark.parametrize(
    ("value", "ts"),
    [
        ('"2006-02-23T00:00:01Z"', 1_140_652_801.0),
        ('"2006-02-23T01:00:01+01:00"', 1_140_652_801.0),
        ('"2006-02-23"', 1_140_652_800.0),
        ("1140652800", 1_140_652_800.0),
        ("1140652800.5", 1_140_652_800.5),
        ("1140652800500", 1_140_652_800.5),
        ('"yesterday"', None),
        ("true", None),
        ("null", None),
        ("1e300", None),
        ("NaN", None),
        ("[1]", None),
    ],
)
def test_event_times_are_seconds_milliseconds_or_iso(value: str, ts: float | None) -> None:
    record, own_time = FieldMap(ts="meta.at").record(1, b'{"meta": {"at": %s}}' % value.encode())
    assert record.ts == ts
    assert own_time is None


@pytest.mark.parametrize("line", [b"plain text", b"[1]", b'{"meta": 3}', b"\xff", b"[" * 100_000])
def test_a_line_without_a_time_stamp_is_sent_without(line: bytes) -> None:
    record, _ = FieldMap(ts="meta.at").record(1, line)
    assert (record.ts, record.value) == (None, line)


def test_pacing_needs_a_time_stamp_in_every_line() -> None:
    with pytest.raises(Fatal, match=r"line 7 has no time stamp.*no field 'at'; name another field with --pace, mend"):
        FieldMap(pace="at").record(7, b'{"text": "x"}')
    with pytest.raises(Fatal, match=r"line 8 .*'at' is .soon"):
        FieldMap(pace="at").record(8, b'{"at": "soon"}')
    assert FieldMap(pace="at").record(9, b'{"at": 5}')[1] == 5.0


@pytest.mark.parametrize(
    ("value", "key"), [('"k"', b"k"), ("7", b"7"), ('{"b": 1}', b'{"b": 1}'), ('"é"', "é".encode())]
)
def test_a_field_can_be_the_key(value: str, key: bytes) -> None:
    assert FieldMap(key="id").record(1, b'{"id": %s}' % value.encode())[0].key == key


def test_a_line_without_its_key_is_an_error_that_names_it() -> None:
    with pytest.raises(Fatal, match="line 3 has no key: there is no field 'id'"):
        FieldMap(key="id").record(3, b"{}")
