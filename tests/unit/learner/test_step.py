"""A learner scores before it learns, learns what it is given, and goes on exactly where it stood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamlearn.core.batches import Draw, Role, StepResult
from streamlearn.core.events import Chunk, Completion, Plain
from streamlearn.learner.model import load
from streamlearn.learner.open import OpenedLearner
from streamlearn.learner.scoring import Scorer
from streamlearn.ports import Fatal
from tests.unit.learner.conftest import Opener, config_for

TEXTS = [
    "a release fixes what the release before has broken",
    "the quick brown fox jumps over the lazy dog, twice a day and at night",
    "dog",
]


def chunks_of(opened: OpenedLearner) -> list[Chunk]:
    return [chunk for text in TEXTS for chunk in opened.chunker.chunk(Plain(text=text))]


def step(opened: OpenedLearner, chunks: list[Chunk], rate: float = 1e-2) -> StepResult:
    return opened.learner.step([Draw(chunk=chunk, role=Role.FRESH) for chunk in chunks], rate)


def test_a_score_is_that_of_the_weights_before_the_step(opened: OpenedLearner) -> None:
    """Every event is a test before it is a lesson."""
    chunks = chunks_of(opened)
    for _ in range(3):
        before = opened.learner.live_nll(chunks)
        assert step(opened, chunks).nll == pytest.approx(before, rel=1e-5)
    assert (opened.learner.live_nll(chunks) < before).all()


def test_a_score_does_not_depend_on_what_shares_the_batch(opened: OpenedLearner) -> None:
    """Padding carries no loss and no attention."""
    chunks = chunks_of(opened)
    alone = [float(opened.learner.live_nll([chunk])[0]) for chunk in chunks]
    assert opened.learner.live_nll(chunks) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("packs", [True, False])
def test_packed_or_padded_the_scores_are_the_same(opened: OpenedLearner, packs: bool) -> None:
    """How chunks share a forward is a matter of speed alone."""
    chunks = [chunk for _ in range(3) for chunk in chunks_of(opened)]
    alone = [float(opened.learner.live_nll([chunk])[0]) for chunk in chunks]
    assert opened.learner._scorer.packs, "this model can"
    opened.learner._scorer.packs = packs
    assert len(list(opened.learner._scorer.batches(chunks))) < len(chunks)
    assert opened.learner.live_nll(chunks) == pytest.approx(alone, rel=1e-5)


def test_a_model_that_mixes_packed_chunks_up_is_padded_for(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that sees another would be scored with its help, and nobody would notice."""
    loaded = load(config_for(tiny_model))
    whole = loaded.model.forward

    def blind_to_positions(*arguments: Any, position_ids: Any = None, **named: Any) -> Any:
        return whole(*arguments, **named)

    monkeypatch.setattr(loaded.model, "forward", blind_to_positions)
    assert not Scorer(loaded).packs


def test_a_score_is_the_loss_that_transformers_computes(opened: OpenedLearner) -> None:
    chunk = opened.chunker.chunk(Plain(text=TEXTS[1]))[0]
    ids = torch.from_numpy(chunk.ids.astype(np.int64))[None]
    with torch.no_grad():
        mean = opened.learner._model(input_ids=ids, labels=ids).loss.item()
    assert opened.learner.live_nll([chunk])[0] == pytest.approx(mean * (len(chunk.ids) - 1), rel=1e-5)


def test_only_scored_tokens_carry_loss(opened: OpenedLearner) -> None:
    """A prompt is read, never learnt."""
    short, long = (
        opened.chunker.chunk(Completion(prompt=prompt, completion=" the lazy dog"))[0] for prompt in ("x", "x y z w v")
    )
    assert short.scored_tokens == long.scored_tokens < len(short.ids) < len(long.ids)


def test_the_base_never_changes(opened: OpenedLearner) -> None:
    """The gain is measured against what was there at the beginning."""
    chunks = chunks_of(opened)
    before = opened.learner.base_nll(chunks)
    assert before == pytest.approx(opened.learner.live_nll(chunks)), "an adapter begins as nothing"
    for _ in range(5):
        step(opened, chunks)
    assert opened.learner.base_nll(chunks).tolist() == before.tolist()
    assert opened.learner.live_nll(chunks).sum() < before.sum() - 1.0


@pytest.mark.parametrize(("rule", "rate"), [("adamw", 1e-2), ("adam", 1e-2), ("momentum", 0.5), ("sgd", 1.0)])
def test_every_rule_learns_and_resumes_byte_for_byte(opener: Opener, rule: str, rate: float) -> None:
    """A crash changes nothing but the time."""
    sections = {"learner": {"optimizer": rule, "threads": 1}}
    one = opener(**sections)
    chunks = chunks_of(one)
    first = sum(step(one, chunks, rate).nll)
    for _ in range(3):
        step(one, chunks, rate)
    files = one.learner.snapshot().files()

    other = opener(**sections)
    other.learner.restore(files)
    for _ in range(2):
        mine, theirs = step(one, chunks, rate), step(other, chunks, rate)
        assert mine.nll == theirs.nll

    assert sum(mine.nll) < first
    assert other.learner.snapshot().files() == one.learner.snapshot().files()


def test_the_same_seed_begins_with_the_same_adapter(opener: Opener) -> None:
    torch.manual_seed(1)
    one = opener().learner.snapshot().files()
    torch.manual_seed(2)
    assert opener().learner.snapshot().files() == one
    assert opener(stream={"seed": 5}).learner.snapshot().files() != one


def test_a_snapshot_is_not_moved_by_later_steps(opened: OpenedLearner) -> None:
    """The publisher serialises while the learner goes on."""
    chunks = chunks_of(opened)
    step(opened, chunks)
    snapshot = opened.learner.snapshot()
    before = snapshot.files()
    step(opened, chunks)
    assert snapshot.files() == before != opened.learner.snapshot().files()


def test_a_step_without_finite_loss_changes_nothing(opened: OpenedLearner) -> None:
    """One broken batch does not break the model."""
    chunks = chunks_of(opened)
    step(opened, chunks)
    before = opened.learner.snapshot().files()
    first = next(iter(opened.learner._parameters.values()))
    kept = first.detach().clone()
    with torch.no_grad():
        first.fill_(float("nan"))
    result = step(opened, chunks)
    with torch.no_grad():
        first.copy_(kept)

    assert not result.applied
    assert opened.learner.snapshot().files() == before
    assert step(opened, chunks).applied


def test_gradients_are_clipped_and_reported_as_they_were(opener: Opener) -> None:
    opened = opener(learner={"optimizer": "sgd", "clip_norm": 1e-3, "threads": 1})
    chunks = chunks_of(opened)
    before = {name: tensor.detach().clone() for name, tensor in opened.learner._parameters.items()}
    result = step(opened, chunks, 1.0)
    after = opened.learner._parameters
    moved = sum(float((after[name].detach() - tensor).square().sum()) for name, tensor in before.items())
    assert result.gradient_norm > 1e-3
    assert moved**0.5 == pytest.approx(1e-3, rel=1e-3)


def test_an_adapter_of_another_shape_is_refused_with_both_shapes(opener: Opener) -> None:
    files = opener().learner.snapshot().files()
    with pytest.raises(Fatal, match=r"another shape: .*lora_A.* is \(8, .*\) there and \(16, .*\) here"):
        opener(lora={"rank": 16}).learner.restore(files)


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.safetensors"])
def test_a_damaged_file_is_refused_by_name(opened: OpenedLearner, name: str) -> None:
    files = opened.learner.snapshot().files()
    with pytest.raises(Fatal, match=name):
        opened.learner.restore(files | {name: b"\x80\x04pickle"})
    with pytest.raises(Fatal, match=name):
        opened.learner.restore({other: body for other, body in files.items() if other != name})


def test_the_adapter_config_is_what_servers_accept(opened: OpenedLearner) -> None:
    """vLLM refuses DoRA, biases and further saved modules."""
    config = json.loads(opened.learner.adapter_config())
    assert (config["r"], config["lora_alpha"], config["bias"]) == (8, 16, "none")
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == opened.learner.base.served_name
    assert not config["use_dora"]
    assert config["modules_to_save"] is None
    assert config["target_modules"] == sorted(config["target_modules"])
    assert opened.learner.adapter_config() == opened.learner.adapter_config()


def test_a_prompt_is_completed_by_base_and_adapter(opened: OpenedLearner) -> None:
    chunks = chunks_of(opened)
    for _ in range(60):
        step(opened, chunks)
    assert opened.learner.complete("the quick", adapter=True, max_new_tokens=4) == " brown fox jumps over"
    assert opened.learner.complete("the quick", adapter=False, max_new_tokens=4) != " brown fox jumps over"
