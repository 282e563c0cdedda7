"""A learner scores before it learns, learns what it is given, and goes on exactly where it stood."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from streamlearn.core.batches import Draw, Role, StepPlan, StepResult
from streamlearn.core.events import Chunk, Completion, Plain
from streamlearn.core.junk import Accepted
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


def fresh(chunks: Sequence[Chunk]) -> list[Draw]:
    return [Draw(chunk=chunk, role=Role.FRESH) for chunk in chunks]


def anchored(chunks: Sequence[Chunk]) -> list[Draw]:
    return [Draw(chunk=chunk, role=Role.ANCHOR) for chunk in chunks]


def step(opened: OpenedLearner, chunks: list[Chunk], rate: float = 1e-2, **plan: Any) -> StepResult:
    return opened.learner.step(fresh(chunks), StepPlan(learning_rate=rate, **plan))


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


def moved(before: dict[str, torch.Tensor], opened: OpenedLearner) -> float:
    """How far the live weights have gone, as an L2 norm."""
    after = weights(opened)
    return math.sqrt(sum(float((after[name] - tensor).square().sum()) for name, tensor in before.items()))


def weights(opened: OpenedLearner, part: str = "") -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in opened.learner._parameters.items() if part in name}


def test_a_gradient_is_scaled_as_planned_and_reported_as_it_was(opener: Opener) -> None:
    opened = opener(learner={"optimizer": "sgd", "threads": 1, "head_rate": 1.0})
    chunks = chunks_of(opened)
    before = weights(opened)
    asked: list[float] = []

    def halved(norm: float) -> float:
        asked.append(norm)
        return 0.5

    result = step(opened, chunks, 1.0, clip=halved)

    assert asked == [result.gradient_norm]
    assert result.scaled == 0.5
    assert moved(before, opened) == pytest.approx(0.5 * result.gradient_norm, rel=1e-3)


def test_the_head_moves_at_a_rate_of_its_own(opener: Opener) -> None:
    """By plain gradient descent from the same place: half as far at half the rate, and the others as far as before."""
    moves = []
    for head_rate in (1.0, 0.5):
        opened = opener(learner={"optimizer": "sgd", "threads": 1, "head_rate": head_rate})
        before = weights(opened)
        step(opened, chunks_of(opened), 1.0)
        after = weights(opened)
        moves.append({name: after[name] - tensor for name, tensor in before.items()})
    whole, half = moves
    head = [name for name in whole if "lm_head" in name]

    assert len(head) == 2
    assert any(bool(whole[name].any()) for name in head)
    for name, move in whole.items():
        torch.testing.assert_close(half[name], 0.5 * move if name in head else move)


# --- the anchor ---------------------------------------------------------------------------


def test_the_anchors_divergence_is_nothing_at_first_and_grows(opened: OpenedLearner) -> None:
    """It measures how far the adapted model has gone from its base."""
    *chunks, anchor = chunks_of(opened)
    batch = [*fresh(chunks), *anchored([anchor])]
    found = [opened.learner.step(batch, StepPlan(learning_rate=1e-2)).nll[-1] for _ in range(20)]

    assert found[0] == pytest.approx(0.0, abs=1e-4)
    assert found[-1] > 0.01


def test_the_divergence_is_that_of_the_definition(opened: OpenedLearner) -> None:
    """KL(base‖adapted), summed over the predicted tokens: not the other way round, and of no padding."""
    chunks = chunks_of(opened)
    for _ in range(20):
        step(opened, chunks)
    expected = []
    for chunk in chunks:
        ids = torch.from_numpy(chunk.ids.astype(np.int64))[None]
        with torch.no_grad():
            adapted = opened.learner._model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
            with opened.learner._model.disable_adapter():
                base = opened.learner._model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        expected.append(float((base.exp() * (base - adapted)).sum()))

    found = opened.learner.step([*fresh(chunks), *anchored(chunks)], StepPlan(learning_rate=1e-9)).nll

    assert found[len(chunks) :] == pytest.approx(expected, rel=1e-3)


def test_an_anchor_holds_the_adapter_close_the_more_the_heavier(opener: Opener) -> None:
    """Its weight is against the text's loss, and costs the text little."""
    end: dict[float, tuple[float, float]] = {}
    for weight in (1e-6, 3.0, 30.0):
        opened = opener(anchor={"weight": weight}, learner={"served_average": 0.0, "threads": 1})
        *chunks, anchor = chunks_of(opened)
        batch = [*fresh(chunks), *anchored([anchor])]
        for _ in range(30):
            result = opened.learner.step(batch, StepPlan(learning_rate=1e-2))
        end[weight] = (result.nll[-1], sum(result.nll[:-1]))

    assert end[30.0][0] < 0.5 * end[3.0][0] < 0.25 * end[1e-6][0]
    assert end[3.0][1] < 0.9 * float(opener().learner.live_nll(chunks).sum()), "and the text is learnt all the same"


# --- how a step is planned ------------------------------------------------------------------


def test_what_is_not_accepted_is_scored_and_leaves_no_gradient(opener: Opener) -> None:
    """The step is that on the other chunks, at the same length."""
    sections = {"learner": {"optimizer": "sgd", "threads": 1, "min_step_tokens": 1}}
    one, other = (opener(**sections) for _ in range(2))
    chunks = chunks_of(one)
    nats = [float(nll) / chunk.scored_tokens for nll, chunk in zip(one.learner.live_nll(chunks), chunks, strict=True)]
    worst = int(np.argmax(nats))
    limit = float(np.mean(sorted(nats)[-2:]))
    whole = sum(chunk.scored_tokens for chunk in chunks)
    rest = [chunk for place, chunk in enumerate(chunks) if place != worst]

    result = step(one, chunks, 1.0, accepted=Accepted(high=limit))
    share = sum(chunk.scored_tokens for chunk in rest) / whole
    step(other, rest, share)

    assert result.passed_over == (worst,)
    assert result.nll[worst] == pytest.approx(nats[worst] * chunks[worst].scored_tokens, rel=1e-5)
    for name, tensor in weights(one).items():
        assert tensor.numpy() == pytest.approx(weights(other)[name].numpy(), abs=1e-6)


def test_a_line_moves_the_adapter_less_than_a_page(opener: Opener) -> None:
    """By its share of `learner.min_step_tokens`; what is longer counts by the mean, as ever."""
    moved: dict[int, NDArray[np.float32]] = {}
    for least in (1, 100):
        opened = opener(learner={"optimizer": "sgd", "threads": 1, "min_step_tokens": least})
        line = min(chunks_of(opened), key=lambda chunk: chunk.scored_tokens)
        assert line.scored_tokens < 100
        step(opened, [line], 1e-3)
        moved[least] = np.concatenate(
            [tensor.numpy().ravel() for name, tensor in weights(opened).items() if ".lora_B." in name]
        )

    assert moved[100] == pytest.approx(moved[1] * line.scored_tokens / 100, abs=1e-8)
    assert np.abs(moved[1]).max() > 1e-6


def test_what_is_drawn_again_is_not_judged_again(opened: OpenedLearner) -> None:
    chunks = chunks_of(opened)
    replayed = [Draw(chunk=chunk, role=Role.WINDOW) for chunk in chunks]

    assert opened.learner.step(replayed, StepPlan(learning_rate=1e-2, accepted=Accepted(high=0.0))).passed_over == ()


def test_a_step_of_junk_alone_teaches_nothing(opener: Opener) -> None:
    opened = opener(learner={"optimizer": "sgd", "threads": 1})
    before = weights(opened)

    result = step(opened, chunks_of(opened), 1.0, accepted=Accepted(high=0.0))

    assert result.applied
    assert len(result.passed_over) == len(TEXTS)
    assert moved(before, opened) == 0.0


def test_decay_draws_the_adapter_toward_its_start(opener: Opener) -> None:
    """B of B·A shrinks, A stays: what no step renews comes back to the base."""
    opened = opener(learner={"optimizer": "sgd", "threads": 1})
    chunks = chunks_of(opened)
    for _ in range(3):
        step(opened, chunks, 1.0)
    risen, kept = weights(opened, ".lora_B."), weights(opened, ".lora_A.")

    step(opened, chunks, 1e-12, keep=0.25)

    for name, tensor in weights(opened, ".lora_B.").items():
        assert tensor.numpy() == pytest.approx(0.25 * risen[name].numpy(), abs=1e-7)
    for name, tensor in weights(opened, ".lora_A.").items():
        assert tensor.numpy() == pytest.approx(kept[name].numpy(), abs=1e-7)
    assert max(float(tensor.abs().max()) for tensor in risen.values()) > 1e-3


@pytest.mark.parametrize(("rule", "moment"), [("adamw", "exp_avg"), ("momentum", "momentum_buffer")])
def test_a_turn_forgets_the_direction_and_keeps_the_scale(opener: Opener, rule: str, moment: str) -> None:
    """After drift, old gradients point the old way."""
    turned, straight = (opener(learner={"optimizer": rule, "threads": 1}) for _ in range(2))
    chunks = chunks_of(turned)
    for opened in (turned, straight):
        for _ in range(3):
            step(opened, chunks, 1e-2)
    # A batch of junk alone has no gradient: what moves the weights is the moment that is left.
    nothing: Any = {"accepted": Accepted(high=0.0)}
    before = weights(turned)

    step(turned, chunks, 1e-2, turn=True, **nothing)
    step(straight, chunks, 1e-2, **nothing)

    assert moved(before, turned) == pytest.approx(0.0, abs=1e-9)
    assert moved(before, straight) > 1e-4
    for one, other in zip(states(turned), states(straight), strict=True):
        assert float(one[moment].abs().max()) == 0.0
        assert "exp_avg_sq" not in one or torch.equal(one["exp_avg_sq"], other["exp_avg_sq"])


def states(opened: OpenedLearner) -> list[dict[str, torch.Tensor]]:
    return list(opened.learner._optimizer.state.values())


# --- what is served ---------------------------------------------------------------------------


def test_what_is_published_is_the_average_over_steps(opener: Opener) -> None:
    """And what is learnt on is the newest step's weights, which go with the optimiser."""
    opened = opener(learner={"served_average": 0.9, "threads": 1})
    chunks = chunks_of(opened)
    expected = weights(opened)
    for _ in range(4):
        step(opened, chunks)
        for name, live in weights(opened).items():
            expected[name] += 0.1 * (live - expected[name])
    files = opened.learner.snapshot().files()

    served = safetensors.torch.load(files["adapter.safetensors"])
    kept = safetensors.torch.load(files["optimizer.safetensors"])
    for name, live in weights(opened).items():
        assert served[name].numpy() == pytest.approx(expected[name].numpy(), abs=1e-7)
        assert kept[f"live/{name}"].tolist() == live.tolist()
    assert (opened.learner.served_nll(chunks) > opened.learner.live_nll(chunks)).all(), "it follows behind"


@pytest.mark.parametrize("average", [0.0, 0.99])
def test_the_average_resumes_byte_for_byte(opener: Opener, average: float) -> None:
    sections = {"learner": {"served_average": average, "threads": 1}}
    one, other = opener(**sections), opener(**sections)
    chunks = chunks_of(one)
    batch = [*fresh(chunks), *anchored(chunks[:1])]
    plan = StepPlan(learning_rate=1e-2, keep=0.99)
    for _ in range(3):
        one.learner.step(batch, plan)
    other.learner.restore(one.learner.snapshot().files())
    for _ in range(2):
        assert one.learner.step(batch, plan).nll == other.learner.step(batch, plan).nll

    assert one.learner.snapshot().files() == other.learner.snapshot().files()
    assert one.learner.served_nll(chunks).tolist() == other.learner.served_nll(chunks).tolist()


def test_asking_what_is_served_does_not_move_what_is_learnt(opened: OpenedLearner) -> None:
    chunks = chunks_of(opened)
    for _ in range(3):
        step(opened, chunks)
    files, live = opened.learner.snapshot().files(), opened.learner.live_nll(chunks)

    opened.learner.served_nll(chunks)

    assert opened.learner.snapshot().files() == files
    assert opened.learner.live_nll(chunks).tolist() == live.tolist()


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.9), (0.9, 0.0)])
def test_a_lineage_may_begin_and_end_to_average(opener: Opener, before: float, after: float) -> None:
    """The weights that are learnt on stay what they were."""
    one = opener(learner={"served_average": before, "threads": 1})
    chunks = chunks_of(one)
    for _ in range(3):
        step(one, chunks)
    other = opener(learner={"served_average": after, "threads": 1})
    other.learner.restore(one.learner.snapshot().files())

    assert other.learner.live_nll(chunks).tolist() == one.learner.live_nll(chunks).tolist()
    assert step(other, chunks).nll == step(one, chunks).nll


def test_live_weights_of_another_shape_are_refused(opener: Opener) -> None:
    """Not in the middle of a copy, by an error of torch's."""
    files = opener().learner.snapshot().files()
    state = safetensors.torch.load(files["optimizer.safetensors"])
    name = next(name for name in state if name.startswith("live/"))
    state[name] = torch.zeros(3, 3)
    with pytest.raises(Fatal, match="another shape"):
        opener().learner.restore(files | {"optimizer.safetensors": safetensors.torch.save(state)})


def test_an_adapter_of_another_shape_is_refused_with_both_shapes(opener: Opener) -> None:
    files = opener().learner.snapshot().files()
    with pytest.raises(Fatal, match=r"another shape: .*lora_A.* is \(32, .*\) there and \(8, .*\) here"):
        opener(lora={"rank": 8}).learner.restore(files)


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
    assert (config["r"], config["lora_alpha"], config["bias"]) == (32, 64, "none")
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
