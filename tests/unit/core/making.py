"""Makers of small chunks and arrivals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamlearn.core.batches import StepResult
from streamlearn.core.events import Arrival, Chunk, Outcome
from streamlearn.core.mix import Shares
from streamlearn.core.stream import StreamSettings
from streamlearn.core.vigilance import VigilanceSettings
from streamlearn.core.window import WindowBounds


def chunk(number: int = 0, tokens: int = 8) -> Chunk:
    """A chunk of `tokens` scored tokens, all of them `number`."""
    scored = np.ones(tokens + 1, dtype=np.bool_)
    scored[0] = False
    return Chunk(ids=np.full(tokens + 1, number, dtype=np.int32), scored=scored, text_bytes=3 * tokens)


def arrival(
    offset: int,
    *,
    outcome: Outcome = Outcome.ADMITTED,
    chunks: int = 1,
    text: int | None = None,
    ts: float | None = None,
) -> Arrival:
    """The event at `offset` of news:0; its text is `text`, by default one of its own."""
    number = offset if text is None else text
    return Arrival(
        id=f"news:0:{offset}",
        topic="news",
        partition=0,
        offset=offset,
        ts=float(offset) if ts is None else ts,
        source="even" if offset % 2 == 0 else "odd",
        outcome=outcome,
        digest=number.to_bytes(16, "big"),
        chunks=tuple(chunk(number) for _ in range(chunks)) if outcome is Outcome.ADMITTED else (),
    )


def result_of(nll: Sequence[float], **changes: object) -> StepResult:
    """What an ordinary step found."""
    usual: dict[str, object] = {"passed_over": (), "gradient_norm": 1.0, "scaled": 1.0, "applied": True, "seconds": 0.1}
    return StepResult(nll=tuple(nll), **{**usual, **changes})  # type: ignore[arg-type]


def bounds(**changes: float) -> WindowBounds:
    """A window that forgets nothing unless told to."""
    wide = {
        "half_life_s": 100.0,
        "length_s": 1e9,
        "min_effective_chunks": 1,
        "max_tokens": 10**9,
        "max_bytes": 10**9,
        "max_visits": 10**9,
    }
    return WindowBounds(**{**wide, **changes})  # type: ignore[arg-type]


def settings(**changes: object) -> StreamSettings:
    """Settings of a small stream."""
    usual: dict[str, object] = {
        "seed": 7,
        "step_chunks": 2,
        "shares": Shares(window=0.15, reservoir=0.10, anchor=0.0),
        "window": bounds(max_visits=2, min_effective_chunks=8),
        "reservoir_chunks": 16,
        "base_sample": 0.5,
        "max_sources": 50,
        "vigilance": VigilanceSettings(junk=None, drift=None, reaction=None),
        "caps": None,
        "near_duplicates": False,
    }
    return StreamSettings(**{**usual, **changes})  # type: ignore[arg-type]
