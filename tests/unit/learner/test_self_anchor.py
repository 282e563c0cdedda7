"""Text of the base's own: the same on every machine, made once, told while it is made, given up when told to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from streamlearn.core.events import Chunk
from streamlearn.learner import self_anchor
from streamlearn.learner.model import Loaded, load
from streamlearn.learner.open import open_learner
from streamlearn.learner.self_anchor import self_made_anchor
from tests.unit.learner.conftest import config_for

CHUNKS, TOKENS = 5, 24


@pytest.fixture
def loaded(tiny_model: Path) -> Loaded:
    return load(config_for(tiny_model))


def forever(_done: int, _total: int) -> bool:
    return True


def never(_done: int, _total: int) -> bool:
    raise AssertionError("the base was asked again")


def made(loaded: Loaded, cache: Path, chunks: int = CHUNKS) -> list[list[int]]:
    return ids(self_made_anchor(loaded, forever, chunks=chunks, tokens=TOKENS, cache=cache))


def ids(chunks: tuple[Chunk, ...] | None) -> list[list[int]]:
    assert chunks is not None
    return [chunk.ids.tolist() for chunk in chunks]


def test_it_is_as_long_as_asked_for_and_begins_as_every_text_does(loaded: Loaded, tmp_path: Path) -> None:
    chunks = self_made_anchor(loaded, forever, chunks=CHUNKS, tokens=TOKENS, cache=tmp_path)

    assert chunks is not None
    assert [len(chunk.ids) for chunk in chunks] == [TOKENS] * CHUNKS
    assert {int(chunk.ids[0]) for chunk in chunks} == {loaded.tokenizer.bos_token_id}
    assert {chunk.scored_tokens for chunk in chunks} == {TOKENS - 1}
    assert len({tuple(row) for row in ids(chunks)}) == CHUNKS, "no two are alike"


def test_it_depends_on_the_base_alone(loaded: Loaded, tmp_path: Path) -> None:
    """Not on what was drawn in this process before, nor on the adapter; and it moves no other draw."""
    torch.manual_seed(1)
    first = made(loaded, tmp_path / "a")
    drawn = torch.rand(1)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.fill_(0.3)

    assert torch.rand(1) == drawn
    assert made(loaded, tmp_path / "b") == first


def test_it_is_of_the_bases_own_distribution(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token is drawn by the base's own probabilities, all of them: no top-k, no temperature."""
    monkeypatch.setattr(self_anchor, "_ROWS", 4_000)
    chunks = self_made_anchor(loaded, forever, chunks=4_000, tokens=2, cache=tmp_path)
    assert chunks is not None
    with torch.no_grad(), loaded.model.disable_adapter():
        logits = loaded.model(input_ids=torch.tensor([[loaded.tokenizer.bos_token_id]])).logits[0, -1]
    expected = logits.double().softmax(-1).numpy()

    found = np.bincount([int(chunk.ids[1]) for chunk in chunks], minlength=len(expected)) / 4_000

    # The total variation of 4,000 draws over v tokens is below sqrt(v / (2 pi n)) on average.
    assert np.abs(found - expected).sum() / 2 < 1.5 * np.sqrt(len(expected) / (2 * np.pi * 4_000))


def test_it_is_made_once_for_each_base(loaded: Loaded, tmp_path: Path) -> None:
    first = made(loaded, tmp_path)

    again = self_made_anchor(loaded, never, chunks=CHUNKS, tokens=TOKENS, cache=tmp_path)

    assert ids(again) == first
    assert len(made(loaded, tmp_path, chunks=2)) == 2, "another size is another anchor"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_cache_is_made_anew(loaded: Loaded, tmp_path: Path) -> None:
    """Half a file, as a full disk leaves it, ends no worker."""
    first = made(loaded, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])

    assert made(loaded, tmp_path) == first
    assert ids(self_made_anchor(loaded, never, chunks=CHUNKS, tokens=TOKENS, cache=tmp_path)) == first


def test_a_cache_that_cannot_be_written_is_done_without(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")

    with capture_logs() as said:
        assert made(loaded, tmp_path / "file" / "below") == made(loaded, tmp_path / "good")

    assert any("could not be cached" in line["event"] for line in said)


def test_its_making_is_told_to_the_end(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for minutes sees how long it takes."""
    monkeypatch.setattr(self_anchor, "_SAY_EVERY_S", 0.0)
    monkeypatch.setattr(self_anchor, "_ROWS", 2)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> bool:
        told.append((done, total))
        return True

    with capture_logs() as said:
        self_made_anchor(loaded, tell, chunks=CHUNKS, tokens=TOKENS, cache=tmp_path)

    assert [total for _, total in told] == [CHUNKS * TOKENS] * len(told)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (CHUNKS * TOKENS, CHUNKS * TOKENS)
    percents = [line["percent"] for line in said if "percent" in line]
    assert percents == sorted(percents)
    assert percents[-1] == 100.0


def test_nobody_waits_for_the_rest_once_told_to_stop(loaded: Loaded, tmp_path: Path) -> None:
    """And what is not whole is not kept."""
    looks: list[int] = []

    def thrice(done: int, _total: int) -> bool:
        looks.append(done)
        return len(looks) < 3

    assert self_made_anchor(loaded, thrice, chunks=CHUNKS, tokens=TOKENS, cache=tmp_path) is None
    assert len(looks) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_opens_its_learner_makes_none_yet(tiny_model: Path, tmp_path: Path) -> None:
    """One that goes on with a lineage has its anchor from there."""
    model = {"cache_dir": str(tmp_path)}
    opened = open_learner(config_for(tiny_model, model=model, anchor={"chunks": 2, "tokens": 16}))
    assert list(tmp_path.glob("anchor-*")) == []

    assert len(opened.anchor(forever) or ()) == 2
    assert len(list(tmp_path.glob("anchor-*"))) == 1


@pytest.mark.parametrize("sections", [{"anchor": {"chunks": 0}}, {"mix": {"anchor": 0.0}}])
def test_who_wants_no_anchor_waits_for_none(tiny_model: Path, sections: dict[str, dict[str, float]]) -> None:
    assert open_learner(config_for(tiny_model, **sections)).anchor(never) == ()
