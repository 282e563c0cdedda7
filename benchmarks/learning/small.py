"""What a fast run is made of: a model of 40,000 parameters, and text that even it can learn."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from streamlearn.demo.pools import Pools

BEFORE, AFTER = "django", "sqlalchemy"
"""Sources named as in the bundled stream, so that experiments need not tell the two apart."""
_WORDS = {
    BEFORE: ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"),
    AFTER: ("QUERY", "42", "Join[x]", "ORM/77", "{engine}", "1.4.9", "#8812", "NULL"),
}
_SIZES = {BEFORE: 20, AFTER: 6}
"""Words of a text: the tiny model's tokenizer knows the first vocabulary, and spells the second."""
_TEXTS = 600


@cache
def pools() -> Pools:
    """Return {source: texts} of about 25 tokens each: two vocabularies that share nothing.

    Shorter ones (under 16 tokens) no filter would judge.
    """
    random = np.random.default_rng(7)
    return {
        source: tuple({" ".join(random.choice(words, size=_SIZES[source])): None for _ in range(_TEXTS)})
        for source, words in _WORDS.items()
    }


def small_settings(folder: Path) -> dict[str, dict[str, Any]]:
    """Return settings under which the tiny model learns visibly within a hundred chunks."""
    return {
        "model": {"device": "cpu", "dtype": "fp32", "context_tokens": 64, "cache_dir": str(folder)},
        "anchor": {"chunks": 4, "tokens": 24, "weight": 1.0},
        "learner": {"threads": 1, "learning_rate": 1e-2, "served_average": 0.8},
        "window": {"min_effective_chunks": 16},
        # So few words make many triples twice.
        "hygiene": {"near_duplicates": False},
    }
