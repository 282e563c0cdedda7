"""Champion and candidate beside the live adapter: each scores as itself, and none of them moves it."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from streamlearn.core.batches import Draw, Role, StepPlan
from streamlearn.core.events import Chunk, Plain
from streamlearn.learner.open import OpenedLearner
from streamlearn.ports import Fatal
from tests.unit.learner.conftest import Opener

PLAN = StepPlan(learning_rate=1e-2)


def chunks_of(opened: OpenedLearner) -> list[Chunk]:
    return list(opened.chunker.chunk(Plain(text="the quick brown fox jumps over the lazy dog")))


def learn(opened: OpenedLearner, steps: int) -> bytes:
    """Take some steps and return the adapter that would be published."""
    for _ in range(steps):
        opened.learner.step([Draw(chunk=chunk, role=Role.FRESH) for chunk in chunks_of(opened)], PLAN)
    return opened.learner.snapshot().files()["adapter.safetensors"]


def test_each_guest_scores_as_the_version_it_is(opened: OpenedLearner) -> None:
    """On one loaded base, as alike as the bytes that were published."""
    chunks, learner = chunks_of(opened), opened.learner
    expected = {}
    for name in ("champion", "candidate"):
        learner.guests.seat(name, learn(opened, 5))
        expected[name] = learner.served_nll(chunks)
    learn(opened, 5)

    assert learner.guests.names == {"champion", "candidate"}
    for name, nll in expected.items():
        assert learner.guest_nll(name, chunks) == pytest.approx(nll, rel=1e-6)
    assert (expected["champion"] > expected["candidate"]).all()
    assert (expected["candidate"] > learner.live_nll(chunks)).all()


def test_guests_leave_the_live_adapter_as_it_learns_alone(opener: Opener) -> None:
    """With guests or without, lineage and snapshots are the same byte for byte."""
    alone, beset = opener(), opener()
    chunks = chunks_of(alone)
    version = learn(alone, 3)
    assert learn(beset, 3) == version

    beset.learner.guests.seat("champion", version)
    for _ in range(3):
        learn(alone, 1)
        learn(beset, 1)
        beset.learner.guest_nll("champion", chunks)
        beset.learner.base_nll(chunks)
    beset.learner.guests.leave("champion")

    assert learn(beset, 1) == learn(alone, 1)
    assert beset.learner.snapshot().files() == alone.learner.snapshot().files()
    assert beset.learner.adapter_config() == alone.learner.adapter_config()


def test_a_guest_never_learns(opened: OpenedLearner) -> None:
    chunks = chunks_of(opened)
    opened.learner.guests.seat("champion", learn(opened, 3))
    before = opened.learner.guest_nll("champion", chunks)
    learn(opened, 3)

    assert opened.learner.guest_nll("champion", chunks).tolist() == before.tolist()


def test_the_base_is_the_base_whoever_is_seated(opened: OpenedLearner) -> None:
    chunks = chunks_of(opened)
    base = opened.learner.base_nll(chunks)
    opened.learner.guests.seat("champion", learn(opened, 3))

    assert opened.learner.base_nll(chunks).tolist() == base.tolist()


def test_a_seat_is_given_to_the_next_and_given_up(opened: OpenedLearner) -> None:
    """Memory does not grow with the number of versions."""
    chunks, learner = chunks_of(opened), opened.learner
    learner.guests.seat("candidate", learn(opened, 3))
    parameters = sum(parameter.numel() for parameter in learner._model.parameters())
    first = learner.guest_nll("candidate", chunks)
    learner.guests.seat("candidate", learn(opened, 3))
    assert (learner.guest_nll("candidate", chunks) < first).all()
    assert sum(parameter.numel() for parameter in learner._model.parameters()) == parameters

    learner.guests.leave("candidate")
    learner.guests.leave("candidate")

    assert learner.guests.names == frozenset()
    assert sum(parameter.numel() for parameter in learner._model.parameters()) < parameters


def test_a_guest_that_fails_leaves_the_live_adapter_speaking(opened: OpenedLearner) -> None:
    chunks, learner = chunks_of(opened), opened.learner
    learner.guests.seat("champion", learn(opened, 3))
    learn(opened, 3)
    live = learner.live_nll(chunks)

    with pytest.raises(RuntimeError, match="in the middle"), learner.guests.speaking("champion"):
        raise RuntimeError("in the middle")

    assert learner.live_nll(chunks).tolist() == live.tolist()


@pytest.mark.parametrize("damage", ["no file", "another shape", "other layers", "layers missing"])
def test_what_is_no_adapter_of_ours_is_refused(opened: OpenedLearner, damage: str) -> None:
    """And nobody sits there afterwards, and the live one still learns."""
    chunks, learner = chunks_of(opened), opened.learner
    tensors = safetensors.torch.load(learn(opened, 1))
    name = next(iter(sorted(tensors)))
    if damage == "another shape":
        tensors[name] = torch.zeros(3, 3)
    elif damage == "other layers":
        tensors["base_model.model.nowhere.lora_A.weight"] = torch.zeros(8, 32)
    else:
        del tensors[name]
    body = b"half" if damage == "no file" else safetensors.torch.save(tensors)
    live = learner.live_nll(chunks)

    with pytest.raises(Fatal, match="adapter of the champion"):
        learner.guests.seat("champion", body)

    assert learner.guests.names == frozenset()
    assert np.array_equal(learner.live_nll(chunks), live)
    learn(opened, 1)
    assert (learner.live_nll(chunks) < live).all()
