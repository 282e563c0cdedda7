"""The log tells each thing once, in the order of time, and answers what was served when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from streamlearn.core.judgement import Alarm, Decision, Judgement, Ruling
from streamlearn.core.manifest import Alias, AliasMove, Manifest, Totals
from streamlearn.registry.entries import Entry, Ruled
from streamlearn.registry.history import instant_of, spans, timeline, when
from tests.contract.making import draft, evidence, promoted, rolled_back

DAY = "2026-11-24"


def manifest(number: int, hour: int, judgement: Judgement | None = None, **others: Any) -> Manifest:
    """Return the manifest of a version that was made at `hour`."""
    known = dict(draft(number))
    return Manifest(
        **{name: value for name, value in known.items() if name in Manifest.model_fields}
        | {
            "lineage": "news",
            "version": f"v{number:06d}",
            "epoch": 1,
            "created_at": f"{DAY}T{hour:02d}:00:00+00:00",
            "parent": f"v{number - 1:06d}" if number > 1 else None,
            "checkpoint": "0000000001-0123456789ab",
            "since_parent": Totals(events=1, tokens=10),
            "judgement": judgement or Judgement(),
            "files": {},
        }
        | others
    )


def move(
    hour: float, to: int | None, *, ruling: Ruling | None = None, by: str = "w", start: int | None = None
) -> AliasMove:
    """Return a move at `hour`, carrying out `ruling` where one is given."""
    return AliasMove(
        at=f"{DAY}T{int(hour):02d}:{round(hour % 1 * 60):02d}:00+00:00",
        by=by,
        from_version=f"v{start:06d}" if start else None,
        to_version=f"v{to:06d}" if to else None,
        reason=f"{ruling.decision.value.replace('_', ' ')}: {ruling.reason}" if ruling else "published",
        epoch=1,
        ruling=ruling.number if ruling else None,
        evidence=ruling.evidence if ruling else None,
    )


def alias(name: str, *history: AliasMove) -> Alias:
    return Alias(name=name, version=history[-1].to_version if history else None, epoch=1, history=history)


def alarm(chunk: int) -> Alarm:
    return Alarm(signal="base", chunk=chunk, cut=chunk - 8, rise=0.5)


def held(version: str, number: int, chunk: int) -> Ruling:
    return Ruling(
        decision=Decision.HOLD,
        reason="not shown",
        evidence=evidence(version),
        number=number,
        chunk=chunk,
        champion=None,
    )


def told(entries: Sequence[Entry]) -> list[str]:
    """Return the entries in short."""
    return [_short(entry) for entry in entries]


def _short(entry: Entry) -> str:
    match entry.kind:
        case "version":
            return entry.version
        case "ruling":
            return f"{entry.number} {entry.decision.value}"
        case "alarm":
            return f"alarm {entry.chunk}"
        case "move":
            return f"{entry.alias} {entry.to_version}"


def test_what_manifests_and_aliases_tell_is_one_tale() -> None:
    """Oldest first; what has no time of its own stands before the version that first tells it."""
    first, fall = promoted("v000001", 2, chunk=150), rolled_back("v000001", 4, chunk=420)
    manifests = [
        manifest(1, 1),
        manifest(2, 3, Judgement(rulings=(held("v000001", 1, 100), first), alarms=(alarm(90), alarm(160)))),
        manifest(3, 5, Judgement(rulings=(held("v000002", 3, 300), fall), alarms=(alarm(160), alarm(310)))),
    ]
    champion = alias("champion", move(2, 1, ruling=first), move(4, None, ruling=fall, start=1))
    latest = alias("latest", move(1, 1), move(3, 2, start=1), move(5, 3, start=2))

    assert told(timeline(manifests, [champion, latest])) == [
        "v000001", "latest v000001",
        "alarm 90", "1 hold", "2 promote", "alarm 160", "v000002", "latest v000002",
        "3 hold", "alarm 310", "4 roll_back", "v000003", "latest v000003",
    ]  # fmt: skip


def test_a_ruling_and_the_move_that_carries_it_out_are_one_entry() -> None:
    ruling = promoted("v000001")
    found = timeline(
        [manifest(1, 1), manifest(2, 3, Judgement(rulings=(ruling,)))], [alias("champion", move(2, 1, ruling=ruling))]
    )

    (ruled,) = [entry for entry in found if isinstance(entry, Ruled)]
    assert (ruled.told_by, ruled.chunk, ruled.distrusted) == ("v000002", 100, {})
    assert ruled.move is not None
    assert (ruled.move.by, ruled.move.to_version) == ("w", "v000001")
    assert [entry.kind for entry in found] == ["version", "ruling", "version"]


def test_what_only_the_alias_tells_is_told_as_well() -> None:
    """Since the newest version, or where the manifest that would tell it is damaged."""
    first, fall = promoted("v000001"), rolled_back("v000001")
    champion = alias("champion", move(2, 1, ruling=first), move(4, None, ruling=fall, start=1))

    found = timeline([manifest(1, 1)], [champion])

    rulings = [entry for entry in found if isinstance(entry, Ruled)]
    assert [(each.number, each.decision, each.reason, each.champion, each.evidence) for each in rulings] == [
        (each.number, each.decision, each.reason, each.champion, each.evidence) for each in (first, fall)
    ]
    assert [(each.told_by, each.chunk, each.distrusted) for each in rulings] == [(None, None, None)] * 2
    assert told(found) == ["v000001", "1 promote", "2 roll_back"]


def test_a_ruling_that_no_alias_knows_is_told_without_a_move() -> None:
    """The alias is damaged or was removed; the manifest still says what was ruled."""
    found = timeline([manifest(1, 1), manifest(2, 3, Judgement(rulings=(promoted("v000001"),)))], [])

    assert [entry.move for entry in found if isinstance(entry, Ruled)] == [None]


def test_after_a_damaged_checkpoint_two_rulings_may_bear_one_number() -> None:
    """Each keeps its own move."""
    lost, kept = promoted("v000001"), promoted("v000002", mean=0.07)
    champion = alias("champion", move(2, 1, ruling=lost), move(4, 2, ruling=kept, start=1))

    found = timeline([manifest(1, 1), manifest(2, 3), manifest(3, 5, Judgement(rulings=(kept,)))], [champion])

    rulings = [entry for entry in found if isinstance(entry, Ruled)]
    assert [(each.champion, each.told_by) for each in rulings] == [("v000001", None), ("v000002", "v000003")]


def test_what_two_versions_tell_alike_is_told_once() -> None:
    """After a damaged checkpoint the same events are learnt again, and the same is ruled."""
    stands = Judgement(rulings=(held("v000001", 1, 100),), alarms=(alarm(90),))

    assert told(timeline([manifest(1, 1), manifest(2, 2, stands), manifest(3, 3, stands)], [])) == [
        "v000001", "alarm 90", "1 hold", "v000002", "v000003",
    ]  # fmt: skip


def test_clocks_that_are_off_put_no_version_before_its_parent_and_no_move_before_the_last() -> None:
    """A standby whose clock is behind took over."""
    manifests = [manifest(1, 5), manifest(2, 3), manifest(3, 6)]
    latest = alias("latest", move(5, 1), move(3, 2, start=1), move(6, 3, start=2))

    found = told(timeline(manifests, [latest]))

    assert [each for each in found if each.startswith("v")] == ["v000001", "v000002", "v000003"]
    assert [each for each in found if each.startswith("latest")] == [f"latest v00000{i}" for i in (1, 2, 3)]


def test_a_time_that_is_none_is_no_reason_to_tell_nothing() -> None:
    """Somebody wrote an alias with a script."""
    odd = move(2, 1).model_copy(update={"at": "yesterday"})

    assert told(timeline([manifest(1, 1)], [alias("mine", odd)])) == ["mine v000001", "v000001"]
    assert told(timeline([manifest(1, 1)], [alias("mine", move(1, 1), odd)]))[-1] == "mine v000001"


# --- what was served when ------------------------------------------------------------

CHAMPION = alias("champion", move(9, 1), move(15, 2, start=1), move(16.5, None, start=2))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"{DAY}T08:59:59Z", [None]),
        (f"{DAY}T09:00:00Z", ["v000001"]),
        (f"{DAY}T14:00:00Z", ["v000001"]),
        (f"{DAY}T14:30:00", ["v000001"]),
        (f"{DAY}T14:30:00-02:00", [None]),
        (f"{DAY}T15:00:00Z", ["v000002"]),
        ("2026-11-23", [None]),
        (DAY, [None, "v000001", "v000002", None]),
        ("2026-11-25", [None]),
        ("0001-01-01", [None]),
        ("9999-12-31", [None]),
        (f"{DAY}T23:00:00+23:00", [None]),
    ],
)
def test_what_an_alias_named_then(text: str, named: list[str | None]) -> None:
    """A moment has one answer; a day as many as there were."""
    assert [span.version for span in spans([CHAMPION], *when(text))] == named


def test_a_span_says_since_when_until_when_and_why() -> None:
    (span,) = spans([CHAMPION], *when(f"{DAY}T10:00:00Z"))

    assert (span.alias, span.since, span.until, span.reason) == (
        "champion", f"{DAY}T09:00:00+00:00", f"{DAY}T15:00:00+00:00", "published",
    )  # fmt: skip


def test_an_alias_that_never_moved_named_nothing_ever() -> None:
    (span,) = spans([alias("champion")], *when(DAY))

    assert (span.version, span.since, span.until, span.reason) == (None, None, None, None)


@pytest.mark.parametrize("text", ["", "Tuesday", "2026-13-01", "24.11.2026", "2026-11-24T25:00:00"])
def test_what_is_no_time_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; write 2026-11-24, or"):
        when(text)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert instant_of("2026-11-24T00:30:00+01:00") == datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
    assert instant_of("2026-11-24T00:30:00") == datetime(2026, 11, 24, 0, 30, tzinfo=UTC)
    assert instant_of("0001-01-01T00:00:00+23:00") is None
