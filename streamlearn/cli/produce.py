"""`streamlearn produce`: a file of events into a topic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.cli.interrupt import interruptible
from streamlearn.cli.options import DEFAULT_FILE, AsJson, load_config
from streamlearn.cli.output import print_json_line
from streamlearn.cli.pacing import pace
from streamlearn.config import Config
from streamlearn.config_file import ConfigError
from streamlearn.ports import Fatal

if TYPE_CHECKING:
    from streamlearn.ingest.probe import Contact


_WHERE, _PACE, _WHAT = "Where to", "How fast; as fast as the brokers take it unless given", "What"


def produce(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="JSONL or text, one event a line, plain or gzip; `-` is standard input, "
            "`bundled:changelogs` the stream of the demo.",
        ),
    ],
    topic: Annotated[
        str | None,
        typer.Option(
            "--topic", rich_help_panel=_WHERE, metavar="NAME", help="The configuration's, when it names just one."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            rich_help_panel=_WHERE,
            metavar="FILE",
            help="Brokers, security and topic are those of this configuration; `streamlearn.toml` here unless given.",
        ),
    ] = None,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(
            "--bootstrap-servers", rich_help_panel=_WHERE, metavar="HOST:PORT,…", help="Instead of -c; needs --topic."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate", rich_help_panel=_PACE, metavar="N/s", help="So many a second, evenly; also `90/m`, `90/h`."
        ),
    ] = None,
    pace_field: Annotated[
        str | None,
        typer.Option(
            "--pace",
            rich_help_panel=_PACE,
            metavar="FIELD",
            help="As far apart as this time stamp says, as a dotted path.",
        ),
    ] = None,
    speed_up: Annotated[
        float | None,
        typer.Option("--speed-up", rich_help_panel=_PACE, metavar="X", help="With --pace: so many times faster."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", rich_help_panel=_WHAT, min=1, metavar="N", help="Only the first N.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="FIELD", help="The record's key, as a dotted path; events of one key keep order."
        ),
    ] = None,
    partition: Annotated[
        int | None,
        typer.Option(
            "--partition",
            rich_help_panel=_WHERE,
            min=0,
            metavar="N",
            help="All into this one; else by key, or by turns.",
        ),
    ] = None,
    ts: Annotated[
        str | None,
        typer.Option(
            "--ts",
            rich_help_panel=_WHAT,
            metavar="FIELD",
            help="The record's time stamp, where a line has it; else that of --pace, `ingest.fields.ts`, or `ts`.",
        ),
    ] = None,
    no_ts: Annotated[
        bool, typer.Option("--no-ts", rich_help_panel=_WHAT, help="Let records have the time of writing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a file of events into a topic.

    A line becomes a record as it stands, with its own time stamp as the record's. Idempotent: what is retried is
    neither repeated nor reordered. Closes with how many records the brokers have acknowledged, and exits 1 unless
    all were. Ctrl-C waits for what was sent and says how far it got.

    `streamlearn produce bundled:changelogs --topic news --pace ts --speed-up 1000000` plays twenty years in eleven
    minutes.
    """
    if no_ts and ts is not None:
        raise ConfigError("--ts and --no-ts contradict each other; give one of them")
    own_pace = pace(rate, pace_field, speed_up)
    settings = _settings(config, bootstrap_servers)
    # Here, not above: librdkafka is loaded by the commands that talk to brokers.
    from streamlearn.cli.feed import Feed
    from streamlearn.cli.rows import FieldMap

    contact, name = _where(settings, bootstrap_servers, topic)
    configured = settings.ingest.fields.ts if settings is not None else None
    feed = Feed(
        file=file,
        contact=contact,
        topic=name,
        partition=partition,
        fields=FieldMap(ts=None if no_ts else ts or pace_field or configured or "ts", pace=pace_field, key=key),
        pace=own_pace,
        limit=limit,
    )
    with interruptible() as interrupt:
        fault = feed.run(interrupt)
        if as_json:
            print_json_line(feed.document())
        else:
            typer.echo(feed.summary(interrupted=interrupt.signal is not None))
    if fault is not None:
        raise fault
    if feed.tally.acknowledged != feed.tally.records:
        raise Fatal(feed.loss())
    if interrupt.signal is not None:
        raise typer.Exit(interrupt.exit_code)


def _settings(config: Path | None, bootstrap_servers: str | None) -> Config | None:
    if bootstrap_servers is None:
        if config is None and not DEFAULT_FILE.exists():
            raise ConfigError("which brokers? Give -c FILE, or --bootstrap-servers HOST:PORT --topic NAME")
        return load_config(config)
    if config is not None:
        raise ConfigError("-c and --bootstrap-servers both name brokers; give one of them")
    return None


def _where(settings: Config | None, bootstrap_servers: str | None, topic: str | None) -> tuple[Contact, str]:
    from streamlearn.ingest.probe import Contact

    if settings is None:
        if topic is None:
            raise ConfigError("--bootstrap-servers needs --topic NAME: no configuration names one")
        assert bootstrap_servers is not None
        return Contact(bootstrap_servers, named="--bootstrap-servers"), topic
    kafka = settings.kafka
    if topic is None:
        named = [name for name in kafka.topics if not name.startswith("^")]
        if len(named) != 1 or len(kafka.topics) != 1:
            raise ConfigError(f"which topic? kafka.topics = {list(kafka.topics)} is not one name: give --topic NAME")
        topic = named[0]
    return Contact(kafka.bootstrap_servers, client=kafka.client), topic
