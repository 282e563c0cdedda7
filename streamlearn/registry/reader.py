"""Reading a lineage without being its writer: versions, ledger, and a copy of an adapter.

What is damaged is told and does not hide the rest; what was never committed
(the leavings of writers that died or were fenced) is not shown.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from streamlearn.core.events import Outcome
from streamlearn.core.manifest import Alias, EventLine, Head, Manifest, ScoreLine, version_name, version_number
from streamlearn.ports import NotFound, ObjectStore
from streamlearn.registry import ledger as ledger_format
from streamlearn.registry.aliases import CHAMPION, alias_names, read_alias
from streamlearn.registry.chain import Link, read_chain
from streamlearn.registry.documents import Damaged, from_bytes, verified
from streamlearn.registry.head import read_head, refuse_lost_head
from streamlearn.registry.keys import MANIFEST, Keys, checked_part
from streamlearn.registry.parallel import in_order
from streamlearn.registry.versions import read_manifest

_log = logging.getLogger(__name__)
"""Not structlog: unconfigured, as in a command that prints JSON, this one writes to standard error."""
_VERSION = re.compile(r"v?([0-9]{1,9})")
_MAX_SHOWN = 200
"""Characters of a path that a message repeats."""
_LEARNT = {Outcome.ADMITTED, Outcome.DUPLICATE}
"""Outcomes of an event whose text a version holds; a duplicate's is there by way of its twin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A published version and the aliases that point to it."""

    manifest: Manifest
    aliases: tuple[str, ...]


class LineageReader:
    """One lineage on a store, for those who look.

    Args:
        on_damage: told in one line of each object that `versions` leaves out
            because it is damaged; standard error unless given.
    """

    def __init__(self, store: ObjectStore, lineage: str, *, on_damage: Callable[[str], None] | None = None) -> None:
        self._store = store
        self._keys = Keys(lineage)
        self._on_damage = on_damage or _log.error

    def head(self) -> Head:
        """Return the head.

        Raises:
            NotFound: there is no such lineage; names those that are there.
            Fatal: there is one, without a head; see `refuse_lost_head`.
        """
        try:
            return read_head(self._store, self._keys)[0]
        except NotFound:
            refuse_lost_head(self._store, self._keys, None, "")
            there = ", ".join(self._lineages())
            known = f"there are: {there}" if there else "the store holds none"
            raise NotFound(f"no lineage {self._keys.lineage!r} in {self._store.url}; {known}") from None

    def versions(self) -> list[Version]:
        """Return every published version, oldest first; a version without a manifest does not exist.

        Reads manifests and aliases only. Damaged ones are left out and told.
        """
        manifests = self.manifests()
        names: dict[str | None, list[str]] = {}
        for alias in self.aliases():
            names.setdefault(alias.version, []).append(alias.name)
        return [Version(manifest=found, aliases=tuple(names.get(found.version, ()))) for found in manifests]

    def manifests(self) -> Iterator[Manifest]:
        """Return the manifest of every published version, oldest first; damaged ones are left out and told."""
        self.head()
        suffix = f"/{MANIFEST}"
        folders = [
            key.removeprefix(self._keys.versions).removesuffix(suffix)
            for key, _ in self._store.list(self._keys.versions)
            if key.endswith(suffix)
        ]
        numbers = sorted(version_number(name) for name in folders if _VERSION.fullmatch(name))
        return (found for found in in_order(self._manifest_or_none, numbers) if found is not None)

    def aliases(self) -> list[Alias]:
        """Return every alias with its history, by name; damaged ones are left out and told.

        `champion` is always among them: until somebody is promoted, it is the base.
        """
        names, found = list(alias_names(self._store, self._keys)), []
        if CHAMPION not in names:
            found.append(Alias(name=CHAMPION, version=None, epoch=1))
        for name in names:
            try:
                found.append(read_alias(self._store, self._keys, name)[0])
            except (Damaged, NotFound) as damage:
                self._on_damage(f"alias {name!r} is left out: {damage}")
        return sorted(found, key=lambda alias: alias.name)

    def alias(self, name: str) -> Alias:
        """Return an alias with its history.

        Raises:
            NotFound: there is none; names those that are there.
            Damaged: it cannot be read.
            ValueError: `name` can be none.
        """
        self.head()
        try:
            return read_alias(self._store, self._keys, checked_part(name, "an alias"))[0]
        except NotFound:
            names = ", ".join(alias_names(self._store, self._keys)) or "none yet"
            raise NotFound(f"lineage {self._keys.lineage!r} has no alias {name!r}; it has: {names}") from None

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of `v000042`, `42`, or the version an alias points to.

        Raises:
            NotFound: there is none.
            ValueError: `name` can be neither.
        """
        if _VERSION.fullmatch(name):
            self.head()
            number = version_number(name)
        else:
            number = self._target(checked_part(name, "a version or alias"))
        try:
            return read_manifest(self._store, self._keys, number)
        except NotFound:
            raise NotFound(f"lineage {self._keys.lineage!r} has no version {version_name(number)}") from None

    def ledger(self, upto: Manifest | None = None, *, since_parent: bool = False) -> Iterator[EventLine | ScoreLine]:
        """Yield the committed ledger in stream order.

        Args:
            upto: only what this version has seen.
            since_parent: with `upto`, only what its parent has not.

        Raises:
            Damaged: a part of the chain or of the ledger is missing or altered; nothing behind it is shown.
        """
        after = None
        if upto is not None and since_parent and upto.parent is not None:
            after = self.manifest(upto.parent).checkpoint
        newest = upto.checkpoint if upto is not None else self.head().checkpoint
        for key, body in in_order(self._ledger_object, read_chain(self._store, self._keys, newest, after=after)):
            yield from ledger_format.unpack(key, body)

    def versions_with(self, event_id: str) -> tuple[list[EventLine | ScoreLine], list[Manifest]]:
        """Return an event's ledger lines and the versions that have learnt it, oldest first.

        An id that came several times counts where any of them did; what was
        filtered or dead is in no version.
        """
        lines = [line for line in self.ledger() if line.id == event_id]
        places = [line for line in lines if isinstance(line, EventLine) and line.outcome in _LEARNT]
        if not places:
            return lines, []
        found, left = [], places
        for version in self.versions():
            manifest = version.manifest
            # From the first version after a rollback on, the learner is as it was before it saw these.
            spans = [ruling.distrusted for ruling in manifest.judgement.rulings]
            left = [place for place in left if not any(_is_within(place, span) for span in spans)]
            if any(manifest.progress.get(place.topic, {}).get(place.partition, 0) > place.offset for place in left):
                found.append(manifest)
        return lines, found

    def pull(self, manifest: Manifest, destination: Path) -> int:
        """Copy a version to `destination`, which appears whole or not at all, and return its bytes.

        Raises:
            ValueError: `destination` is there already and holds something, or cannot be written.
            Damaged: a file is missing or not what the manifest says.
        """
        try:
            return self._pulled(manifest, destination.resolve())
        except OSError as error:
            shown = f"{str(destination)[:_MAX_SHOWN]!a}"
            raise ValueError(f"{shown} cannot be written: {error.strerror or error}; name another directory") from error

    def _pulled(self, manifest: Manifest, destination: Path) -> int:
        if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
            raise ValueError(f"{destination} is there already; name a directory that does not exist, or an empty one")
        destination.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
        try:
            total = self._copy(manifest, scratch)
            # mkdtemp keeps others out; an adapter is there to be served by them.
            scratch.chmod(0o755)
            # Over an empty directory too: POSIX replaces it in the same stroke.
            scratch.rename(destination)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return total

    def _copy(self, manifest: Manifest, folder: Path) -> int:
        number, total = version_number(manifest.version), 0
        for name, expected in manifest.files.items():
            key = self._keys.version(number, checked_part(name, "a file of a version"))
            total += (folder / name).write_bytes(verified(key, self._body(key), expected))
        key = self._keys.version(number, MANIFEST)
        body = self._body(key)
        if from_bytes(Manifest, key, body) != manifest:
            raise Damaged(f"{key} is no longer what was asked for: a version never changes")
        return total + (folder / MANIFEST).write_bytes(body)

    def _body(self, key: str) -> bytes:
        try:
            return self._store.get(key).body
        except NotFound:
            raise Damaged(f"{key} is missing") from None

    def _manifest_or_none(self, number: int) -> Manifest | None:
        try:
            return read_manifest(self._store, self._keys, number)
        except (Damaged, NotFound) as damage:
            self._on_damage(f"version {version_name(number)} is left out: {damage}")
            return None

    def _target(self, name: str) -> int:
        if (alias := self.alias(name)).version is None:
            why = ": the base is champion" if name == CHAMPION else ""
            raise NotFound(f"alias {name!r} points to no version{why}")
        return version_number(alias.version)

    def _ledger_object(self, link: Link) -> tuple[str, bytes]:
        key = self._keys.ledger(link.name)
        return key, verified(key, self._body(key), link.ledger)

    def _lineages(self) -> Iterator[str]:
        for key, _ in self._store.list(""):
            lineage, _, rest = key.partition("/")
            if rest == "head.json":
                yield lineage


def _is_within(place: EventLine, spans: Mapping[str, Mapping[int, tuple[int, int]]]) -> bool:
    first, behind = spans.get(place.topic, {}).get(place.partition, (0, 0))
    return first <= place.offset < behind
