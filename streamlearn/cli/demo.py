"""`streamlearn demo`: the whole line on this machine, in minutes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from streamlearn.cli.options import AsJson
from streamlearn.cli.output import print_json_line
from streamlearn.config_file import ConfigError


def demo(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long to learn.")] = 3.0,
    model: Annotated[str, typer.Option(help="Hub id, directory, GGUF file, or `smollm2-135m`.")] = "smollm2-135m",
    stream: Annotated[
        str, typer.Option(metavar="FILE", help="JSONL or text, one event a line, plain or gzip.")
    ] = "bundled:changelogs",
    store: Annotated[str, typer.Option(metavar="DIR", help="Where the lineage is kept.")] = "streamlearn-demo",
    fresh: Annotated[
        bool, typer.Option("--fresh/--continue", help="Remove what earlier demos learnt, or go on from there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a real model get better at a real stream.

    Starts a Kafka broker inside this process, feeds it dated release notes from another one, and runs the same
    worker as `streamlearn run` on them. Closes with versions, gain, a learning curve and commands to try next.
    With `--json` the last line of standard output is one object; everything else goes to standard error.
    """
    directory = _directory(store)
    # Here, not above: torch takes seconds that `--help` need not wait for.
    from rich.console import Console

    from streamlearn.learner.threads import share_cores

    share_cores(os.environ)
    from streamlearn.demo.report import show
    from streamlearn.demo.run import Wishes, run
    from streamlearn.telemetry.logs import route_libraries

    # What libraries print by themselves would tear the live view.
    route_libraries()
    wishes = Wishes(minutes=minutes, model=model, stream=stream, store=directory, fresh=fresh)
    outcome = run(wishes, Console(stderr=True))
    show(outcome, Console(stderr=as_json))
    if as_json:
        print_json_line(outcome.document())


def _directory(store: str) -> Path:
    # As text, not as a path: a path has lost the second slash of `s3://`, and would be made here.
    if "://" in store:
        raise ConfigError(f"--store {store}: the demo keeps its lineage in a directory; for S3 use `streamlearn run`")
    return Path(store).absolute()
