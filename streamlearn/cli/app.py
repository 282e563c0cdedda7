"""The command line: which verbs there are, and what each ending exits with.

Starts light: torch, boto3 and librdkafka are imported by the commands that
need them, when they need them.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from streamlearn.cli import bench, check, demo, ledger, log, produce, pull, run, versions
from streamlearn.cli.options import quiet_logs
from streamlearn.ports import Fenced, StreamlearnError

OK, FAILED, USAGE, FENCED, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="streamlearn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Keep a LoRA adapter of a language model as fresh as a Kafka topic.\n\n"
        "Start with `streamlearn demo`. With a Kafka and a store of your own, write a `streamlearn.toml`, let "
        "`streamlearn check` prove it, then `streamlearn run`; `streamlearn produce` feeds a file into the topic. What "
        "was learnt: `versions`, `show`, `log`, `ledger`, `pull`."
    ),
    epilog=(
        "Exit codes: 0 ok, 1 failed, 2 bad usage or configuration, 3 another writer owns the lineage, 130 interrupted."
    ),
)

_LEARN, _READ, _FEED = "Learn", "Read what was learnt", "Feed"

app.command("demo", rich_help_panel=_LEARN)(demo.demo)
app.command("check", rich_help_panel=_LEARN)(check.check)
app.command("run", rich_help_panel=_LEARN)(run.run)
app.command("versions", rich_help_panel=_READ)(versions.versions)
app.command("show", rich_help_panel=_READ)(versions.show)
app.command("log", rich_help_panel=_READ)(log.log)
app.command("ledger", rich_help_panel=_READ)(ledger.ledger)
app.command("pull", rich_help_panel=_READ)(pull.pull)
app.command("produce", rich_help_panel=_FEED)(produce.produce)
app.add_typer(bench.app, name="bench", rich_help_panel=_LEARN)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"streamlearn {importlib.metadata.version('streamlearn')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before the verb."""
    quiet_logs()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; `arguments` are those of the process unless given.

    Raises:
        SystemExit: always, with the code that the ending stands for.
    """
    sys.exit(_flushed(_code(list(arguments) if arguments is not None else None)))


def _code(arguments: list[str] | None) -> int:
    try:
        app(arguments, prog_name="streamlearn")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else OK
    except Fenced as error:
        return _say(error, FENCED)
    except StreamlearnError as error:
        return _say(error, FAILED)
    except ValueError as error:
        return _say(error, USAGE)
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def _say(error: Exception, code: int) -> int:
    # Here, not above: the list of verbs is shown without.
    from streamlearn.telemetry.logs import masked

    typer.echo(f"streamlearn: {masked(str(error))}", err=True)
    return code


def _flushed(code: int) -> int:
    """Let a reader that went away (`| head`) end us quietly."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would be flushed, and complained of, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
