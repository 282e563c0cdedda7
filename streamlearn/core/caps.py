"""How much of the stream one source may be.

Whoever floods a stream teaches the model their text alone. Over about one
half-life a source may have a share of the tokens that are learnt, never less
than twice its fair part, and a number of chunks. Knows names of sources, not
what they wrote; a source that takes many names is not stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GONE = 0.5
"""Tokens below which a source is no longer present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapSettings:
    """What one source may have. Counts halve every `half_life_s`: a steady source's stands for 1.44 half-lives."""

    half_life_s: float
    """Event-time seconds."""
    share: float
    """Of all tokens learnt."""
    fair_parts: float
    """Times an equal part of the present sources that is always allowed: at 2, one of six may have a third."""
    free_tokens: int
    """Tokens allowed whatever the share: a young or quiet stream has no shares to speak of."""
    max_chunks: int
    """Chunks allowed whatever the share."""
    max_sources: int
    """Sources that are kept apart; the ones with the fewest tokens are forgotten first."""


@dataclass(slots=True)
class _Count:
    tokens: float
    chunks: float


class SourceCaps:
    """Fading counts of what each source has had learnt."""

    def __init__(self, settings: CapSettings) -> None:
        self._settings = settings
        self._counts: dict[str, _Count] = {}
        self._newest: float | None = None

    def admits(self, source: str, tokens: int, ts: float) -> bool:
        """Return whether `source` may have another chunk learnt, and if so count it.

        Args:
            source: who wrote it.
            tokens: scored tokens of the chunk.
            ts: event time, seconds; a late chunk counts less by its age.
        """
        newest = self._advance(ts)
        count = self._counts.get(source, _Count(0.0, 0.0))
        if count.chunks + 1.0 > self._settings.max_chunks or count.tokens + tokens > self._allowed(source, tokens):
            return False
        weight = self._faded(newest - ts)
        count.tokens += tokens * weight
        count.chunks += weight
        self._counts[source] = count
        if len(self._counts) > self._settings.max_sources:
            self._counts.pop(min(self._counts, key=lambda name: (self._counts[name].tokens, name)))
        return True

    def shares(self) -> dict[str, float]:
        """Return the share of each present source of the tokens learnt, for metrics."""
        total = self._total()
        return {source: count.tokens / total for source, count in sorted(self._counts.items())} if total else {}

    def document(self) -> dict[str, Any]:
        """Return the whole state as JSON."""
        counts = {source: [count.tokens, count.chunks] for source, count in self._counts.items()}
        return {"newest": self._newest, "counts": counts}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from `document()`."""
        self._newest = None if document["newest"] is None else float(document["newest"])
        self._counts = {
            source: _Count(float(tokens), float(chunks)) for source, (tokens, chunks) in document["counts"].items()
        }

    def _allowed(self, source: str, tokens: int) -> float:
        settings = self._settings
        present = len(self._counts) + (source not in self._counts)
        share = max(settings.share, settings.fair_parts / present)
        # Of what will have been learnt with this chunk: a source alone has all of it.
        return max(share * (self._total() + tokens), float(settings.free_tokens))

    def _total(self) -> float:
        # Exact, so that the order of sources, which JSON need not keep, makes no difference.
        return math.fsum(count.tokens for count in self._counts.values())

    def _advance(self, ts: float) -> float:
        if self._newest is None or ts > self._newest:
            factor = 1.0 if self._newest is None else self._faded(ts - self._newest)
            for count in self._counts.values():
                count.tokens *= factor
                count.chunks *= factor
            self._counts = {source: count for source, count in self._counts.items() if count.tokens >= _GONE}
            self._newest = ts
        return self._newest

    def _faded(self, age_s: float) -> float:
        return math.exp2(-age_s / self._settings.half_life_s)
