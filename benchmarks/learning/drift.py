"""Experiment 6: one subject, and from one event on another. When is it noticed, and does the reaction help?

The reaction on and off are the same run up to the alarm: what differs after
it is the reaction's. Live losses after the switch, paired over all seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import picture
from benchmarks.learning.experiment import Ask, Outcome, table
from benchmarks.learning.runs import FROZEN, Variant, events_for, mean, run, sample_of, tokens_in, wishes, written
from benchmarks.learning.small import AFTER, BEFORE, pools
from streamlearn.bench.measures import ArmResult, interval
from streamlearn.bench.report import smooth
from streamlearn.bench.sample import Sample
from streamlearn.demo import streams

SPANS = (100, 300)
"""Chunks after the switch over which losses are compared."""
LATEST = 100
"""Chunks within which the alarm should come."""
OFF, ON = "reaction off", "reaction on"
_VARIANTS = (
    Variant(label=FROZEN, arm=FROZEN),
    Variant(label=OFF, settings={"drift": {"react": False}}),
    Variant(label=ON, settings={"drift": {"react": True}}),
)
# The base is watched on the share of chunks that a worker lets it score; a few hours of event time are forgotten.
_AS_A_WORKER = {"evaluation": {"sample": 0.2}, "window": {"half_life": "4h"}}


def drift(ask: Ask) -> Outcome:
    """Switch, with and without the reaction."""
    runs = [_lived(ask, seed) for seed in ask.seeds]
    alarms = [_alarms(sample, found[ON]) for sample, found in runs]
    spans = {str(span): _compared(runs, span) for span in SPANS}
    sample, found = runs[0]
    delays = [each["delay"] for each in alarms]
    shown = table(
        f"{BEFORE}, then {AFTER}: {sample.tokens:,} tokens, {len(runs)} seed(s); alarm after "
        + ", ".join("none" if delay is None else f"{delay}" for delay in delays)
        + f" chunks, {sum(each['false'] for each in alarms)} false",
        ["chunks after the switch", FROZEN, OFF, ON, "reaction gains [95 %]"],
        [
            [
                span if min(each["chunks"]) == int(span) else f"{span} (only {min(each['chunks'])})",
                *(f"{each[name]:.3f}" for name in (FROZEN, OFF, ON)),
                f"{each['gain']['mean']:+.4f} [{each['gain']['low']:+.4f}, {each['gain']['high']:+.4f}]",
            ]
            for span, each in spans.items()
        ],
    )

    def draw(path: Path) -> None:
        tokens, (switch, *_) = tokens_in(sample), sample.changes()
        across = np.arange(len(tokens)) - switch
        with picture.canvas(
            path, f"{BEFORE}, then {AFTER}: how fast does the loss recover?", "chunks after the switch",
            "nats per token before learning",
        ) as axes:  # fmt: skip
            for colour, name in ((picture.QUIET, FROZEN), (picture.RIVAL, OFF), (picture.OURS, ON)):
                axes.plot(across, smooth(found[name].nll, tokens), color=colour, lw=1.6, label=name)
            axes.axvline(0, color=picture.DARK, lw=0.8)
            for place, alarm in enumerate(found[ON].remarks["alarms"]):
                axes.axvline(
                    alarm["chunk"] - switch, color=picture.OURS, ls="--", lw=1, label=None if place else "alarm"
                )

    figures = {
        "latest_alarm_wanted": LATEST, "alarms": alarms, "delay_median": _median(delays),
        "noticed_in_time": all(delay is not None and delay <= LATEST for delay in delays), "after_the_switch": spans,
    }  # fmt: skip
    return Outcome(stream=f"abrupt: {BEFORE}, {AFTER}", tokens=sample.tokens, figures=figures, table=shown, draw=draw)


def _lived(ask: Ask, seed: int) -> tuple[Sample, dict[str, ArmResult]]:
    events = events_for(ask)
    made = streams.abrupt(
        events=events, switch=events // 2, seed=seed, before=BEFORE, after=AFTER, pools=pools() if ask.fast else None
    )
    file = written(ask, f"abrupt-{seed}", made)
    wished = wishes(ask, file, seed, max_tokens=10**9, settings=_AS_A_WORKER)
    return sample_of(wished), run(ask, _VARIANTS, wished)


def _alarms(sample: Sample, result: ArmResult) -> dict[str, Any]:
    """Return when the switch was noticed, in chunks after it, and how many alarms came before it."""
    (switch, *_), alarms = sample.changes(), result.remarks["alarms"]
    after = [alarm for alarm in alarms if alarm["chunk"] >= switch]
    return {
        "delay": after[0]["chunk"] - switch if after else None,
        "signal": after[0]["signal"] if after else None,
        "cut_off_by": after[0]["cut"] - switch if after else None,
        "false": len(alarms) - len(after),
        "all": [{"chunk": alarm["chunk"] - switch, "signal": alarm["signal"]} for alarm in alarms],
    }


def _compared(runs: list[tuple[Sample, dict[str, ArmResult]]], span: int) -> dict[str, Any]:
    parts, means = [], {name: [0.0] * 0 for name in (FROZEN, OFF, ON)}
    for sample, found in runs:
        tokens, (switch, *_) = tokens_in(sample), sample.changes()
        after = slice(switch, switch + span)
        parts.append((tokens[after], (found[OFF].nll - found[ON].nll)[after]))
        for name, each in means.items():
            each.append(mean(sample, found[name].nll, after))
    return {
        "gain": interval(parts).document(),
        "gain_by_seed": [float(gain.sum() / tokens.sum()) for tokens, gain in parts],
        "chunks": [len(gain) for _, gain in parts],
        **{name: float(np.mean(each)) for name, each in means.items()},
    }


def _median(delays: list[int | None]) -> float | None:
    known = [delay for delay in delays if delay is not None]
    return float(np.median(known)) if known else None
