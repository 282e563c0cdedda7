"""What became of a lineage's versions, in the order of time: the tale that its manifests and aliases tell together.

A ruling is told by the manifest of the next version, and, where it moved the
champion, by the history of that alias too; here it is one entry. Rulings that
moved nobody and drift alarms bear no time of their own: they stand before the
version that first tells them. Reads no store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from streamlearn.core.judgement import Alarm, Decision, Evidence, Ruling
from streamlearn.core.manifest import Alias, AliasMove, Manifest, Score
from streamlearn.registry.entries import Alarmed, Entry, Moved, Published, Ruled, Span

_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)


def timeline(manifests: Iterable[Manifest], aliases: Iterable[Alias]) -> list[Entry]:
    """Return everything that happened, oldest first.

    Args:
        manifests: of the versions, oldest first; gaps do no harm.
        aliases: all of them.
    """
    told = _Told()
    moves = [move for alias in aliases for move in _moves(alias)]
    by_rulings = {move.ruling: move for move in moves if move.ruling is not None}
    placed: list[tuple[datetime, Entry]] = []
    latest = _BEGINNING
    for manifest in manifests:
        # Clocks of different writers differ; a version never stands before its parent.
        latest = max(latest, instant_of(manifest.created_at) or latest)
        placed += _version(manifest, latest, told, by_rulings)
    told_moves = {entry.move for _, entry in placed if isinstance(entry, Ruled)}
    placed += [
        (move.time, move.entry if move.ruling is None else _untold(move.entry, move.ruling))
        for move in moves
        if move.entry not in told_moves
    ]
    return [entry for _, entry in sorted(placed, key=_place)]


def _place(placed: tuple[datetime, Entry]) -> tuple[datetime, int]:
    """Return what is sorted by: at one time a version comes before the aliases that are moved to it."""
    time, entry = placed
    return time, {"alarm": 0, "ruling": 0, "version": 1, "move": 2}[entry.kind]


def spans(aliases: Iterable[Alias], begin: datetime, end: datetime) -> list[Span]:
    """Return what each alias named at some time from `begin` to, not including, `end`; at least what it named then."""
    found = []
    for alias in aliases:
        marks = [(_BEGINNING, None), *((move.time, move.entry) for move in _moves(alias))]
        for place, (since, entry) in enumerate(marks):
            until, following = marks[place + 1] if place + 1 < len(marks) else (None, None)
            if (since <= begin or since < end) and (until is None or until > begin):
                found.append(
                    Span(
                        alias=alias.name,
                        version=entry.to_version if entry is not None else None,
                        since=entry.at if entry is not None else None,
                        until=following.at if following is not None else None,
                        reason=entry.reason if entry is not None else None,
                    )
                )
    return found


def when(text: str) -> tuple[datetime, datetime]:
    """Return what a person means by a time, as (begin, end): a moment's end is its begin, a date is a whole day.

    UTC where no offset is given.

    Raises:
        ValueError: it is neither.
    """
    if (begin := instant_of(text)) is None:
        raise ValueError(f"{text[:40]!a} is no time; write 2026-11-24, or 2026-11-24T09:30:00Z")
    try:
        date.fromisoformat(text.strip())
    except ValueError:
        return begin, begin
    return begin, begin + timedelta(days=1) if begin.date() < date.max else datetime.max.replace(tzinfo=UTC)


def instant_of(text: str) -> datetime | None:
    """Return the time in ISO 8601, UTC where it names no offset; None where it is none."""
    try:
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Which:
    """One ruling and no other: after a damaged checkpoint another may bear its number."""

    number: int
    evidence: Evidence
    champion: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    time: datetime
    """Never before the move before it, whatever clocks said."""
    entry: Moved
    ruling: _Which | None


class _Told:
    """What has been told; several manifests repeat the same."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def new(self, thing: Alarm | Ruling) -> bool:
        """Whether it is heard for the first time."""
        text = f"{type(thing).__name__} {thing.model_dump_json()}"
        new = text not in self._known
        self._known.add(text)
        return new


def _moves(alias: Alias) -> list[_Move]:
    found: list[_Move] = []
    latest = _BEGINNING
    for move in alias.history:
        latest = max(latest, instant_of(move.at) or latest)
        found.append(_Move(time=latest, entry=_moved(alias.name, move), ruling=_ruling_of(move)))
    return found


def _ruling_of(move: AliasMove) -> _Which | None:
    if move.ruling is None or move.evidence is None:
        return None
    return _Which(number=move.ruling, evidence=move.evidence, champion=move.to_version)


def _moved(alias: str, move: AliasMove) -> Moved:
    return Moved(
        at=move.at,
        alias=alias,
        by=move.by,
        from_version=move.from_version,
        to_version=move.to_version,
        reason=move.reason,
        epoch=move.epoch,
    )


def _version(
    manifest: Manifest, time: datetime, told: _Told, by_rulings: Mapping[_Which, _Move]
) -> list[tuple[datetime, Entry]]:
    """Return what a manifest is the first to tell, and then its version, each with the time that it is sorted by."""
    news: list[tuple[int, datetime | None, Entry]] = [
        (alarm.chunk, None, Alarmed(**alarm.model_dump(), told_by=manifest.version))
        for alarm in filter(told.new, manifest.judgement.alarms)
    ]
    for ruling in filter(told.new, manifest.judgement.rulings):
        which = _Which(number=ruling.number, evidence=ruling.evidence, champion=ruling.champion)
        move = by_rulings.get(which) if ruling.moves else None
        news.append((ruling.chunk, move.time if move else None, _ruled(ruling, manifest.version, move)))
    placed: list[tuple[datetime, Entry]] = [(time, _published(manifest))]
    for _, known, entry in sorted(news, key=lambda each: each[0], reverse=True):
        # What has no time of its own came before what is known to have come after it.
        placed.append((known if known is not None else min(placed[-1][0], time), entry))
    return placed[::-1]


def _ruled(ruling: Ruling, told_by: str, move: _Move | None) -> Ruled:
    return Ruled(
        **{name: getattr(ruling, name) for name in Ruling.model_fields},
        told_by=told_by,
        move=move.entry if move else None,
    )


def _untold(move: Moved, ruling: _Which) -> Ruled:
    """Return the ruling behind a move that no manifest tells of: none was written since, or it is damaged."""
    decision = Decision.PROMOTE if ruling.evidence.subject == ruling.champion else Decision.ROLL_BACK
    return Ruled(
        number=ruling.number,
        decision=decision,
        reason=move.reason.removeprefix(f"{decision.value.replace('_', ' ')}: "),
        evidence=ruling.evidence,
        champion=ruling.champion,
        chunk=None,
        distrusted=None,
        told_by=None,
        move=move,
    )


def _published(manifest: Manifest) -> Published:
    live, base = _nats(manifest.scores.live), _nats(manifest.scores.base)
    return Published(
        at=manifest.created_at,
        version=manifest.version,
        parent=manifest.parent,
        epoch=manifest.epoch,
        events=manifest.totals.events,
        events_since_parent=manifest.since_parent.events,
        tokens=manifest.totals.tokens,
        tokens_since_parent=manifest.since_parent.tokens,
        live=live,
        base=base,
        gain=base - live if live is not None and base is not None else None,
        champion=manifest.judgement.champion,
    )


def _nats(score: Score | None) -> float | None:
    return None if score is None else score.nats_per_token
