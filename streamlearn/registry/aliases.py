"""Names that follow versions, with their whole history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from streamlearn.core.judgement import Ruling
from streamlearn.core.manifest import Alias, AliasMove, version_name
from streamlearn.ports import Conflict, Fenced, NotFound, ObjectStore
from streamlearn.registry.documents import Damaged, from_bytes, to_bytes
from streamlearn.registry.keys import Keys

LATEST, CHAMPION = "latest", "champion"


def read_alias(store: ObjectStore, keys: Keys, name: str) -> tuple[Alias, str]:
    """Return an alias and its etag; raises NotFound, Damaged."""
    stored = store.get(keys.alias(name))
    try:
        return from_bytes(Alias, keys.alias(name), stored.body), stored.etag
    except Damaged as damage:
        raise Damaged(
            f"{damage}; restore it from the bucket's versions or a backup, or remove it, and its history with it"
        ) from None


def alias_names(store: ObjectStore, keys: Keys) -> Iterator[str]:
    """Yield the name of every alias of the lineage, sorted."""
    for key, _ in store.list(keys.aliases):
        name = key.removeprefix(keys.aliases)
        if name.endswith(".json") and "/" not in name:
            yield name.removesuffix(".json")


def move_alias(
    store: ObjectStore, keys: Keys, name: str, version: int, *, epoch: int, by: str, at: str, reason: str
) -> None:
    """Point `name` at `version` and write that down; nothing happens where it points there already.

    Raises:
        Fenced: a writer with a higher epoch has touched it, or did so meanwhile.
    """
    target = version_name(version)

    def moved(old: Alias) -> Alias | None:
        if old.version == target:
            return None if old.epoch == epoch else old.model_copy(update={"epoch": epoch})
        move = AliasMove(at=at, by=by, from_version=old.version, to_version=target, reason=reason, epoch=epoch)
        return Alias(name=name, version=target, epoch=epoch, history=(*old.history, move))

    _change(store, keys, name, epoch, moved)


def carry_out(store: ObjectStore, keys: Keys, rulings: Sequence[Ruling], *, epoch: int, by: str, at: str) -> None:
    """Move `champion` as `rulings` say, oldest first; what its history knows already is not done twice.

    So whoever finds it moved by hand since then leaves it there. A ruling is known by its evidence too: whoever goes
    on from an older checkpoint, since the newest is damaged, gives its number to another.

    Raises:
        Fenced: a writer with a higher epoch has touched it, or did so meanwhile.
    """

    def moved(old: Alias) -> Alias | None:
        known = {(move.ruling, move.evidence, move.to_version) for move in old.history}
        alias = old
        for ruling in rulings:
            if ruling.moves and (ruling.number, ruling.evidence, ruling.champion) not in known:
                alias = _ruled(alias, ruling, epoch=epoch, by=by, at=at)
        return None if alias is old else alias

    if any(ruling.moves for ruling in rulings):
        _change(store, keys, CHAMPION, epoch, moved)


def _ruled(alias: Alias, ruling: Ruling, *, epoch: int, by: str, at: str) -> Alias:
    move = AliasMove(
        at=at,
        by=by,
        from_version=alias.version,
        to_version=ruling.champion,
        reason=f"{ruling.decision.value.replace('_', ' ')}: {ruling.reason}",
        epoch=epoch,
        ruling=ruling.number,
        evidence=ruling.evidence,
    )
    return Alias(name=alias.name, version=ruling.champion, epoch=epoch, history=(*alias.history, move))


def _change(store: ObjectStore, keys: Keys, name: str, epoch: int, changed: Callable[[Alias], Alias | None]) -> None:
    """Write what `changed` makes of the alias, until nobody else is faster; None leaves it alone."""
    while True:
        old, etag = _current(store, keys, name, epoch)
        if (moved := changed(old)) is None:
            return
        try:
            if etag is None:
                store.create(keys.alias(name), to_bytes(moved))
            else:
                store.swap(keys.alias(name), to_bytes(moved), etag)
        except Conflict:
            # Someone was faster. Only a later writer keeps us out, and the next look tells.
            continue
        return


def touch_aliases(store: ObjectStore, keys: Keys, epoch: int, *, also: Sequence[str] = ()) -> None:
    """Write our epoch into every alias, so that an earlier writer's next move fails.

    Args:
        also: aliases that an earlier writer may be about to make; without a target where they are not there yet.

    Raises:
        Fenced: a writer with a higher epoch has touched one.
    """
    for name in sorted({*alias_names(store, keys), *also}):
        while True:
            alias, etag = _current(store, keys, name, epoch)
            if etag is not None and alias.epoch == epoch:
                break
            try:
                if etag is None:
                    store.create(keys.alias(name), to_bytes(alias))
                else:
                    store.swap(keys.alias(name), to_bytes(alias.model_copy(update={"epoch": epoch})), etag)
            except Conflict:
                # The earlier writer moved it between our look and our swap; look again.
                continue
            break


def _current(store: ObjectStore, keys: Keys, name: str, epoch: int) -> tuple[Alias, str | None]:
    """Return the alias as it is now, or as it would begin; raises Fenced where it is a later writer's."""
    try:
        alias, etag = read_alias(store, keys, name)
    except NotFound:
        return Alias(name=name, version=None, epoch=epoch), None
    if alias.epoch > epoch:
        raise Fenced(
            f"lineage {keys.lineage!r} was taken over: alias {name!r} belongs to a writer of epoch {alias.epoch}; ours "
            f"was {epoch}"
        )
    return alias, etag
