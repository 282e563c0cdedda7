"""Experiment 2, the negative control: a stream that the base itself wrote, on which no learner can win.

What is lost against frozen is harm, and nothing else. The stream's seed is not
that of the anchor, so its chunks are others.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.learning import picture
from benchmarks.learning.experiment import Ask, Outcome, table
from benchmarks.learning.runs import FROZEN, OURS, Variant, cache, mean, run, sample_of, tokens_in, wishes, written
from streamlearn.bench.make import opened
from streamlearn.bench.measures import interval
from streamlearn.demo import streams
from streamlearn.learner.model import Loaded

BOUND = 0.005
"""Nats per token that may be lost."""
WITHOUT = "streamlearn-without-anchor"
_SEED = 7_000
"""Added to the call's: far from the anchor's own, 20,260."""
_ROWS = 32
"""Chunks sampled side by side; their caches fit in memory."""


def control(ask: Ask) -> Outcome:
    """Measure what learning loses where there is nothing to learn."""
    runs = []
    for seed in ask.seeds:
        wished = wishes(ask, base_stream(ask, seed), seed)
        results = run(ask, [Variant(label=arm, arm=arm) for arm in (FROZEN, OURS, WITHOUT)], wished)
        runs.append((sample_of(wished), results))
    rows: list[dict[str, Any]] = []
    for arm in (OURS, WITHOUT):
        loss = interval([(tokens_in(sample), found[arm].nll - found[FROZEN].nll) for sample, found in runs])
        rows.append({
            "arm": arm,
            "loss": loss.document(),
            "by_seed": [mean(sample, found[arm].nll - found[FROZEN].nll) for sample, found in runs],
            "held_out_loss": float(np.mean([
                found[arm].probes["held-out"][-1] - found[FROZEN].probes["held-out"][-1] for _, found in runs
            ])),
            "passed_over": sum(len(found[arm].remarks["passed_over"]) for _, found in runs),
            "alarms": sum(len(found[arm].remarks["alarms"]) for _, found in runs),
            "kept": loss.mean <= BOUND,
        })  # fmt: skip
    tokens = sum(sample.tokens for sample, _ in runs)
    shown = table(
        f"{tokens:,} tokens that the base wrote, {len(runs)} stream(s)",
        ["arm", "loss against frozen [95 %]", "held-out", "alarms", f"within +{BOUND}"],
        [
            [
                row["arm"],
                f"{row['loss']['mean']:+.4f} [{row['loss']['low']:+.4f}, {row['loss']['high']:+.4f}]",
                f"{row['held_out_loss']:+.4f}",
                str(row["alarms"]),
                "yes" if row["kept"] else "no",
            ]
            for row in rows
        ],
    )

    def draw(path: Path) -> None:
        with picture.canvas(
            path, "A stream that the base wrote: what learning loses", "tokens of the stream",
            "loss against the frozen base so far\n(nats per token, before learning)",
        ) as axes:  # fmt: skip
            for colour, arm in ((picture.OURS, OURS), (picture.RIVAL, WITHOUT)):
                for place, (sample, found) in enumerate(runs):
                    size = tokens_in(sample)
                    lost = picture.cumulated(size, found[arm].nll - found[FROZEN].nll)
                    axes.plot(np.cumsum(size), lost, color=colour, lw=1.5, label=arm if place == 0 else None)
            axes.axhline(BOUND, color=picture.DARK, ls="--", lw=1, label=f"bound, +{BOUND}")
            picture.zero(axes)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")

    return Outcome(
        stream="sampled from the base itself", tokens=runs[0][0].tokens, figures={"bound": BOUND, "arms": rows},
        table=shown, draw=draw,
    )  # fmt: skip


def base_stream(ask: Ask, seed: int) -> Path:
    """Return a JSONL file of chunks (`{"ids", "bytes"}`) that the base wrote, from the cache where it has them."""
    # A stream of one line, so that there is a model to ask.
    anything = written(ask, "anything", streams.stationary(events=1, seed=seed))
    loaded = opened(FROZEN, wishes(ask, anything, seed)).loaded
    tokens = loaded.context_tokens
    chunks = -(-ask.max_tokens // (tokens - 1))
    name = f"{loaded.base.weights_digest[:16]}-{loaded.base.dtype}-{seed}-{chunks}x{tokens}"
    file = (ask.folder if ask.fast else cache()) / f"control-{name}.jsonl"
    if not file.is_file():
        rows = sampled(loaded, chunks, seed=_SEED + seed, told=lambda done: ask.told("the stream", done, chunks))
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        Path(out.name).replace(file)
    return file


@torch.no_grad()
def sampled(loaded: Loaded, chunks: int, *, seed: int, told: Any) -> list[dict[str, Any]]:
    """Return `chunks` whole contexts that the base writes after the start token: temperature 1, every token possible.

    As `learner.self_anchor` samples, with a seed of its own.
    """
    tokenizer, tokens = loaded.tokenizer, loaded.context_tokens
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    made: list[dict[str, Any]] = []
    with torch.random.fork_rng(devices=[]), loaded.model.disable_adapter():
        torch.manual_seed(seed)
        while len(made) < chunks:
            ids = torch.full((min(_ROWS, chunks - len(made)), 1), start, device=loaded.device)
            out = loaded.model.generate(  # type: ignore[no-untyped-call]
                input_ids=ids, attention_mask=torch.ones_like(ids), min_new_tokens=tokens - 1,
                max_new_tokens=tokens - 1, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, use_cache=True,
                eos_token_id=None, pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            made.extend({"ids": row, "bytes": len(tokenizer.decode(row[1:]).encode())} for row in out.cpu().tolist())
            told(len(made))
    return made
