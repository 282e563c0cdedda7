"""What befalls each worker, all of it drawn from one seed.

Blows come in decks, shuffled one after the other, so that even a short run has
every kind: kills at random and at each named point, orderly stops, stops in
the middle of a stop, kills while starting, and workers that are held longer
than their lease while another stands by.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

POINTS = ("uploaded", "swapped", "version:half", "dead_letters:flush")
_SKEWS_S = (0.0, 0.0, 30.0, -30.0)
"""Two workers differ by at most the minute that the lease forgives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """How a life ends."""

    way: str
    """`kill`, `term`, `term twice`, `stop`: from outside, after so many commits and a moment more. `early`: SIGKILL
    while it starts. `fault`: by its own hand at a named point."""
    commits: int = 0
    moment_s: float = 0.0
    fault: str | None = None
    """`uploaded:2:KILL`, as `tests.chaos.worker --fault` takes it."""

    def __str__(self) -> str:
        if self.fault is not None:
            return self.fault
        return f"{self.way} after {self.commits} commits and {self.moment_s:.2f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class LifePlan:
    """One worker of the run."""

    number: int
    blow: Blow
    standby: bool
    """The next worker is there before this one ends."""
    held_commits: int
    """How many commits of the next one a held worker sleeps through, at least."""
    executed: bool
    """Started as the true command, not forked."""
    skew_s: float
    burst: int
    """Records that come at its start."""

    @property
    def holds(self) -> bool:
        """Whether the blow is SIGSTOP, so that a zombie comes back."""
        return self.blow.way == "stop" or str(self.blow.fault).endswith(":STOP")


def lives(seed: int, kills: int) -> list[LifePlan]:
    """Return `kills` lives.

    >>> lives(7, 3) == lives(7, 3)
    True
    """
    return list(islice(_for_ever(random.Random(f"plan {seed}")), kills))


def _for_ever(chance: random.Random) -> Iterator[LifePlan]:
    number = 0
    while True:
        deck = _deck(chance)
        true_command = chance.randrange(len(deck))
        for place, (blow, standby) in enumerate(deck):
            number += 1
            yield LifePlan(
                number=number,
                blow=blow,
                standby=standby,
                held_commits=chance.randint(0, 2),
                executed=place == true_command,
                skew_s=chance.choice(_SKEWS_S),
                burst=chance.choice((0, 0, 30, 60)),
            )


def _deck(chance: random.Random) -> list[tuple[Blow, bool]]:
    def outside(way: str) -> Blow:
        return Blow(way=way, commits=chance.randint(1, 3), moment_s=chance.uniform(0.0, 0.5))

    def fault(point: str, signal: str) -> Blow:
        return Blow(way="fault", fault=f"{point}:{chance.randint(1, 4)}:{signal}")

    cards = [(outside("kill"), False), (outside("kill"), False), (outside("kill"), True)]
    cards += [(outside("term"), chance.random() < 0.5), (outside("term twice"), False)]
    cards += [(Blow(way="early", moment_s=chance.uniform(0.0, 2.0)), False)]
    cards += [(fault(point, "KILL"), chance.random() < 0.25) for point in POINTS]
    # Somebody must be there to take over from who is held.
    cards += [(outside("stop"), True), (fault(chance.choice(POINTS), "STOP"), True)]
    cards += [(fault(chance.choice(POINTS), "TERM"), False)]
    chance.shuffle(cards)
    return cards
