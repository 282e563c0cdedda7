"""Learning goes fast where it has helped of late, and slowly where it has not."""

from __future__ import annotations

import json
import math

import pytest

from streamlearn.core.proof import Proof, ProofSettings

SETTINGS = ProofSettings(full_gain=0.05, least=0.1, fading=0.9)


def shown(gain: float, chunks: int = 50) -> Proof:
    proof = Proof(SETTINGS)
    for _ in range(chunks):
        proof.observe((3.0 - gain) * 100, 300.0, 100)
    return proof


@pytest.mark.parametrize(("gain", "factor"), [(0.2, 1.0), (0.05, 1.0), (0.025, 0.5), (0.0, 0.1), (-0.3, 0.1)])
def test_the_rate_grows_with_what_learning_gains(gain: float, factor: float) -> None:
    """In proportion, never above the full rate, and never to nothing: who stands still proves nothing either."""
    assert shown(gain).rate_factor == pytest.approx(factor)


def test_before_any_proof_learning_is_slow() -> None:
    """Eight steps at the full rate are enough to cost 0.03 nats for a whole stream that teaches nothing (measured)."""
    assert Proof(SETTINGS).rate_factor == 0.1


def test_what_another_model_gained_proves_nothing() -> None:
    proof = shown(0.2)
    proof.begin_anew()

    assert proof.rate_factor == 0.1


def test_a_gain_that_is_gone_is_forgotten() -> None:
    """Some twenty sampled chunks count."""
    proof = shown(0.2)
    for _ in range(60):
        proof.observe(301.0, 300.0, 100)

    assert proof.rate_factor == 0.1


def test_what_the_base_was_not_asked_about_or_is_no_number_proves_nothing() -> None:
    proof = shown(0.03)
    before = proof.document()
    for live, base in ((1.0, None), (math.nan, 300.0), (1.0, math.inf)):
        proof.observe(live, base, 100)

    assert proof.document() == before


def test_a_restart_changes_no_rate() -> None:
    proof, restored = shown(0.03, chunks=3), Proof(SETTINGS)
    restored.restore(json.loads(json.dumps(proof.document())))

    assert restored.rate_factor == proof.rate_factor
