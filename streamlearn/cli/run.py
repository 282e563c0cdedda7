"""`streamlearn run`: the worker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamlearn.cli.options import AsJson, ConfigFile, load_config
from streamlearn.cli.output import print_json_line
from streamlearn.config_file import secrets_of
from streamlearn.core.manifest import version_name

if TYPE_CHECKING:
    from streamlearn.reporter import RunReport


def run(
    config: ConfigFile = None,
    until_end: Annotated[
        bool,
        typer.Option(
            "--until-end", help="Learn up to the ends of the topics as they are now, publish, and exit 0 (backfills)."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn from the topics until told to stop.

    Goes on where the lineage's newest checkpoint stands; while another worker holds the lineage, waits as hot
    standby. SIGTERM and Ctrl-C finish the step, checkpoint, and exit 0.

    Logs go to standard error, as `[log]` of the configuration says. With `--json` standard output gets one object at
    the end: `seconds`, `events` passed and `tokens` trained in this run, and the newest `version`.
    """
    resolved = load_config(config)
    # Here, not above: torch takes seconds that a bad configuration need not wait for.
    import structlog

    from streamlearn.learner.threads import share_cores
    from streamlearn.telemetry import logs

    share_cores(os.environ)
    logs.configure(resolved.log.level, resolved.log.format, secrets_of(resolved))
    from streamlearn import bootstrap

    logs.route_libraries()
    summary = summary_of(bootstrap.run(resolved, until_end=until_end))
    structlog.get_logger(__name__).info("ended", **summary)
    if as_json:
        print_json_line(summary)


def summary_of(report: RunReport) -> dict[str, Any]:
    """Return what a run did as the one JSON object of `run --json`."""
    return {
        "seconds": round(report.seconds, 3),
        "tokens": report.tokens_trained,
        "events": report.events,
        "version": version_name(report.newest_version) if report.newest_version else None,
    }
