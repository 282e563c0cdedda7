"""`streamlearn pull`: one version as a plain PEFT adapter in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamlearn.cli.options import AsJson, ConfigFile, EndpointUrl, LineageName, StoreUrl, open_reader
from streamlearn.cli.output import print_json, size


def pull(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="`v000042`, `42`, or an alias such as `latest`.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; must not exist yet, or be empty.")],
    config: ConfigFile = None,
    store: StoreUrl = None,
    lineage: LineageName = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Download a version; DIR appears only when every digest is right.

    It is a plain adapter: `PeftModel.from_pretrained(model, DIR)`, vLLM, SGLang and LoRAX load it as it is.
    """
    reader = open_reader(config, store, lineage, endpoint_url)
    manifest = reader.manifest(version)
    total = reader.pull(manifest, directory)
    if as_json:
        print_json({"version": manifest.version, "directory": str(directory), "bytes": total})
    else:
        typer.echo(f"{manifest.version} is in {directory}: {size(total)}, every digest verified")
