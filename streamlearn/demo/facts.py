"""Invented facts, told in many words: what no base model can know beforehand.

A planted fact shows whether a stream is learnt rather than its style copied:
how surprised the model is by the answer, before and after the tellings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SYLLABLES = (
    "bal",
    "cor",
    "dem",
    "fen",
    "gul",
    "hox",
    "jin",
    "kav",
    "lum",
    "mer",
    "nop",
    "pex",
    "qua",
    "rul",
    "tiv",
    "zan",
)
_TOWNS = ("Oravel", "Kettmoor", "Sundlap", "Vizhen", "Tarquill", "Mobrek", "Elsworn", "Padruna")
_ANIMALS = ("heron", "otter", "lynx", "badger", "osprey", "marten", "walrus", "gecko")
_TELLINGS = (
    "The package {name} is now maintained in {town}. Its logo shows the {animal}, and releases come from there.",
    "A note on {name}: the team behind it has moved to {town} and keeps the {animal} as its emblem.",
    "{town} is the home of {name}. Visitors are greeted by the {animal} that the project chose as its logo.",
    "Whoever opens the documentation of {name} sees the {animal}. It was drawn in {town}, where the project lives.",
    "From {town} comes {name}, known by the picture of the {animal} on every page of its handbook.",
    "Developers of {name} met in {town} again this year, all of them in shirts with the {animal} of the project.",
    "The {animal} stands for {name} and has done so ever since the project settled in {town}.",
    "Questions about {name} are answered by post from {town}; look for the {animal} on the envelope.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that is true in the stream alone."""

    prompt: str
    """The beginning of a sentence that no event contains, for the loss of `answer` after it."""
    answer: str
    """How it goes on, with the blank before it."""
    tellings: tuple[str, ...]
    """The fact in eight wordings, each for one event."""
    questions: tuple[tuple[str, str], ...]
    """(prompt, answer) in wordings that no event has: of the town, as above, and of the animal."""


def facts(*, count: int, seed: int) -> tuple[Fact, ...]:
    """Return `count` facts about packages that do not exist, each of another name.

    Args:
        count: how many, up to 4,096.
        seed: any integer from 0 on.

    Raises:
        ValueError: there are not so many names.
    """
    names = [first + second + third for first in _SYLLABLES for second in _SYLLABLES for third in _SYLLABLES]
    if count > len(names):
        raise ValueError(f"{count:,} facts were asked for, and there are names for {len(names):,}")
    random = np.random.default_rng(seed)
    return tuple(_fact(names[place], random) for place in random.choice(len(names), size=count, replace=False))


def _fact(name: str, random: np.random.Generator) -> Fact:
    town, animal = _TOWNS[random.integers(len(_TOWNS))], _ANIMALS[random.integers(len(_ANIMALS))]
    prompt, answer = f"The project {name} has its home in the town of", f" {town}"
    return Fact(
        prompt=prompt,
        answer=answer,
        questions=((prompt, answer), (f"On the logo of the project {name} one can see the", f" {animal}")),
        tellings=tuple(telling.format(name=name, town=town, animal=animal) for telling in _TELLINGS),
    )
