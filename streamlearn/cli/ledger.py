"""`streamlearn ledger`: the audit trail, offset by offset."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Annotated

import typer

from streamlearn.cli.options import AsJson, ConfigFile, EndpointUrl, LineageName, StoreUrl, open_reader
from streamlearn.cli.output import instant, nats, print_json, print_json_line, print_table
from streamlearn.config_file import ConfigError
from streamlearn.core.manifest import EventLine, Manifest, ScoreLine
from streamlearn.ports import NotFound

_TABLE_LINES = 100
"""Lines of a table unless asked for more; JSON has no bound."""


def ledger(
    config: ConfigFile = None,
    store: StoreUrl = None,
    lineage: LineageName = None,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="VERSION", help="Only what this version learnt beyond its parent."),
    ] = None,
    find: Annotated[
        str | None, typer.Option("--find", metavar="ID", help="Where this event is, and which versions have learnt it.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help=f"Lines at most; {_TABLE_LINES} in a table unless given.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show what was read, what became of it and what it scored, in the order of the stream.

    One `event` line for each offset, one `score` line for each chunk when it was first visited. `--json` prints one
    object a line, as on the store.
    """
    reader = open_reader(config, store, lineage, endpoint_url)
    if find is not None:
        if version is not None:
            raise ConfigError("--find looks through all versions; leave --version out")
        _show_found(find, *reader.versions_with(find), as_json=as_json)
        return
    lines = reader.ledger(reader.manifest(version), since_parent=True) if version is not None else reader.ledger()
    if as_json:
        for line in islice(lines, limit):
            print_json_line(line.model_dump(mode="json"))
        return
    bound = limit or _TABLE_LINES
    shown = list(islice(lines, bound + 1))
    _print_lines(shown[:bound])
    if len(shown) > bound:
        typer.echo(f"… and more than these {bound} lines: raise --limit, or take all of them with --json", err=True)


def _show_found(event: str, lines: list[EventLine | ScoreLine], manifests: list[Manifest], *, as_json: bool) -> None:
    if not lines:
        raise NotFound(
            f"no event {event!r} in this lineage; ids come from ingest.fields.id, else topic:partition:offset"
        )
    versions = [manifest.version for manifest in manifests]
    if as_json:
        print_json({"id": event, "lines": [line.model_dump(mode="json") for line in lines], "versions": versions})
        return
    _print_lines(lines)
    typer.echo(f"in versions: {', '.join(versions) or 'none yet'}")


def _print_lines(lines: Iterable[EventLine | ScoreLine]) -> None:
    print_table(
        ["kind", "id", "outcome", "event time", "chunk", "tokens", "live", "base"],
        [_row(line) for line in lines],
        right=["chunk", "tokens", "live", "base"],
    )


def _row(line: EventLine | ScoreLine) -> list[str]:
    if isinstance(line, EventLine):
        return ["event", line.id, line.outcome.value, instant(line.ts), "", f"{line.tokens:,}", "", ""]
    live, base = (None if nll is None or not line.tokens else nll / line.tokens for nll in (line.nll, line.nll_base))
    note = "flushed" if line.flushed else ""
    return ["score", line.id, note, "", str(line.chunk), f"{line.tokens:,}", nats(live), nats(base)]
