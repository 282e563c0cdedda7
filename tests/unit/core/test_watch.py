import math

import pytest

from streamlearn.core.judgement import Decision, Verdict
from streamlearn.core.watch import Watch
from tests.unit.core.judging import WATCH, series, through_json

TOKENS = 100


def watch() -> Watch:
    made = Watch(WATCH)
    made.begin("v000002", previous="v000001")
    return made


def shown(made: Watch, loss: float, *, seed: int = 0, sd: float = 0.05, chunks: int = 3200) -> Verdict | None:
    """Show chunks on which the champion is worse by `loss` nats/token on average, until a verdict."""
    for difference in series(seed, chunks, sd=sd, correlation=0.5):
        verdict = made.observe(3.0 * TOKENS, (3.0 + loss + float(difference)) * TOKENS, TOKENS)
        if verdict is not None:
            return verdict
    return None


def test_a_champion_as_good_as_the_one_before_stays() -> None:
    """At most 1 % of promotions are taken back for nothing; then the watch is over and costs no more."""
    verdicts = [shown(watch(), 0.0, seed=seed) for seed in range(100)]

    assert sum(verdict is not None and verdict.decision is Decision.ROLL_BACK for verdict in verdicts) <= 1
    assert verdicts[0] is not None
    assert (verdicts[0].decision, verdicts[0].evidence.blocks) == (Decision.KEEP, 200)


def test_a_worse_champion_is_taken_back() -> None:
    """With the evidence of how much worse it is, from the champion's side."""
    verdict = shown(watch(), 0.05)

    assert verdict is not None
    assert verdict.decision is Decision.ROLL_BACK
    assert (verdict.evidence.subject, verdict.evidence.against) == ("v000002", "v000001")
    assert verdict.evidence.bound is not None
    assert verdict.evidence.mean < verdict.evidence.bound < -0.002
    assert 20 <= verdict.evidence.blocks <= 40


def test_a_plunge_needs_no_test() -> None:
    """Three blocks on end far below the previous champion are enough."""
    made = watch()
    verdict = shown(made, 0.5)

    assert verdict is not None
    assert (verdict.decision, verdict.evidence.blocks) == (Decision.ROLL_BACK, 3)
    assert made.champion is None


def test_a_plunge_with_a_pause_is_none() -> None:
    """Two bad blocks, a good one, two bad ones: that is a rough stretch of stream."""
    made = watch()
    for loss in (0.5, 0.5, -0.5, 0.5, 0.5):
        assert shown(made, loss, chunks=16, sd=0.01) is None


def test_a_champion_without_a_number_is_taken_back_at_once() -> None:
    verdict = watch().observe(300.0, math.inf, TOKENS)

    assert verdict is not None
    assert verdict.decision is Decision.ROLL_BACK


def test_what_neither_can_score_takes_nobody_back() -> None:
    made = watch()

    assert made.observe(math.nan, math.nan, TOKENS) is None
    assert made.champion == "v000002"


@pytest.mark.parametrize("cut", [0, 17, 32, 40])
def test_a_restart_changes_no_verdict(cut: int) -> None:
    """Two plunges before a crash and one after it are three."""
    whole, first, second = watch(), watch(), Watch(WATCH)
    expected = shown(whole, 0.5)
    losses = [(3.0 + 0.5 + float(difference)) * TOKENS for difference in series(0, 3200, sd=0.05, correlation=0.5)]
    for loss in losses[:cut]:
        first.observe(3.0 * TOKENS, loss, TOKENS)
    second.restore(through_json(first.document()))
    got = [verdict for verdict in (second.observe(3.0 * TOKENS, loss, TOKENS) for loss in losses[cut:48]) if verdict]

    assert got == [expected]
