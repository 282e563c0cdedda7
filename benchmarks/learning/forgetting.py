"""Experiment 3: a subject, another, and the first again. What of the first is lost meanwhile, and how soon it is back.

Asked of texts that were in the stream and of others on the same subject that
never were, under the weights that would be served; and of the live losses
when the subject comes back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import picture
from benchmarks.learning.experiment import Ask, Outcome, table
from benchmarks.learning.runs import FROZEN, OURS, Variant, events_for, mean, run, sample_of, tokens_in, wishes, written
from benchmarks.learning.small import AFTER, BEFORE, pools
from streamlearn.bench.measures import ArmResult, interval
from streamlearn.bench.report import smooth
from streamlearn.bench.sample import Sample
from streamlearn.demo import streams
from streamlearn.demo.pools import bundled

ARMS = (FROZEN, OURS, "streamlearn-without-replay", "streamlearn-without-anchor")
_ASKED = 24
_SOON = 50
"""Chunks after the return that count as soon."""


def forgetting(ask: Ask) -> Outcome:
    """Run A, B, A."""
    runs = [_lived(ask, seed) for seed in ask.seeds]
    rows = [_row(arm, runs) for arm in ARMS]
    sample, found = runs[0]
    shown = table(
        f"{BEFORE}, then {AFTER}, then {BEFORE}: {sample.tokens:,} tokens, {len(runs)} seed(s)",
        ["arm", "gain at the end of A", "forgotten over B: seen", "not seen", "gain soon after the return [95 %]",
         "at the end", "held-out"],
        [
            [
                row["arm"],
                f"{row['gain_before']:+.3f}",
                f"{row['forgotten_seen']:+.3f}",
                f"{row['forgotten_unseen']:+.3f}",
                "" if row["arm"] == FROZEN else
                f"{row['gain_soon']['mean']:+.3f} [{row['gain_soon']['low']:+.3f}, {row['gain_soon']['high']:+.3f}]",
                f"{row['gain_end']:+.3f}",
                f"{row['held_out_loss']:+.3f}",
            ]
            for row in rows
        ],
    )  # fmt: skip

    def draw(path: Path) -> None:
        tokens = tokens_in(sample)
        out, back = sample.changes()
        across = np.cumsum(tokens)
        with picture.canvas(
            path, "A, B, A: what is left of the first subject", "tokens of the stream",
            "gain over the frozen base\n(nats per token, before learning)", pad=20.0,
        ) as axes:  # fmt: skip
            picture.phases(axes, [0, across[out], across[back], across[-1]], ["A", "B", "A again"])
            for colour, arm in zip(picture.COLOURS, ARMS[1:], strict=False):
                axes.plot(across, smooth(found[FROZEN].nll - found[arm].nll, tokens), color=colour, lw=1.6, label=arm)
            picture.zero(axes)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")

    figures = {"soon_chunks": _SOON, "arms": rows, "without_replay_less_ours_soon": _replay(runs)}
    return Outcome(stream=f"{BEFORE}, {AFTER}, {BEFORE}", tokens=sample.tokens, figures=figures, table=shown, draw=draw)


def _lived(ask: Ask, seed: int) -> tuple[Sample, dict[str, ArmResult]]:
    known = pools() if ask.fast else bundled()
    period = events_for(ask) // 3
    made = streams.recurring(events=3 * period, period=period, seed=seed, first=BEFORE, second=AFTER, pools=known)
    texts = [event["text"] for event in made[:period]]
    told = {event["text"] for event in made}
    unseen = [text for text in known[BEFORE] if text not in told]
    random = np.random.default_rng(seed)
    asked = {
        name: [{"text": each[place]} for place in sorted(random.permutation(len(each))[:_ASKED])]
        for name, each in (("seen", texts), ("unseen", unseen))
    }
    file = written(ask, f"aba-{seed}", made)
    wished = wishes(ask, file, seed, asked=asked, at_changes=True, max_tokens=10**9)
    return sample_of(wished), run(ask, [Variant(label=arm, arm=arm) for arm in ARMS], wished)


def _row(arm: str, runs: list[tuple[Sample, dict[str, ArmResult]]]) -> dict[str, Any]:
    gains, before, end, lost = [], [], [], {"seen": [0.0] * 0, "unseen": [0.0] * 0}
    held = []
    for sample, found in runs:
        out, back = sample.changes()
        gain = found[FROZEN].nll - found[arm].nll
        tokens = tokens_in(sample)
        soon = slice(back, back + _SOON)
        gains.append((tokens[soon], gain[soon]))
        before.append(mean(sample, gain, slice(max(out - _SOON, 0), out)))
        end.append(mean(sample, gain, slice(max(len(tokens) - _SOON, back), len(tokens))))
        for name, each in lost.items():
            each.append(_probe(found[arm], name, back) - _probe(found[arm], name, out))
        held.append(found[arm].probes["held-out"][-1] - found[FROZEN].probes["held-out"][-1])
    return {
        "arm": arm,
        "gain_before": float(np.mean(before)),
        "forgotten_seen": float(np.mean(lost["seen"])),
        "forgotten_unseen": float(np.mean(lost["unseen"])),
        "gain_soon": interval(gains).document(),
        "gain_end": float(np.mean(end)),
        "held_out_loss": float(np.mean(held)),
        "probes": [
            {"chunk": chunk, "seen": seen, "unseen": unseen}
            for chunk, seen, unseen in zip(
                runs[0][1][arm].probed["seen"], runs[0][1][arm].probes["seen"], runs[0][1][arm].probes["unseen"],
                strict=True,
            )
        ],
    }  # fmt: skip


def _probe(result: ArmResult, name: str, chunks: int) -> float:
    """Return a probe's nats per token after so many chunks of the stream."""
    return result.probes[name][result.probed[name].index(chunks)]


def _replay(runs: list[tuple[Sample, dict[str, ArmResult]]]) -> dict[str, float]:
    """Return what leaving replay out costs soon after the return."""
    parts = []
    for sample, found in runs:
        soon = slice(sample.changes()[1], sample.changes()[1] + _SOON)
        parts.append((tokens_in(sample)[soon], (found["streamlearn-without-replay"].nll - found[OURS].nll)[soon]))
    return interval(parts).document()
