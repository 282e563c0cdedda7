import math
from dataclasses import replace

import pytest

from streamlearn.core.gate import Gate
from streamlearn.core.judgement import Decision, Verdict
from tests.unit.core.judging import GATE, series, through_json

TOKENS = 100


def gate(held_out_rise: float = 0.0) -> Gate:
    made = Gate(GATE)
    assert made.consider("v000002", champion="v000001", held_out_rise=held_out_rise) is None
    return made


def shown(
    made: Gate, gain: float, *, seed: int = 0, sd: float = 0.05, chunks: int = 3200, correlation: float = 0.5
) -> Verdict | None:
    """Show chunks on which the candidate is better by `gain` nats/token on average, until a verdict."""
    for difference in series(seed, chunks, sd=sd, correlation=correlation):
        verdict = made.observe(3.0 * TOKENS, (3.0 - gain - float(difference)) * TOKENS, TOKENS)
        if verdict is not None:
            return verdict
    return None


def test_of_two_equal_learners_hardly_any_is_promoted() -> None:
    """A/A: at most 5 % of candidates that are no better pass, at a realistic correlation of chunks.

    Of 4,000 runs it was 2.2 %; of chunks that are not blocked, 30 %; at a
    correlation of 0.8, 5.8 %.
    """
    verdicts = [shown(gate(), 0.0, seed=seed, sd=0.2) for seed in range(200)]

    assert sum(verdict is not None and verdict.decision is Decision.PROMOTE for verdict in verdicts) <= 10
    assert {verdict.decision for verdict in verdicts if verdict} <= {Decision.PROMOTE, Decision.HOLD}


@pytest.mark.parametrize(("gain", "sd", "blocks"), [(0.01, 0.05, 200), (0.02, 0.1, 120), (0.05, 0.2, 80)])
def test_a_real_gain_is_found_in_time(gain: float, sd: float, blocks: int) -> None:
    """The gate is no wall: nine of ten better candidates are promoted within `blocks`."""
    verdicts = [shown(gate(), gain, seed=seed, sd=sd) for seed in range(20)]

    soon = [
        verdict for verdict in verdicts if verdict and verdict.decision is Decision.PROMOTE
        if verdict.evidence.blocks <= blocks
    ]  # fmt: skip
    assert len(soon) >= 18


def test_a_worse_candidate_is_never_promoted() -> None:
    """Neither is one that is better by less than is worth a change."""
    for seed in range(20):
        worse, hardly = shown(gate(), -0.01, seed=seed), shown(gate(), 0.001, seed=seed)
        assert worse is not None
        assert hardly is not None
        assert (worse.decision, hardly.decision) == (Decision.HOLD, Decision.HOLD)


def test_a_verdict_carries_its_evidence() -> None:
    """Whoever reads the history later can judge the judge."""
    verdict = shown(gate(held_out_rise=0.012), 0.05)

    assert verdict is not None
    evidence = verdict.evidence.model_dump(mode="json")
    assert verdict.decision is Decision.PROMOTE
    assert (evidence["subject"], evidence["against"], evidence["alpha"]) == ("v000002", "v000001", 0.05)
    assert (evidence["blocks"], evidence["chunks"], evidence["skipped"]) == (20, 320, 0)
    assert 0.002 < evidence["bound"] < evidence["mean"] < 0.08
    assert evidence["held_out_rise"] == 0.012
    assert f"{evidence['mean']:.4f}" in verdict.reason
    through_json(evidence)


def test_nobody_is_promoted_before_enough_blocks() -> None:
    """A bound that leans on the central limit theorem needs something to lean on."""
    made = gate()

    assert shown(made, 1.0, chunks=20 * 16 - 1) is None
    assert made.candidate == "v000002"


@pytest.mark.parametrize(("rise", "word"), [(0.03, "held-out"), (math.nan, "finite"), (math.inf, "finite")])
def test_a_candidate_that_forgot_is_refused_whatever_it_gains(rise: float, word: str) -> None:
    """A gain on the stream does not buy what was known before."""
    made = Gate(GATE)

    verdict = made.consider("v000002", champion=None, held_out_rise=rise)

    assert verdict is not None
    assert verdict.decision is Decision.REFUSE
    assert word in verdict.reason
    assert made.candidate is None
    through_json(verdict.evidence.model_dump(mode="json"))


def test_a_candidate_without_a_number_is_refused_at_once() -> None:
    made = gate()

    verdict = made.observe(300.0, math.nan, TOKENS)

    assert verdict is not None
    assert verdict.decision is Decision.REFUSE


def test_a_champion_without_a_number_proves_nothing_for_the_candidate() -> None:
    """Such a chunk is counted and compared with nobody."""
    made = gate()

    assert made.observe(math.inf, 300.0, TOKENS) is None
    evidence = made.evidence()
    assert evidence is not None
    assert (evidence.chunks, evidence.skipped) == (0, 1)


def test_what_neither_can_score_says_nothing_about_the_candidate() -> None:
    """A chunk that breaks the base breaks every adapter of it: to refuse for that would refuse all to come."""
    made = gate()

    assert made.observe(math.nan, math.nan, TOKENS) is None
    assert made.candidate is not None
    evidence = made.evidence()
    assert evidence is not None
    assert (evidence.chunks, evidence.skipped) == (0, 1)


def test_an_undecided_candidate_makes_room_for_the_next_version() -> None:
    """A stream does not wait for ever."""
    made = gate()
    verdict = shown(made, 0.0, sd=0.05)
    assert verdict is not None
    assert (verdict.decision, verdict.evidence.blocks) == (Decision.HOLD, 200)

    assert made.consider("v000009", champion="v000001", held_out_rise=0.0) is None
    evidence = made.evidence()
    assert evidence is not None
    assert (evidence.subject, evidence.blocks, evidence.bound) == ("v000009", 0, None)


def test_a_win_during_a_hold_counts_once_the_hold_is_over() -> None:
    """After a drift alarm nobody is promoted, and nothing that was seen is lost."""
    made = gate()
    for _ in range(30 * 16):
        assert made.observe(300.0, 290.0, TOKENS, may_promote=False) is None
    verdicts = [made.observe(300.0, 290.0, TOKENS) for _ in range(16)]

    assert verdicts[-1] is not None
    assert (verdicts[-1].decision, verdicts[-1].evidence.blocks) == (Decision.PROMOTE, 31)


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 319])
def test_a_restart_changes_no_verdict(cut: int) -> None:
    """The evidence is part of the checkpoint, digit for digit."""
    losses = [(300.0 + float(noise), 296.0) for noise in series(3, 900, sd=5.0)]
    whole, first, second = gate(), gate(), Gate(replace(GATE))
    expected = [verdict for verdict in (whole.observe(*pair, TOKENS) for pair in losses[:320]) if verdict]
    for pair in losses[:cut]:
        first.observe(*pair, TOKENS)
    second.restore(through_json(first.document()))
    got = [verdict for verdict in (second.observe(*pair, TOKENS) for pair in losses[cut:320]) if verdict]

    assert got == expected
    assert expected[0].decision is Decision.PROMOTE
    assert second.document() == whole.document() == {"open": None}
