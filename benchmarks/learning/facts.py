"""Experiment 5: invented facts in the stream. Does the learner know them afterwards, in words it never read?

Asked beside them: facts on the same towns and animals that nobody told. A
learner that picked up only which towns there are gains on both alike; what it
gains more on those that were told is knowledge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import picture
from benchmarks.learning.experiment import Ask, Outcome, table
from benchmarks.learning.runs import FROZEN, OURS, Variant, events_for, run, sample_of, tokens_in, wishes, written
from benchmarks.learning.small import pools
from streamlearn.bench.measures import ArmResult, Interval, interval
from streamlearn.bench.sample import Sample
from streamlearn.demo import streams
from streamlearn.demo.facts import Fact, facts

_COUNT = 16
_COUNT_FAST = 4
_SHARE = 0.15
TOLD, UNTOLD = "told", "never told"


def learnt(ask: Ask) -> Outcome:
    """Plant facts, and ask for them before and after."""
    runs = [_lived(ask, seed) for seed in ask.seeds]
    sample, found = runs[0]
    rows: list[dict[str, Any]] = []
    for arm in (FROZEN, OURS):
        for name in (TOLD, UNTOLD):
            before = float(np.mean([_all(results[FROZEN], name)[0] for _, results in runs]))
            after = float(np.mean([_all(results[arm], name)[-1] for _, results in runs]))
            rows.append({"arm": arm, "facts": name, "before": before, "after": after, "gain": before - after})
    tellings = _first_and_last(runs)
    knowledge = rows[2]["gain"] - rows[3]["gain"]
    shown = table(
        f"{_count(ask)} invented facts in {sample.tokens:,} tokens, {len(runs)} seed(s); answers in nats/token",
        ["arm", "facts", "before", "after", "gain"],
        [
            [row["arm"], row["facts"], f"{row['before']:.3f}", f"{row['after']:.3f}", f"{row['gain']:+.3f}"]
            for row in rows
        ]
        + [[OURS, "told, more than never told", "", "", f"{knowledge:+.3f}"]],
    )

    def draw(path: Path) -> None:
        across = [0.0, *(_tokens_before(sample, found[OURS]))]
        with picture.canvas(
            path, "Invented facts: how surprising is the answer?", "tokens of the stream",
            "loss of the answers, asked in words\nthat no event has (nats per token)",
        ) as axes:  # fmt: skip
            for colour, name in ((picture.OURS, TOLD), (picture.RIVAL, UNTOLD)):
                axes.plot(
                    across, [_all(found[FROZEN], name)[0], *_all(found[OURS], name)], "o-", color=colour, lw=2,
                    label=f"facts {name}",
                )  # fmt: skip
                axes.axhline(_all(found[FROZEN], name)[0], color=colour, ls=":", lw=1)
            axes.set_ylim(0.0, 1.08 * axes.get_ylim()[1])
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")

    figures = {
        "facts": _count(ask), "answers": rows, "told_more_than_never_told": knowledge,
        "tellings_gain_over_frozen": {name: each.document() for name, each in tellings.items()},
    }  # fmt: skip
    return Outcome(
        stream="planted facts among release notes", tokens=sample.tokens, figures=figures, table=shown, draw=draw
    )


def _count(ask: Ask) -> int:
    return _COUNT_FAST if ask.fast else _COUNT


def _lived(ask: Ask, seed: int) -> tuple[Sample, dict[str, ArmResult]]:
    count = _count(ask)
    # The same call with twice as many begins with other names: draw all at once and tell half of them.
    told = facts(count=count, seed=seed)
    names = {fact.prompt for fact in told}
    untold = [fact for fact in facts(count=4 * count, seed=seed + 1) if fact.prompt not in names][:count]
    made = streams.planted(
        events=events_for(ask), seed=seed, count=count, share=0.5 if ask.fast else _SHARE,
        pools=pools() if ask.fast else None,
    )  # fmt: skip
    asked = {TOLD: _questions(told), UNTOLD: _questions(untold)}
    wished = wishes(ask, written(ask, f"facts-{seed}", made), seed, asked=asked, max_tokens=10**9)
    return sample_of(wished), run(ask, [Variant(label=arm, arm=arm) for arm in (FROZEN, OURS)], wished)


def _questions(known: Any) -> list[dict[str, str]]:
    asked: list[Fact] = list(known)
    return [{"prompt": prompt, "completion": answer} for fact in asked for prompt, answer in fact.questions]


def _all(result: ArmResult, name: str) -> tuple[float, ...]:
    return result.probes[name]


def _tokens_before(sample: Sample, result: ArmResult) -> list[float]:
    across = np.cumsum(tokens_in(sample))
    return [float(across[chunks - 1]) for chunks in result.probed[TOLD]]


def _first_and_last(runs: list[tuple[Sample, dict[str, ArmResult]]]) -> dict[str, Interval]:
    """Return ours' gain over frozen on the first and the last third of the tellings, as they came by."""
    parts: dict[str, list[Any]] = {"first third": [], "last third": []}
    for sample, found in runs:
        places = np.flatnonzero(np.array(sample.sources) == "facts")
        gain, tokens = found[FROZEN].nll - found[OURS].nll, tokens_in(sample)
        third = max(len(places) // 3, 1)
        for name, part in (("first third", places[:third]), ("last third", places[-third:])):
            parts[name].append((tokens[part], gain[part]))
    return {name: interval(each) for name, each in parts.items()}
