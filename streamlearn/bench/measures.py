"""From scores to figures, and how sure they are.

Differences between arms are paired: the same chunks, in blocks of neighbours,
as scores of one document hang together (moving block bootstrap, Künsch 1989).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.bench.sample import Sample

_BLOCK = 16
"""Chunks in a block: about what the gate takes for independent."""
_RESAMPLES = 2_000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """What one arm did."""

    arm: str
    nll: NDArray[np.float64]
    """Summed nats of each chunk, found before it was learnt, shape (C,)."""
    probes: Mapping[str, tuple[float, ...]]
    """Nats per token of each probe text under what would be served, at the times of probing."""
    seconds: float
    """Of scoring and learning, probing left out."""
    peak_rss_mb: int
    probed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Chunks of the stream that were scored before each probe, as many as there are `probes`."""
    remarks: Mapping[str, Any] = field(default_factory=dict)
    """What the arm tells beside its scores; see `Streamlearn.remarks`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and where it lies with 95 % confidence."""

    mean: float
    low: float
    high: float

    def document(self) -> dict[str, float]:
        """Return it as JSON, rounded."""
        return {name: round(value, 4) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One row of the table."""

    arm: str
    nats_per_token: float
    nats_per_token_last_fifth: float
    bits_per_byte: float
    forgetting: float | None
    """Nats per token that the stream's first tenth lost between its best probe and the last."""
    forgetting_early_half: float | None
    anchor_nats: float | None
    """Held-out text at the end, nats per token."""
    anchor_loss: float | None
    """The same, above the frozen base."""
    tokens_per_s: float
    peak_rss_mb: int
    seconds: float
    by_topic: dict[str, tuple[float, float]] = field(default_factory=dict)
    """(nats per token, bits per byte) of each source."""


def figures(sample: Sample, result: ArmResult, *, anchor_base: float | None) -> Figures:
    """Return the figures of an arm on `sample`."""
    tokens = np.array([chunk.scored_tokens for chunk in sample.chunks])
    size = np.array([chunk.text_bytes for chunk in sample.chunks])
    sources = np.array(sample.sources)
    fifth = np.cumsum(tokens) > 0.8 * tokens.sum()
    anchor = result.probes.get("held-out")
    return Figures(
        arm=result.arm,
        nats_per_token=float(result.nll.sum() / tokens.sum()),
        nats_per_token_last_fifth=float(result.nll[fifth].sum() / tokens[fifth].sum()),
        bits_per_byte=bits_per_byte(result.nll, size),
        forgetting=_forgotten(result.probes.get("first tenth")),
        forgetting_early_half=_forgotten(result.probes.get("early half")),
        anchor_nats=anchor[-1] if anchor else None,
        anchor_loss=anchor[-1] - anchor_base if anchor and anchor_base is not None else None,
        tokens_per_s=float(tokens.sum() / result.seconds),
        peak_rss_mb=result.peak_rss_mb,
        seconds=result.seconds,
        by_topic={
            str(source): (
                float(result.nll[sources == source].sum() / tokens[sources == source].sum()),
                bits_per_byte(result.nll[sources == source], size[sources == source]),
            )
            for source in np.unique(sources)
        },
    )


def bits_per_byte(nll: NDArray[np.float64], size: NDArray[np.int64]) -> float:
    """Return summed nats over bytes of text as bits per byte."""
    return float(nll.sum() / (max(size.sum(), 1) * math.log(2.0)))


def paired(sample: Sample, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Interval:
    """Return how many nats per token `theirs` is above `ours`: the gain of ours, with its interval."""
    tokens = np.array([chunk.scored_tokens for chunk in sample.chunks], dtype=np.float64)
    return interval([(tokens, theirs - ours)])


def interval(runs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Interval:
    """Return the mean of differences over all of `runs`, in nats per token, with its interval.

    Args:
        runs: of each (scored tokens, difference of summed nats) of its chunks in stream order, shapes (C,); no block
            lies across two runs.
    """
    tokens, gain = (np.concatenate([run[place] for run in runs]) for place in (0, 1))
    block = min(_BLOCK, *(len(run[0]) for run in runs))
    ends = np.cumsum([len(run[0]) for run in runs])
    begins = [np.arange(end - len(run[0]), end - block + 1) for end, run in zip(ends, runs, strict=True)]
    random = np.random.default_rng(0)
    starts = random.choice(np.concatenate(begins), size=(_RESAMPLES, -(-len(gain) // block)))
    places = (starts[:, :, None] + np.arange(block)).reshape(_RESAMPLES, -1)
    means = gain[places].sum(axis=1) / tokens[places].sum(axis=1)
    low, high = np.quantile(means, [(1.0 - _LEVEL) / 2.0, (1.0 + _LEVEL) / 2.0])
    return Interval(mean=float(gain.sum() / tokens.sum()), low=float(low), high=float(high))


def _forgotten(probes: Sequence[float] | None) -> float | None:
    return probes[-1] - min(probes) if probes else None
