"""One source writes scrambled text: what the junk filter passes over, and what the poisoned learner loses.

It begins in the middle of the stream, as the filter knows by then what is
usual. Beside the poisoned stream stands its twin without that source: the same
texts in the same order. What the learner loses is on the texts that both have.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import picture
from benchmarks.learning.experiment import Ask, Outcome, table
from benchmarks.learning.runs import OURS, Variant, events_for, merged, run, sample_of, tokens_in, wishes, written
from benchmarks.learning.small import BEFORE, pools
from streamlearn.bench.measures import ArmResult, interval
from streamlearn.bench.sample import Sample
from streamlearn.demo import streams
from streamlearn.demo.scramble import Unit

MALLORY = "mallory"
KINDS: tuple[tuple[Unit, float], ...] = (("letters", 0.01), ("letters", 0.05), ("words", 0.05))
KINDS_FAST: tuple[tuple[Unit, float], ...] = (("letters", 0.2),)
"""So much that even a hundred chunks tell."""
_Z_FAST = {"hygiene": {"junk_z": 2.5}}
"""What the tiny model learns first is still in the spread of its losses."""
FILTER, NO_FILTER = "junk filter", "no junk filter"

_VARIANTS = (
    Variant(label=FILTER),
    Variant(label=NO_FILTER, settings={"hygiene": {"junk_z": None}}),
)


def poisoned(ask: Ask) -> Outcome:
    """Poison streams of each kind, and compare with their twins."""
    rows: list[dict[str, Any]] = []
    tokens = 0
    # All of them first: one that cannot be had is told before the others have taken their hours.
    made = [(unit, share, _scrambled(ask, unit, share)) for unit, share in (KINDS_FAST if ask.fast else KINDS)]
    for unit, share, events in made:
        clean = [event for event in events if event["source"] != MALLORY]
        bad, good = (
            wishes(ask, written(ask, f"{name}-{unit}-{share}", each), ask.seed, max_tokens=10**9)
            for name, each in (("poisoned", events), ("clean", clean))
        )
        sample, twin = sample_of(bad), sample_of(good)
        if ask.fast:
            bad, good = (dataclasses.replace(each, settings=merged(each.settings, _Z_FAST)) for each in (bad, good))
        unhurt = run(ask, [Variant(label=OURS)], good)[OURS]
        found = run(ask, _VARIANTS, bad)
        rows += [_row(unit, share, label, (sample, found[label]), (twin, unhurt)) for label in found]
        tokens = sample.tokens
    shown = table(
        "one source writes scrambled text",
        ["scrambled", "share", "learner", "passed over: of it", "of the rest", "loss on the rest [95 %]",
         "of held-out text"],
        [
            [
                row["scrambled"], f"{row['share']:.0%}", row["learner"],
                f"{row['passed_over_poison']} of {row['poison_chunks']}",
                f"{row['passed_over_rest']} of {row['rest_chunks']}",
                f"{row['loss']['mean']:+.4f} [{row['loss']['low']:+.4f}, {row['loss']['high']:+.4f}]",
                f"{row['held_out_loss']:+.4f}",
            ]
            for row in rows
        ],
    )  # fmt: skip

    def draw(path: Path) -> None:
        names = [f"{row['share']:.0%} {row['scrambled']},\n{row['learner']}" for row in rows]
        losses = np.array([[row["loss"][name] for name in ("mean", "low", "high")] for row in rows])
        with picture.canvas(
            path, "What a source of scrambled text costs the others", "", "loss on all other texts (nats per token)"
        ) as axes:
            axes.bar(
                names, losses[:, 0], yerr=np.abs(losses[:, 1:] - losses[:, :1]).T, capsize=4,
                color=[picture.OURS if row["learner"] == FILTER else picture.RIVAL for row in rows],
            )  # fmt: skip
            picture.zero(axes)

    return Outcome(
        stream="release notes, some of them scrambled", tokens=tokens, figures={"kinds": rows}, table=shown, draw=draw
    )


def _scrambled(ask: Ask, unit: Unit, share: float) -> list[streams.Event]:
    """Return the poisoned stream.

    Raises:
        ValueError: it is so short that nothing in it is poison.
    """
    events = events_for(ask)
    made = streams.poison(
        events=events, seed=ask.seed, share=share, source=MALLORY, scramble=unit, begin=events // 2,
        # Of one subject: the tiny model tells little else apart.
        pools={BEFORE: pools()[BEFORE]} if ask.fast else None,
    )  # fmt: skip
    if not any(event["source"] == MALLORY for event in made):
        raise ValueError(
            f"{share:.0%} of the later half of {events} events is none: raise --max-tokens ({ask.max_tokens:,})"
        )
    return made


def _row(
    unit: str, share: float, label: str, hurt: tuple[Sample, ArmResult], unhurt: tuple[Sample, ArmResult]
) -> dict[str, Any]:
    (sample, found), (twin, clean) = hurt, unhurt
    theirs = np.array(sample.sources) == MALLORY
    passed_over = np.zeros(len(theirs), dtype=np.bool_)
    passed_over[found.remarks["passed_over"]] = True
    kept = [chunk.ids.tobytes() for chunk, bad in zip(sample.chunks, theirs, strict=True) if not bad]
    assert kept == [chunk.ids.tobytes() for chunk in twin.chunks], "the twin has the same texts in the same order"
    loss = interval([(tokens_in(twin), found.nll[~theirs] - clean.nll)])
    return {
        "scrambled": unit,
        "share": share,
        "learner": label,
        "poison_chunks": int(theirs.sum()),
        "passed_over_poison": int((passed_over & theirs).sum()),
        "rest_chunks": int((~theirs).sum()),
        "passed_over_rest": int((passed_over & ~theirs).sum()),
        "loss": loss.document(),
        "held_out_loss": found.probes["held-out"][-1] - clean.probes["held-out"][-1],
        "alarms": len(found.remarks["alarms"]),
    }
