"""How the decisions of a lineage read: one line for each, for an operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from streamlearn.cli.output import instant, nats
from streamlearn.core.judgement import Alarm, Decision, Evidence

if TYPE_CHECKING:
    from streamlearn.registry.entries import Alarmed, Entry, Moved, Published, Ruled

_CHAMPION = "champion"
Spans = Mapping[str, Mapping[int, tuple[int, int]]]
"""{topic: {partition: (first offset, offset behind the last)}}."""


def moment(text: str | None) -> str:
    """Return a time as on the store as people read it; what is none, as it is."""
    from streamlearn.registry.history import instant_of

    found = instant_of(text or "")
    return (text or "") if found is None else instant(found.timestamp())


def dated(entry: Entry) -> str:
    """Return when it happened; nothing where that is not known."""
    if entry.kind == "ruling":
        return moment(entry.move.at if entry.move is not None else None)
    return "" if entry.kind == "alarm" else moment(entry.at)


def words(entry: Entry) -> str:
    """Return an entry of the log in words."""
    match entry.kind:
        case "version":
            return _published(entry)
        case "ruling":
            return _ruled(entry)
        case "alarm":
            return f"drift: {alarm_words(entry)}"
        case "move":
            return f"{_moved(entry)}: {entry.reason}"


def named(alias: str, version: str | None) -> str:
    """Return what an alias names; a champion that is no version is the base."""
    return version or (the_base(version) if alias == _CHAMPION else "no version")


def the_base(version: str | None) -> str:
    """Return a version's name, or that it is the base."""
    return version or "the base"


def verdict_words(decision: Decision, evidence: Evidence) -> str:
    """Return what was ruled about whom.

    >>> evidence = Evidence(subject="v000002", against=None, blocks=9, chunks=144, skipped=0, mean=0.1, sd=0.1,
    ...                     bound=0.05, alpha=0.05, held_out_rise=None)
    >>> verdict_words(Decision.ROLL_BACK, evidence)
    'v000002 rolled back to the base'
    """
    against = the_base(evidence.against)
    said = {
        Decision.PROMOTE: f"promoted over {against}",
        Decision.HOLD: f"held, {against} stays champion",
        Decision.REFUSE: f"refused, {against} stays champion",
        Decision.ROLL_BACK: f"rolled back to {against}",
        Decision.KEEP: f"kept as champion, as against {against}",
    }
    return f"{evidence.subject} {said[decision]}"


def comparison_words(evidence: Evidence) -> str:
    """Return how a comparison stands."""
    said = [f"{evidence.subject} against {the_base(evidence.against)}: {evidence.blocks:,} blocks"]
    if evidence.blocks:
        said.append(f"gain {evidence.mean:+.4f} nats/token")
    if evidence.bound is not None:
        side = "at most" if evidence.bound > evidence.mean else "at least"
        said.append(f"{side} {evidence.bound:+.4f} with {1.0 - evidence.alpha:.0%} confidence")
    if evidence.held_out_rise is not None:
        said.append(f"held-out text {evidence.held_out_rise:+.4f}")
    if evidence.skipped:
        said.append(f"{evidence.skipped:,} chunks left out")
    return ", ".join(said)


def distrust_words(distrusted: Spans) -> str:
    """Return which offsets are drawn on no more.

    >>> distrust_words({"news": {0: (3, 6), 1: (0, 1)}})
    'news 0: 3–5, news 1: 0'
    """
    return ", ".join(
        f"{topic} {partition}: {first:,}" + (f"–{behind - 1:,}" if behind - first > 1 else "")
        for topic, spans in sorted(distrusted.items())
        for partition, (first, behind) in sorted(spans.items())
    )


def alarm_words(alarm: Alarm | Alarmed) -> str:
    """Return what was noticed."""
    whose = "frozen base" if alarm.signal == "base" else "live model"
    return (
        f"the loss of the {whose} rose by {alarm.rise:.4f} nats/token at about chunk {alarm.cut:,}, "
        f"noticed at chunk {alarm.chunk:,}"
    )


def _published(entry: Published) -> str:
    origin = f"from {entry.parent}" if entry.parent is not None else "as the first"
    gain = (
        f"gain over the base {nats(entry.gain)} nats/token" if entry.gain is not None else "not compared with the base"
    )
    return (
        f"{entry.version} published {origin}: {entry.events:,} events ({entry.events_since_parent:+,}), "
        f"{entry.tokens:,} tokens ({entry.tokens_since_parent:+,}), {gain}"
    )


def _ruled(entry: Ruled) -> str:
    said = f"ruling {entry.number}: {verdict_words(entry.decision, entry.evidence)}: {entry.reason}"
    if entry.distrusted:
        said += f"; offsets drawn on no more: {distrust_words(entry.distrusted)}"
    elif entry.distrusted is None and entry.decision is Decision.ROLL_BACK:
        said += "; the next version tells which offsets are drawn on no more"
    if entry.move is not None:
        return f"{said}; {_moved(entry.move)}"
    return f"{said}; the history of champion does not know of it" if entry.moves else said


def _moved(move: Moved) -> str:
    origin, target = named(move.alias, move.from_version), named(move.alias, move.to_version)
    return f"{move.alias} moved from {origin} to {target} by {move.by} (epoch {move.epoch})"
