"""The committed checkpoints of a lineage in order, told apart from what was never committed.

Only the parent that each verified state names decides; the listing merely
says what to fetch at once, as one round trip after the other would take
minutes for a lineage of some days.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from streamlearn.core.manifest import FileDigest
from streamlearn.ports import Fatal, ObjectStore
from streamlearn.registry.checkpoints import read_state, seq_of
from streamlearn.registry.documents import Damaged
from streamlearn.registry.keys import STATE, Keys
from streamlearn.registry.parallel import in_order

_LEDGER = re.compile(r"([0-9]{10}-[0-9a-f]{12})\.jsonl\.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One committed checkpoint."""

    name: str
    parent: str | None
    ledger: FileDigest


def read_chain(store: ObjectStore, keys: Keys, newest: str | None, *, after: str | None = None) -> list[Link]:
    """Return the chain that ends with `newest`, oldest first; without `after` and what is before it, where given.

    Raises:
        Damaged: a state of the chain is missing or altered.
        Fatal: one was written by another release.
    """
    if newest is None:
        return []
    first, last = 0 if after is None else seq_of(after) + 1, seq_of(newest)
    names = (name for name in _listed(store, keys) if first <= seq_of(name) <= last)
    links = {link.name: link for link in in_order(lambda name: _link_or_none(store, keys, name), names) if link}
    chain: list[Link] = []
    name: str | None = newest
    while name is not None and name != after:
        if seq_of(name) < first:
            raise Damaged(f"{keys.checkpoint(newest, STATE)} does not descend from {after}")
        chain.append(links.get(name) or _link(store, keys, name))
        name = chain[-1].parent
    return chain[::-1]


def _listed(store: ObjectStore, keys: Keys) -> Iterator[str]:
    """Yield the names of all checkpoints that have a ledger, committed or not."""
    for key, _ in store.list(keys.ledgers):
        if found := _LEDGER.fullmatch(key.removeprefix(keys.ledgers)):
            yield found[1]


def _link(store: ObjectStore, keys: Keys, name: str) -> Link:
    state = read_state(store, keys, name)
    return Link(name=name, parent=state.parent, ledger=state.ledger)


def _link_or_none(store: ObjectStore, keys: Keys, name: str) -> Link | None:
    """Return the link; none where it cannot be read, which only matters, and is told, if the chain needs it."""
    try:
        return _link(store, keys, name)
    except Fatal:
        return None
