"""`streamlearn log`: what became of a lineage's versions, and why, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli.options import AsJson, ConfigFile, EndpointUrl, LineageName, StoreUrl, open_reader
from streamlearn.cli.output import print_dated, print_json, print_table
from streamlearn.cli.wording import dated, moment, named, words

if TYPE_CHECKING:
    from streamlearn.registry.entries import Entry, Span
    from streamlearn.registry.reader import LineageReader


def log(
    config: ConfigFile = None,
    store: StoreUrl = None,
    lineage: LineageName = None,
    alias: Annotated[
        str | None, typer.Option("--alias", metavar="NAME", help="Only the moves of this alias, such as `champion`.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="WHEN",
            help="What the aliases named then: `2026-11-24` (all of that day, UTC) or `2026-11-24T09:30:00+01:00`.",
        ),
    ] = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Tell the decisions of a lineage in words, oldest first.

    Versions that were published, what the gate and the watch ruled about them and why, drift alarms, and every move of
    every alias. Rulings that moved nobody, and alarms, have no time of their own: they stand before the version that
    first tells them.
    """
    reader = open_reader(config, store, lineage, endpoint_url)
    if at is not None:
        _show_then(reader, at, alias, as_json=as_json)
        return
    # Here, not above: the list of verbs is shown without.
    from streamlearn.registry.history import timeline

    manifests = list(reader.manifests())
    aliases = reader.aliases() if alias is None else [reader.alias(alias)]
    entries = timeline(manifests, aliases)
    if alias is not None:
        entries = [entry for entry in entries if _alias_of(entry) == alias]
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in entries])
    elif entries:
        print_dated((dated(entry), words(entry)) for entry in entries)
    elif alias is not None:
        typer.echo(f"alias {alias!r} has never named a version", err=True)
    else:
        typer.echo("nothing has happened yet; publish.every says when the first version is due", err=True)


def _alias_of(entry: Entry) -> str | None:
    if entry.kind == "ruling":
        return entry.move.alias if entry.move is not None else None
    return entry.alias if entry.kind == "move" else None


def _show_then(reader: LineageReader, at: str, alias: str | None, *, as_json: bool) -> None:
    from streamlearn.registry.history import spans, when

    begin, end = when(at)
    reader.head()
    found = spans(reader.aliases() if alias is None else [reader.alias(alias)], begin, end)
    if as_json:
        print_json([span.model_dump(mode="json") for span in found])
        return
    print_table(["alias", "named", "since", "until", "reason"], [_row(span) for span in found])


def _row(span: Span) -> list[str]:
    reason = span.reason or "it had named no version yet"
    return [span.alias, named(span.alias, span.version), moment(span.since), moment(span.until), reason]
