"""Text that is none any more: what a poisoned source might write."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

Unit: TypeAlias = Literal["letters", "words"]
"""What changes places."""


def scrambled(text: str, random: np.random.Generator, unit: Unit = "letters") -> str:
    """Return `text` with its characters or its words in random order."""
    parts: list[str] = list(text) if unit == "letters" else text.split()
    return ("" if unit == "letters" else " ").join(parts[place] for place in random.permutation(len(parts)))
