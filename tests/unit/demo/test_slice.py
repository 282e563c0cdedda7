"""The demo's rows mean the same on every run."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from streamlearn.demo import slice as slices
from streamlearn.demo.rows import BUNDLED
from streamlearn.demo.slice import open_slice


def jsonl(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_bundled_rows_are_in_order_of_time_and_disjoint_from_what_defaults_were_tuned_on() -> None:
    rows = open_slice(BUNDLED)
    times = [json.loads(row)["ts"] for row in rows.rows]
    assert times == sorted(times)
    assert times[0] >= "2018-10-10"
    assert times[-1].startswith("2026")
    assert len(rows.rows) == 2101
    assert rows.left_out == 0
    assert rows.fields == {"ts": "ts", "source": "topic"}


def test_the_same_file_gives_the_same_topic_and_another_file_another_one(tmp_path: Path) -> None:
    """Offsets of a topic always mean the same rows, or a lineage could not be continued."""
    one = jsonl(tmp_path / "a.jsonl", [{"text": "x"}])
    assert open_slice(one) == open_slice(one)
    first = open_slice(one).topic
    assert open_slice(jsonl(tmp_path / "a.jsonl", [{"text": "y"}])).topic != first
    assert first.startswith("a-")


def test_gzip_and_plain_files_are_the_same_stream(tmp_path: Path) -> None:
    plain = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y"}])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    assert open_slice(str(tmp_path / "a.jsonl.gz")).rows == open_slice(plain).rows


def test_lines_that_are_no_json_are_text(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("first line\n\n  \nsecond line\n")
    rows = open_slice(str(tmp_path / "notes.txt"))
    assert rows.format == "text"
    assert rows.rows == (b"first line", b"second line")
    assert rows.text(1) == "second line"


def test_a_field_that_some_rows_lack_is_not_mapped(tmp_path: Path) -> None:
    """Mapping it would make dead letters of the others."""
    name = jsonl(tmp_path / "a.jsonl", [{"text": "x", "ts": 1, "source": "s"}, {"text": "y", "source": "s"}])
    assert open_slice(name).fields == {"source": "source"}


def test_what_the_broker_would_forget_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_MAX_ROWS", 3)
    rows = open_slice(jsonl(tmp_path / "a.jsonl", [{"text": str(n)} for n in range(5)]))
    assert (len(rows.rows), rows.left_out) == (3, 2)
    monkeypatch.setattr(slices, "_MAX_BYTES", len(rows.rows[0]) * 2)
    rows = open_slice(str(tmp_path / "a.jsonl"))
    assert (len(rows.rows), rows.left_out) == (2, 3)


def test_a_file_far_larger_than_the_broker_is_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump of gigabytes must not end the demo for want of memory."""
    monkeypatch.setattr(slices, "_MAX_BYTES", 2**16)
    row = b"r" * 1023 + b"\n"
    with gzip.open(tmp_path / "a.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(32):
            file.write(row * 1024)
    tracemalloc.start()
    rows = open_slice(str(tmp_path / "a.txt.gz"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(rows.rows), rows.left_out, rows.counted_all) == (64, 32 * 1024 - 64, True)
    assert peak < 2 * 2**20


def test_of_an_endless_file_not_even_the_rest_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting a hundred gigabytes would take longer than the demo."""
    monkeypatch.setattr(slices, "_MAX_ROWS", 2)
    monkeypatch.setattr(slices, "_MAX_COUNTED", 5)
    (tmp_path / "a.txt").write_bytes(b"ab\n" * 100)
    rows = open_slice(str(tmp_path / "a.txt"))
    assert (len(rows.rows), rows.left_out, rows.counted_all) == (2, 3, False)


def test_a_line_without_an_end_is_refused_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlearn.demo.rows._MAX_LINE", 10)
    (tmp_path / "a.txt").write_bytes(b"short\n" + b"x" * 10_000)
    with pytest.raises(ValueError, match=r"line 2 of .* is over 10 bytes; write one event a line"):
        open_slice(str(tmp_path / "a.txt"))


def test_every_kind_of_line_end_ends_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\nfour")
    assert open_slice(str(tmp_path / "a.txt")).rows == (b"one", b"two", b"three", b"four")


@pytest.mark.parametrize(
    "broken", ['{"text": "half', "[" * 200_000, '"no object"', "9" * 5000], ids=["cut", "nested", "other", "number"]
)
def test_a_broken_row_among_json_rows_stays_a_row_without_text(tmp_path: Path, broken: str) -> None:
    """The worker makes a dead letter of it; the demo goes on, and its offset still means this row."""
    (tmp_path / "a.jsonl").write_text(f'{{"text": "x", "ts": 1}}\n{broken}\n{{"text": "y", "ts": 2}}\n')
    rows = open_slice(str(tmp_path / "a.jsonl"))
    assert (rows.format, len(rows.rows), rows.fields) == ("json", 3, {"ts": "ts"})
    assert [rows.text(row) for row in range(3)] == ["x", "", "y"]


def test_half_a_surrogate_pair_becomes_printable(tmp_path: Path) -> None:
    """No terminal and no tokenizer takes it, and the demo shows and completes this text."""
    (tmp_path / "a.jsonl").write_text('{"text": "smile \\ud83d"}\n')
    assert open_slice(str(tmp_path / "a.jsonl")).text(0) == "smile ?"


PACKED = gzip.compress(b"".join(b"line %d\n" % n for n in range(5000)), mtime=0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        (b"", "holds no line"),
        (b"\n \n", "holds no line"),
        (b"x" * (4 * 2**20 + 1), "the first event of .* is over 4,194,304 bytes"),
        (b"\x1f\x8bnot gzip", "cannot read"),
        (PACKED[:-100], "cannot read"),
        (PACKED[:200] + b"\xff" * 100 + PACKED[300:], "cannot read .* give another file with --stream"),
    ],
    ids=["gone", "empty", "blank", "too large", "no gzip", "cut gzip", "damaged gzip"],
)
def test_a_file_that_is_no_stream_is_refused_with_the_mend(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        open_slice(str(tmp_path / "f"))


def test_a_bundled_stream_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(ValueError, match="bundled:nope is not bundled; there is bundled:changelogs"):
        open_slice("bundled:nope")
