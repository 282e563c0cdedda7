"""From a TOML file and the environment to a `Config`, or to one message that says what to mend.

Decides how a variable names a key. What a key means is `config.py`'s, how an
error reads `config_errors.py`'s, what is secret `config_secrets.py`'s; nothing
here opens a connection or imports torch.

Environment: `STREAMLEARN__SECTION__KEY` sets `section.key` and wins over the
file; an empty variable sets nothing. Lists and tables are JSON, lists also
comma-separated. Below `STREAMLEARN__KAFKA__CLIENT__` names are librdkafka's,
in small letters with `.` for `_`: `..._SASL_PASSWORD` is `sasl.password`.
"""

from __future__ import annotations

import copy
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from streamlearn.config import Config
from streamlearn.config_errors import (
    PREFIX,
    ConfigError,
    Key,
    choices_of,
    describe,
    find,
    is_list,
    is_table,
    section_of,
    suggest_variable,
    variable_of,
    without_secrets,
)
from streamlearn.config_secrets import digest, masked, secrets_of

_TOO_DEEP = "are nested too deeply to be read; no key needs more than three levels"
_MAX_BYTES = 2**17
"""Of a file; one with every key and all its reasons has 30,000."""

__all__ = ["ConfigError", "digest", "load", "masked", "resolve", "secrets_of"]


def load(path: Path, env: Mapping[str, str] = os.environ) -> Config:
    """Read `path`, let `env` override it, and check all of it.

    Raises:
        ConfigError: the file cannot be read or parsed, or keys are unknown,
            missing, out of bounds or contradict each other; all are named.
    """
    try:
        with path.open("rb") as file:
            body = file.read(_MAX_BYTES + 1)
        if len(body) > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES:,} bytes, so that it is no configuration of ours")
        text = body.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; name another file with -c FILE") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: lists or tables {_TOO_DEEP}") from None
    except ValueError as error:
        # TOMLDecodeError is one; a number of thousands of digits is another.
        raise ConfigError(f"{path} is not TOML: {error}; texts need quotes, sections are [name]") from None
    return resolve(document, env, origin=str(path))


def resolve(document: Mapping[str, Any], env: Mapping[str, str] = os.environ, *, origin: str = "") -> Config:
    """Check a parsed `document` with `env` laid over it; `origin` names it in errors.

    Raises:
        ConfigError: see `load`.
    """
    try:
        return _resolved(document, env, origin)
    except RecursionError:
        raise ConfigError(f"{f'{origin}: ' if origin else ''}lists or tables {_TOO_DEEP}") from None


def _resolved(document: Mapping[str, Any], env: Mapping[str, str], origin: str) -> Config:
    merged = copy.deepcopy(dict(document))
    _flatten_client(merged)
    variables: dict[Key, str] = {}
    problems: list[str] = []
    for variable, value in sorted(env.items()):
        if variable.startswith(PREFIX) and value:
            try:
                variables[_override(merged, variable, value)] = variable
            except ConfigError as error:
                problems.append(str(error))
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        problems += describe(error, variables)
    if problems:
        heading = [f"{origin} cannot be used:"] if origin else []
        raise ConfigError(without_secrets("\n  ".join(heading + problems), merged))
    return config


# --- the environment ------------------------------------------------------------


def _override(merged: dict[str, Any], variable: str, text: str) -> Key:
    """Set the key that `variable` names and return it."""
    parts = variable.removeprefix(PREFIX).lower().split("__")
    key, field = find(parts)
    if field is None:
        raise ConfigError(f"{variable} names no key and would have no effect{suggest_variable(parts)}")
    if section_of(field) is not None:
        raise ConfigError(f"{variable} names a section; set its keys one by one, as {variable}__KEY")
    if is_table(field) and len(parts) > len(key):
        key = (*key, ".".join(parts[len(key) :]).replace("_", "."))
        value: Any = text
    elif len(parts) > len(key):
        raise ConfigError(f"{variable} goes deeper than {'.'.join(key)}, which is one value; use {variable_of(key)}")
    else:
        value = _parse(variable, text, field)
    table = merged
    for part in key[:-1]:
        below = table.setdefault(part, {})
        if not isinstance(below, dict):
            return key  # the file has no section there, which validation will say
        table = below
    table[key[-1]] = value
    return key


def _parse(variable: str, text: str, field: FieldInfo) -> Any:
    """Read a list or table; scalars are left to pydantic."""
    if not (is_table(field) or is_list(field)) or text in choices_of(field):
        return text
    if is_list(field) and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{variable} is not JSON at character {error.pos}: {error.msg}; mind the quotes") from None
    except ValueError as error:
        raise ConfigError(f"{variable} is not JSON: {error}") from None


def _flatten_client(merged: dict[str, Any]) -> None:
    """Join what TOML takes apart: a bare `sasl.mechanism = …` is a table in a table to it."""
    kafka = merged.get("kafka")
    if isinstance(kafka, dict) and isinstance(client := kafka.get("client"), dict):
        kafka["client"] = dict(_flat(client))


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
