"""Test, then train: how well each chunk was predicted before it was learnt.

Keeps un-faded totals and fading averages (Gama, Sebastião & Rodrigues, 2013)
of several models over the sources of a stream. Knows numbers, not models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from streamlearn.core.manifest import Score, Scores

FADING = (0.99, 0.999)
"""α per chunk: about the last 100 chunks, for alarms; about the last 1,000, for reports."""
OTHER = "other"


@dataclass(slots=True, kw_only=True)
class Tally:
    """Sums over scored chunks of one model and source; those called faded are one for each α of `FADING`."""

    nll: float = 0.0
    """Nats."""
    tokens: int = 0
    bytes: int = 0
    faded_nll: list[float] = field(default_factory=lambda: [0.0] * len(FADING))
    faded_tokens: list[float] = field(default_factory=lambda: [0.0] * len(FADING))
    faded_bytes: list[float] = field(default_factory=lambda: [0.0] * len(FADING))

    def add(self, nll: float, tokens: int, text_bytes: int) -> None:
        """Count one chunk of `tokens` scored tokens and `nll` nats in all."""
        self.nll += nll
        self.tokens += tokens
        self.bytes += text_bytes
        for i, alpha in enumerate(FADING):
            self.faded_nll[i] = alpha * self.faded_nll[i] + nll
            self.faded_tokens[i] = alpha * self.faded_tokens[i] + tokens
            self.faded_bytes[i] = alpha * self.faded_bytes[i] + text_bytes

    def score(self, by_source: dict[str, Score] | None = None) -> Score:
        """Return the means; only defined where something was counted."""
        return Score(
            nats_per_token=self.nll / self.tokens,
            bits_per_byte=_bits_per_byte(self.nll, self.bytes),
            tokens=self.tokens,
            fading={
                f"{alpha:g}": nll / tokens
                for alpha, nll, tokens in zip(FADING, self.faded_nll, self.faded_tokens, strict=True)
            },
            fading_bits_per_byte={
                f"{alpha:g}": _bits_per_byte(nll, text_bytes)
                for alpha, nll, text_bytes in zip(FADING, self.faded_nll, self.faded_bytes, strict=True)
            },
            by_source=by_source or {},
        )


def _bits_per_byte(nll: float, text_bytes: float) -> float:
    # Chunks without any text of their own have tokens to score all the same.
    return nll / (max(text_bytes, 1.0) * math.log(2.0))


class Prequential:
    """Scores of the live adapter and the frozen base, overall and by source.

    `live` and `base` see the same sampled chunks, so their difference is free
    of which chunks happened to be sampled; `live_every_chunk` sees all.
    """

    MODELS = ("live", "base", "live_every_chunk")

    def __init__(self, max_sources: int) -> None:
        self._max_sources = max_sources
        self._all: dict[str, Tally] = {}
        self._by_source: dict[str, dict[str, Tally]] = {}

    def add(self, source: str, *, tokens: int, text_bytes: int, live: float, base: float | None) -> None:
        """Count one chunk: summed nats of the live adapter and, where sampled, of the base."""
        source = self._known(source)
        self._count("live_every_chunk", source, live, tokens, text_bytes)
        if base is not None:
            self._count("live", source, live, tokens, text_bytes)
            self._count("base", source, base, tokens, text_bytes)

    def scores(self) -> Scores:
        """Return all means."""
        return Scores(
            **{
                model: tally.score({source: own.score() for source, own in sorted(self._by_source[model].items())})
                for model, tally in self._all.items()
            }
        )

    def state(self) -> dict[str, Any]:
        """Return the whole state."""
        return {
            "all": {model: asdict(tally) for model, tally in self._all.items()},
            "by_source": {
                model: {source: asdict(tally) for source, tally in tallies.items()}
                for model, tallies in self._by_source.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`."""
        self._all = {model: Tally(**tally) for model, tally in state["all"].items()}
        self._by_source = {
            model: {source: Tally(**tally) for source, tally in tallies.items()}
            for model, tallies in state["by_source"].items()
        }

    def _known(self, source: str) -> str:
        known = self._by_source.get("live_every_chunk", {})
        return source if source in known or len(known) < self._max_sources else OTHER

    def _count(self, model: str, source: str, nll: float, tokens: int, text_bytes: int) -> None:
        self._all.setdefault(model, Tally()).add(nll, tokens, text_bytes)
        self._by_source.setdefault(model, {}).setdefault(source, Tally()).add(nll, tokens, text_bytes)
