"""`streamlearn check`: is this configuration right, and are the parts it names there?"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from streamlearn.cli.options import AsJson, ConfigFile, load_config
from streamlearn.cli.output import print_json, print_table
from streamlearn.config_file import masked


def check(
    config: ConfigFile = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only read the configuration; reach for nothing and load nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Resolve the configuration, print it without secrets, then try every part it names.

    Tries the brokers and topics, the store and its conditional writes, the model, its tokenizer and
    `lora.target_modules`, and memory. Exits 1 when one of them fails, 2 when the configuration is wrong.
    """
    resolved = load_config(config)
    shown = masked(resolved)
    if not as_json:
        typer.echo(as_toml(shown))
    if offline:
        if as_json:
            print_json({"config": shown, "probes": None})
        return
    # Here, not above: what is offline must not import torch, boto3 or librdkafka.
    from streamlearn.cli.probes import probe_all

    probes = probe_all(resolved)
    if as_json:
        print_json({"config": shown, "probes": [probe.document() for probe in probes]})
    else:
        print_table(
            ["", "part", "found", "mend"],
            [("ok" if probe.ok else "FAIL", probe.part, probe.found, probe.mend) for probe in probes],
        )
    if not all(probe.ok for probe in probes):
        raise typer.Exit(1)


def as_toml(document: dict[str, Any]) -> str:
    """Return a resolved configuration as TOML; keys that are not set are comments."""
    return "\n".join(_section((), document)).strip()


def _section(path: tuple[str, ...], table: dict[str, Any]) -> list[str]:
    lines = ["", f"[{'.'.join(path)}]"] if path else []
    for key, value in table.items():
        if not isinstance(value, dict):
            name = key if key.replace("_", "").isalnum() else _toml(key)
            lines.append(f"# {name} is not set" if value is None else f"{name} = {_toml(value)}")
    for key, value in table.items():
        if isinstance(value, dict) and (value or not path):
            lines += _section((*path, key), value)
    return lines


def _toml(value: Any) -> str:
    """JSON's texts, numbers, booleans and lists are TOML's too."""
    return json.dumps(value, ensure_ascii=False)
