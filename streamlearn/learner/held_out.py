"""The text on which forgetting is measured, and which nobody learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamlearn.core.events import Chunk
from streamlearn.learner.texts import chunks_of_file
from streamlearn.ports import Chunker

BUNDLED = Path(__file__).parent / "data" / "held-out.jsonl"
"""Sixty speeches; see the NOTICE beside it."""
_SEED = 5


def held_out_chunks(file: str | None, chunker: Chunker, *, chunks: int) -> tuple[Chunk, ...]:
    """Return at most `chunks` chunks of `gate.held_out`, or of the bundled text; the same every time.

    Raises:
        Fatal: the file cannot be used; says how to mend it.
    """
    if chunks == 0:
        return ()
    cut = chunks_of_file("gate.held_out", file or BUNDLED, chunker)
    places = np.random.default_rng(_SEED).permutation(len(cut))[:chunks]
    return tuple(cut[place] for place in np.sort(places))
