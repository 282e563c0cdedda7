"""`streamlearn versions` and `show`: what was published, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamlearn.cli.options import AsJson, ConfigFile, EndpointUrl, LineageName, StoreUrl, open_reader
from streamlearn.cli.output import instant, nats, print_json, print_table, size
from streamlearn.cli.wording import alarm_words, comparison_words, distrust_words, the_base, verdict_words
from streamlearn.core.judgement import Decision, Judgement
from streamlearn.core.manifest import Alias, Manifest, Score

if TYPE_CHECKING:
    from streamlearn.registry.reader import Version

_RULED = {
    Decision.PROMOTE: "promoted",
    Decision.HOLD: "held",
    Decision.REFUSE: "refused",
    Decision.ROLL_BACK: "rolled back",
    Decision.KEEP: "kept",
}
_OUTCOMES = ("admitted", "duplicate", "filtered", "dead_letter")


def versions(
    config: ConfigFile = None,
    store: StoreUrl = None,
    lineage: LineageName = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of a lineage, oldest first.

    `live` and `base` are mean losses in nats per token over the same chunks, each scored before it was learnt. `gate`
    is what was ruled last about a version; `streamlearn log` says why.
    """
    reader = open_reader(config, store, lineage, endpoint_url)
    found = reader.versions()
    if as_json:
        print_json([_document(version) for version in found])
        return
    if not found:
        typer.echo("no version is published yet; publish.every says when the next one is due", err=True)
        return
    standings = _standings([version.manifest for version in found], reader.aliases())
    print_table(
        ["version", "created at", "parent", "aliases", "gate", "events", "tokens", "live", "base", "gain"],
        [_row(version, standings.get(version.manifest.version, "")) for version in found],
        right=["events", "tokens", "live", "base", "gain"],
    )


def show(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="`v000042`, `42`, or an alias such as `latest`.")],
    config: ConfigFile = None,
    store: StoreUrl = None,
    lineage: LineageName = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one version: what it learnt, up to which offset, how it scored, what it is made of.

    `--json` prints its manifest as it is on the store.
    """
    manifest = open_reader(config, store, lineage, endpoint_url).manifest(version)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    print_table(["", manifest.version], _details(manifest))
    print_table(
        ["file", "bytes", "sha256"],
        [(name, size(file.size), file.sha256) for name, file in sorted(manifest.files.items())],
        right=["bytes"],
    )


def _document(version: Version) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "version": manifest.version,
        "created_at": manifest.created_at,
        "parent": manifest.parent,
        "epoch": manifest.epoch,
        "checkpoint": manifest.checkpoint,
        "aliases": list(version.aliases),
        "events": manifest.totals.events,
        "tokens": manifest.totals.tokens,
        "progress": manifest.progress,
        "scores": {"live": _score(manifest.scores.live), "base": _score(manifest.scores.base)},
    }


def _score(score: Score | None) -> dict[str, float] | None:
    if score is None:
        return None
    return {"nats_per_token": score.nats_per_token, "bits_per_byte": score.bits_per_byte}


def _standings(manifests: Sequence[Manifest], aliases: Sequence[Alias]) -> dict[str, str]:
    """Return what was ruled last about each version that was judged, or that it is being compared."""
    # Here, not above: the list of verbs is shown without.
    from streamlearn.registry.history import timeline

    # Not the manifests alone: the newest rulings are known by the alias only.
    entries = timeline(manifests, aliases)
    rulings = [entry for entry in entries if entry.kind == "ruling"]
    said = {ruling.evidence.subject: _RULED[ruling.decision] for ruling in rulings}
    told = all(ruling.told_by is not None for ruling in rulings)
    if manifests and told and (candidate := manifests[-1].judgement.candidate) is not None:
        said[candidate.subject] = "candidate"
    return said


def _row(version: Version, standing: str) -> list[str]:
    manifest = version.manifest
    live, base = _nats_of(manifest.scores.live), _nats_of(manifest.scores.base)
    return [
        manifest.version,
        manifest.created_at,
        manifest.parent or "–",
        ", ".join(version.aliases),
        standing,
        f"{manifest.totals.events:,}",
        f"{manifest.totals.tokens:,}",
        nats(live),
        nats(base),
        nats(base - live if live is not None and base is not None else None),
    ]


def _details(manifest: Manifest) -> list[tuple[str, str]]:
    totals, since = manifest.totals, manifest.since_parent
    rows = [
        ("lineage", manifest.lineage),
        ("created at", manifest.created_at),
        ("parent", manifest.parent or "–"),
        ("checkpoint", f"{manifest.checkpoint}, epoch {manifest.epoch}"),
        ("base", f"{manifest.base.name}, revision {manifest.base.revision or '–'}"),
        ("adapter", f"rank {manifest.lora.rank}, {manifest.lora.parameters:,} parameters"),
        ("events", f"{totals.events:,}, since the parent {since.events:,}"),
        ("of these", ", ".join(f"{getattr(totals, name):,} {name.replace('_', ' ')}" for name in _OUTCOMES)),
        ("tokens", f"{totals.tokens:,} learnt, since the parent {since.tokens:,}"),
        ("with replay", f"{totals.tokens_trained:,} tokens in {totals.steps:,} steps"),
    ]
    if manifest.event_time is not None:
        rows.append(("event time", " to ".join(instant(seconds) for seconds in manifest.event_time)))
    for topic, offsets in manifest.progress.items():
        said = ", ".join(f"{partition}: {offset:,}" for partition, offset in sorted(offsets.items()))
        rows.append((f"next offsets of {topic}", said))
    for name, score in (("live", manifest.scores.live), ("base", manifest.scores.base)):
        if score is not None:
            rows.append(
                (f"score, {name}", f"{score.nats_per_token:.4f} nats/token, {score.bits_per_byte:.4f} bits/byte")
            )
    return rows + _gate(manifest.judgement)


def _gate(judgement: Judgement) -> list[tuple[str, str]]:
    rows = [("champion then", the_base(judgement.champion))]
    if judgement.candidate is not None:
        rows.append(("candidate", comparison_words(judgement.candidate)))
    if judgement.watched is not None:
        rows.append(("under watch", comparison_words(judgement.watched)))
    for ruling in judgement.rulings:
        rows.append((f"ruling {ruling.number}", f"{verdict_words(ruling.decision, ruling.evidence)}: {ruling.reason}"))
        if ruling.distrusted:
            rows.append(("drawn on no more", distrust_words(ruling.distrusted)))
    return rows + [("drift", alarm_words(alarm)) for alarm in judgement.alarms]


def _nats_of(score: Score | None) -> float | None:
    return None if score is None else score.nats_per_token
