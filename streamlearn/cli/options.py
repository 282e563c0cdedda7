"""What several verbs share: which configuration, which lineage, which form of output."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamlearn.config import S3, Config, Store
from streamlearn.config_file import ConfigError, load, secrets_of

if TYPE_CHECKING:
    from streamlearn.registry.reader import LineageReader

DEFAULT_FILE = Path("streamlearn.toml")

ConfigFile = Annotated[
    Path | None,
    typer.Option("-c", "--config", metavar="FILE", help="Configuration; `streamlearn.toml` here unless given."),
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="`s3://bucket/prefix`, `file:///dir` or a path, instead of -c."),
]
LineageName = Annotated[
    str | None, typer.Option("--lineage", metavar="NAME", help="Which lineage; the configuration's unless given.")
]
EndpointUrl = Annotated[
    str | None, typer.Option("--endpoint-url", metavar="URL", help="Of an S3 store other than AWS, with --store.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def load_config(path: Path | None) -> Config:
    """Read the configuration that `-c` names, or the one in this directory.

    Raises:
        ConfigError: it cannot be used, or there is none.
    """
    if path is None and not DEFAULT_FILE.exists():
        raise ConfigError(f"no configuration: give one with -c FILE, or put a {DEFAULT_FILE} into this directory")
    config = load(path or DEFAULT_FILE)
    quiet_logs(secrets_of(config))
    return config


def quiet_logs(secrets: Iterable[str] = ()) -> None:
    """Log warnings only, readably and on standard error: standard output is the verb's, and a live view the demo's.

    Args:
        secrets: masked in what is logged.
    """
    # Here, not above: the list of verbs is shown without.
    from streamlearn.telemetry import logs

    logs.configure("warning", "console", secrets)


def where(config: Path | None, store: str | None, lineage: str | None, endpoint_url: str | None) -> tuple[Store, str]:
    """Return the store and the lineage's name that the options mean.

    Raises:
        ConfigError: they mean none, or contradict each other.
    """
    if store is None:
        if endpoint_url is not None:
            raise ConfigError("--endpoint-url goes with --store; a configuration has its own store.s3.endpoint_url")
        if config is None and not DEFAULT_FILE.exists():
            raise ConfigError("which lineage? Give -c FILE, or --store URL --lineage NAME")
        resolved = load_config(config)
        return resolved.store, lineage or resolved.stream.name
    if config is not None:
        raise ConfigError("-c and --store both name a store; give one of them")
    if lineage is None:
        raise ConfigError("--store needs --lineage NAME: a store may hold several lineages")
    if endpoint_url is not None and not store.startswith("s3://"):
        raise ConfigError(f"--endpoint-url is for S3, but --store {store} is a directory; leave it out")
    return Store(url=store, s3=S3(endpoint_url=endpoint_url)), lineage


def open_reader(config: Path | None, store: str | None, lineage: str | None, endpoint_url: str | None) -> LineageReader:
    """Return a reader of the lineage that the options mean.

    Raises:
        ConfigError: they mean none, or contradict each other.
    """
    settings, name = where(config, store, lineage, endpoint_url)
    # Here, not above: verbs that read no lineage need no registry.
    from streamlearn.registry.open import open_store
    from streamlearn.registry.reader import LineageReader

    return LineageReader(open_store(settings), name)
