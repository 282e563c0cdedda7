"""Every arm reads the same chunks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from streamlearn.bench.make import ARMS, WITHOUT, opened
from streamlearn.bench.run import Wishes, held_out_chunks
from streamlearn.bench.sample import read_sample, tokens_of
from streamlearn.demo.rows import open_rows
from tests.unit.bench.conftest import TEXTS
from tests.unit.ingest.making import SystemClock, WordChunker


def written(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_the_sample_is_the_same_for_every_arm(wishes: Wishes) -> None:
    """Whatever an arm's settings are."""
    digests = {opened(arm, wishes).sample.digest for arm in ("frozen", "streamlearn", "streamlearn-without-anything")}

    assert len(digests) == 1
    assert opened("frozen", dataclasses.replace(wishes, max_tokens=60)).sample.digest not in digests


def test_it_ends_with_the_event_that_fills_it(tmp_path: Path) -> None:
    rows = open_rows(written(tmp_path / "a.jsonl", [f"{n} two three four" for n in range(9)]), "all")

    sample = read_sample(rows, WordChunker(), SystemClock(), max_tokens=9)

    assert len(sample.arrivals) == 3
    assert sample.tokens == tokens_of(sample.chunks) == 12


def test_repeats_and_reprints_are_left_out_for_all(tmp_path: Path) -> None:
    """As the worker would, and so that no arm is offered a chunk that another refuses."""
    reprint = TEXTS[0].replace("lazy", "lazy lazy") + " " + " ".join(TEXTS[1:4])
    texts = [" ".join(TEXTS[:4]), TEXTS[5], TEXTS[5], reprint.replace("lazy lazy", "lazy"), TEXTS[6]]
    rows = open_rows(written(tmp_path / "a.jsonl", texts), "all")

    sample = read_sample(rows, WordChunker(), SystemClock(), max_tokens=10_000)

    assert [arrival.offset for arrival in sample.arrivals] == [0, 1, 4]
    assert all(arrival.signature is None for arrival in sample.arrivals)


def test_the_past_is_of_the_part_it_is_named_after(tmp_path: Path) -> None:
    rows = open_rows(written(tmp_path / "a.jsonl", [f"{n} two three four" for n in range(100)]), "all")
    sample = read_sample(rows, WordChunker(), SystemClock(), max_tokens=10_000)
    place = {id(chunk): number for number, chunk in enumerate(sample.chunks)}

    for part, end in (("first tenth", 10), ("early half", 50)):
        probed = [place[id(chunk)] for chunk in sample.past(part)]
        assert probed == sorted(probed)
        assert set(probed) <= set(range(end))
        assert [place[id(chunk)] for chunk in sample.past(part)] == probed, "the same every time"
    assert len(sample.past("first tenth")) == 10
    assert len(sample.past("early half")) == 32


def test_a_stream_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    rows = open_rows(written(tmp_path / "a.jsonl", ["", ""]), "all")
    with pytest.raises(ValueError, match="no event that can be learnt"):
        read_sample(rows, WordChunker(), SystemClock(), max_tokens=10)


def test_the_held_out_text_comes_with_the_package() -> None:
    assert len(held_out_chunks(WordChunker())) == 32


def test_an_unknown_arm_is_refused_with_those_there_are(wishes: Wishes) -> None:
    with pytest.raises(ValueError, match="there is no arm 'magic'; there are: frozen, sgd_loop"):
        opened("magic", wishes)
    assert {f"streamlearn-without-{name}" for name in WITHOUT} < set(ARMS)


def test_a_stream_of_tokens_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What a model wrote is not what its tokenizer makes of the text of it; the control needs the very tokens."""
    rows = [{"ids": [1, 9, 9, number], "bytes": 7} for number in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    sample = read_sample(open_rows(str(tmp_path / "a.jsonl"), "all"), WordChunker(), SystemClock(), max_tokens=7)

    assert [chunk.ids.tolist() for chunk in sample.chunks] == [[1, 9, 9, number] for number in range(3)]
    assert [chunk.scored.tolist() for chunk in sample.chunks[:1]] == [[False, True, True, True]]
    assert (sample.tokens, sample.chunks[0].text_bytes) == (9, 7)
    assert len({arrival.digest for arrival in sample.arrivals}) == 3, "none repeats another"
