"""Whether a lineage kept its promises, by what lies on Kafka and on the store alone.

Imports nothing from streamlearn and trusts none of its words: every digest is
computed anew, every count is made from the ledger, and the ledger is held
against the topic. What it needs to know beyond both is what the run did to the
workers: whether the last one was let to its end, and how many ended uncleanly.

A dead letter may come more than once: a worker that dies, or is fenced, may
have sent letters of events that it never committed, and the next one sends
them again. Each such end explains one more copy of any one record, and not
more copies in all than a worker can hold uncommitted events (`at_risk`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos import checker_events, checker_store
from tests.chaos.evidence import Evidence
from tests.chaos.findings import Fault, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checker has found."""

    faults: tuple[Fault, ...]
    events: int
    """Lines of the committed ledger that are events."""
    checkpoints: int
    """In the chain."""
    versions: int
    """Complete ones."""
    leavings: int
    """Checkpoints outside the chain: uploads that were never committed."""
    letters_again: int
    """Copies of dead letters beyond the first."""

    def count(self, kind: Kind) -> int:
        """Return how many faults are of a kind."""
        return Counter(fault.kind for fault in self.faults)[kind]


def check(evidence: Evidence, *, drained: bool, unclean: int, at_risk: int) -> Verdict:
    """Return what is wrong with what a run has left; nothing, where all promises were kept.

    Args:
        drained: the last worker was let to the ends of the topic and closed its books.
        unclean: how many workers ended by a signal, an error or a fence, having committed not all they had read.
        at_risk: bound on the events that a worker can have read and not committed.
    """
    chain = checker_store.Chain.of(evidence.objects)
    ledger = checker_events.Ledger.of(chain, evidence.objects)
    letters_again = checker_events.copies_beyond_the_first(evidence.letters)

    def all_of_it() -> Iterator[Fault]:
        yield from chain.faults
        yield from ledger.faults
        yield from checker_store.of_objects(chain, evidence.objects)
        yield from checker_store.of_versions(chain, evidence.objects, drained=drained)
        yield from checker_store.of_aliases(chain, evidence.objects, drained=drained)
        yield from checker_events.of_offsets(ledger, evidence.records, drained=drained)
        yield from checker_events.of_progress(ledger, chain)
        yield from checker_events.of_texts(ledger, evidence.records, drained=drained)
        yield from checker_events.of_scores(ledger, chain, drained=drained)
        yield from checker_events.of_letters(ledger, evidence, unclean=unclean, at_risk=at_risk, drained=drained)

    return Verdict(
        faults=tuple(all_of_it()),
        events=len(ledger.events),
        checkpoints=len(chain.links),
        versions=len(checker_store.complete_versions(evidence.objects)),
        leavings=len(chain.leavings(evidence.objects)),
        letters_again=letters_again,
    )
