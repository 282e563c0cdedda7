"""Every arm is asked before it learns, and learns as it says."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from streamlearn.bench import nightly
from streamlearn.bench.make import ARMS, check, make_arm, opened
from streamlearn.bench.nightly import Nightly
from streamlearn.bench.ours import Streamlearn
from streamlearn.bench.run import Wishes, run_here
from streamlearn.core.events import Plain
from tests.unit.bench.conftest import Maker
from tests.unit.core.making import arrival, chunk

STEPWISE = [arm for arm in ARMS if arm not in {"trainer_nightly", "streamlearn-without-small-steps"}]
"""What learns from an event as soon as it is scored."""

FP32: dict[str, dict[str, Any]] = {
    "model": {"device": "cpu", "dtype": "fp32"},
    "learner": {"step_chunks": 1, "served_average": 0.0, "warmup_steps": 0, "threads": 1},
}


@pytest.mark.parametrize("arm", STEPWISE)
def test_an_arm_scores_a_chunk_as_one_that_has_read_only_what_came_before(arm: str, maker: Maker) -> None:
    """Prequential: every score is that of a model which has not seen the chunk."""
    (whole, world), (before, _) = maker(arm), maker(arm)
    events = world.sample.arrivals
    scores = list(whole.scores(events))

    list(before.scores(events[:6]))

    assert len(scores) == len(world.sample.chunks) == 10
    assert scores[6] == pytest.approx(before.served_nll(events[6].chunks)[0], rel=1e-5)
    assert scores[0] == pytest.approx(maker("frozen")[0].served_nll(events[0].chunks)[0], rel=1e-5)


@pytest.mark.parametrize("arm", [arm for arm in STEPWISE if arm not in {"frozen", "sgd_loop", "adamw_loop"}])
def test_our_arms_learn(arm: str, maker: Maker) -> None:
    one, world = maker(arm)
    first = one.served_nll(world.sample.chunks).sum()

    list(one.scores(world.sample.arrivals))

    assert one.served_nll(world.sample.chunks).sum() < first


@pytest.mark.filterwarnings("ignore")  # of libraries that others' loops are made of
@pytest.mark.parametrize("arm", ["sgd_loop", "adamw_loop", "trainer_nightly", "streamlearn-without-anything"])
def test_a_rate_in_the_name_is_the_rate_that_is_learnt_with(arm: str, maker: Maker) -> None:
    """So many times the rate, so much further: rivals are tried at more rates than their default."""

    def moved(name: str) -> float:
        one, world = maker(name, settings=FP32)
        first = one.served_nll(world.sample.chunks)
        list(one.scores(world.sample.arrivals))
        return float(np.abs(one.served_nll(world.sample.chunks) - first).mean())

    assert moved(f"{arm}@1e-6") < 0.1 * moved(f"{arm}@3e-3")


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("adamw_loop@fast", "'fast' is no learning rate; write a number above 0, as in adamw_loop@3e-5"),
        ("adamw_loop@", "'' is no learning rate"),
        ("streamlearn@0", "'0' is no learning rate"),
        ("streamlearn@-1e-3", "'-1e-3' is no learning rate"),
        ("streamlearn@inf", "'inf' is no learning rate"),
        ("streamlearn@1e-3@2", "no learning rate"),
        ("frozen@1e-3", "frozen learns nothing, so that it has no rate; write 'frozen'"),
        ("magic@1e-3", "there is no arm 'magic'; there are: frozen"),
    ],
)
def test_a_rate_that_is_none_is_refused_before_anything_runs(arm: str, words: str, wishes: Wishes) -> None:
    with pytest.raises(ValueError, match=words):
        check(arm, wishes)


def test_the_rate_of_a_name_goes_before_that_of_the_settings(wishes: Wishes) -> None:
    """A comparison of rates may be made under one `--set`."""
    assert opened("streamlearn@5e-4", wishes).config.learner.learning_rate == 5e-4
    assert opened("streamlearn-without-anchor@5e-4", wishes).config.anchor.chunks == 0
    assert opened("streamlearn", wishes).config.learner.learning_rate == 1e-2


@pytest.mark.parametrize("arm", ["sgd_loop", "adamw_loop"])
def test_the_loops_move_all_weights(arm: str, maker: Maker) -> None:
    one, world = maker(arm)
    first = one.served_nll(world.sample.chunks)

    list(one.scores(world.sample.arrivals))

    assert not np.allclose(one.served_nll(world.sample.chunks), first, rtol=1e-6)
    assert all(parameter.requires_grad for parameter in one._scorer._model.parameters())  # type: ignore[attr-defined]


def test_the_frozen_base_stays_what_it_is(maker: Maker) -> None:
    one, world = maker("frozen")
    scores = list(one.scores(world.sample.arrivals))

    assert one.served_nll(world.sample.chunks) == pytest.approx(scores, rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # of libraries that others' loops are made of
def test_the_nightly_arm_scores_a_day_by_the_night_before(wishes: Wishes) -> None:
    """The first day by the base; training moves the next one."""
    world = opened("trainer_nightly", wishes)
    arm = Nightly(world.loaded, nights=2, seed=1)
    base = arm.served_nll(world.sample.chunks)

    scores = np.array(list(arm.scores(world.sample.arrivals)))

    changed = ~np.isclose(scores, base, rtol=1e-4)
    (first,) = np.flatnonzero(changed)[:1]
    assert 4 <= first <= 6
    assert not changed[:first].any()
    assert changed[first:].all()
    assert not world.loaded.model.training


def test_days_hold_equally_many_tokens_and_all_events() -> None:
    events = [dataclasses.replace(arrival(n), chunks=(chunk(n, tokens=1 + n % 7),)) for n in range(50)]

    days = list(nightly._days(events, 8))

    assert [event for day in days for event in day] == events
    assert len(days) == 8
    sizes = [sum(each.scored_tokens for event in day for each in event.chunks) for day in days]
    assert max(sizes) - min(sizes) <= 2 * 7


def test_a_single_event_is_a_day() -> None:
    events = [arrival(0)]

    assert [list(day) for day in nightly._days(events, 8)] == [events]


def test_what_our_arm_does_not_admit_is_scored_in_its_place(wishes: Wishes) -> None:
    """A source above its share is refused; the arm still owes a score for each chunk, in order."""
    settings: dict[str, Any] = {
        **wishes.settings,
        "hygiene": {"source_share": 0.01, "source_events": 3},
        "learner": {**wishes.settings.get("learner", {}), "learning_rate": 1e-4},
    }
    wished = dataclasses.replace(wishes, settings=settings)
    world = opened("streamlearn", wished)
    base = world.sample.chunks
    arm = make_arm("streamlearn", world, wished, lambda *_: None)
    frozen = arm.served_nll(base)

    scores = list(arm.scores(world.sample.arrivals))

    assert len(scores) == len(base)
    assert arm._stream.totals.filtered > 0  # type: ignore[attr-defined]
    # So slow a learner stays near the base, and a score is nearer to its own chunk's than another's would be.
    assert np.corrcoef(scores, frozen)[0, 1] > 0.8


def test_our_arm_tells_which_chunks_it_did_not_learn(wishes: Wishes) -> None:
    """By their numbers in the stream, whatever became of those before."""
    settings: dict[str, Any] = {**wishes.settings, "hygiene": {"near_zero": 100.0, "junk_z": 4.0}}
    wished = dataclasses.replace(wishes, settings=settings)
    world = opened("streamlearn", wished)
    arm = make_arm("streamlearn", world, wished, lambda *_: None)

    list(arm.scores(world.sample.arrivals))

    assert isinstance(arm, Streamlearn)
    assert arm.remarks() == {"alarms": [], "passed_over": list(range(10)), "refused": []}


def test_what_is_asked_besides_is_probed_at_its_places(wishes: Wishes) -> None:
    """Of an answer its own tokens alone count, and a change of source is a place to ask at."""
    asked = {"answer": [{"prompt": "the quick brown", "completion": " fox"}], "text": [{"text": "the quick brown fox"}]}
    result = run_here("frozen", dataclasses.replace(wishes, asked=asked, at_changes=True), lambda *_: None)
    world = opened("frozen", wishes)
    scorer = make_arm("frozen", world, wishes, lambda *_: None)
    (whole,) = world.chunker.chunk(Plain(text="the quick brown fox"))
    scored = np.zeros(len(whole.ids), dtype=np.bool_)
    scored[-1] = True

    assert result.probed["answer"] == result.probed["text"] == tuple(range(1, 11)), "sources take turns"
    alone = float(scorer.served_nll([dataclasses.replace(whole, scored=scored)])[0])
    assert result.probes["answer"] == pytest.approx((alone,) * 10, rel=1e-4)
    text = float(scorer.served_nll([whole])[0] / whole.scored_tokens)
    assert result.probes["text"] == pytest.approx((text,) * 10, rel=1e-4)
