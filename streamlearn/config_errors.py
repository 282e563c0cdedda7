"""What is wrong with a configuration, in words: key, value, consequence, mend.

Knows the schema of `config.py` by reflection alone, so a new key needs nothing
here. Secrets are masked by name before anything is quoted.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from streamlearn.config import Config
from streamlearn.config_secrets import MASK, is_secret_key, mask_text

PREFIX = "STREAMLEARN__"

Key: TypeAlias = tuple[str, ...]
"""A key by its parts: ("kafka", "client", "sasl.password")."""

_LONGEST_SHOWN = 80
"""Characters of a value that an error repeats."""
_LONGEST_READ = 1_000
"""Characters of a value that are read for secrets before the first of them are shown."""
_SHORTEST_SECRET = 4
"""Characters; masking shorter texts wherever they occur would garble the message."""


class ConfigError(ValueError):
    """The configuration cannot be used; one line for each thing to mend, secrets masked."""


def describe(error: ValidationError, variables: Mapping[Key, str]) -> list[str]:
    """Return one line for each key that is wrong; `variables` names what the environment has set."""
    found: dict[Key, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False, include_context=False):
        found.setdefault(_key_of(details["loc"]), []).append(details)
    lines = []
    for key, group in found.items():
        variable = f" (from {variables[key]})" if key in variables else ""
        lines.append(_line(key, group, variable))
    return lines


def _line(key: Key, group: list[ErrorDetails], variable: str) -> str:
    name, kind = ".".join(key), group[0]["type"]
    _, field = find(key)
    if kind == "extra_forbidden":
        return f"{name} = {_show(key, group[0]['input'])}: unknown key, it would have no effect{_suggest(key)}"
    if kind == "missing" and field is not None:
        return _missing(key, field)
    messages = [details["msg"].removeprefix("Value error, ") for details in group]
    if field is None or (section_of(field) is not None and kind == "value_error"):
        return "; ".join(messages)  # a rule between keys names them itself
    if section_of(field) is not None:
        return f"{name} = {_show(key, group[0]['input'])}: a section is needed; write [{name}] and its keys below it"
    said = " or ".join(dict.fromkeys(message.replace("Input should be", "must be") for message in messages))
    line = f"{name} = {_show(key, group[0]['input'])}{variable}: {said}"
    return line if kind == "value_error" else f"{line}{_reason(field)}{_default(field)}"


def _missing(key: Key, field: FieldInfo) -> str:
    if (section := section_of(field)) is not None:
        needed = ", ".join(name for name, below in section.model_fields.items() if below.is_required())
        return f"[{'.'.join(key)}] is missing, and nothing can stand in for it: add the section with {needed}"
    return (
        f"{'.'.join(key)} is missing, and nothing can stand in for it{_reason(field)}: "
        f"add `{key[-1]} = …` below [{'.'.join(key[:-1])}], or set {variable_of(key)}"
    )


def _reason(field: FieldInfo) -> str:
    reason = " ".join((field.description or "").split()).rstrip(".")
    return f" ({reason})" if reason else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    default = field.get_default(call_default_factory=True, validated_data={})
    return "; leave it out" if default is None else f"; left out, it is {json.dumps(default, default=str)}"


def _show(key: Key, value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if is_secret_key(key[-1]):
        return MASK
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > _LONGEST_READ:
        return f"a value of {len(text):,} characters"  # too long to look for secrets in it
    text = mask_text(text)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def _suggest(key: Key) -> str:
    if nearest := _nearest(key):
        return f"; did you mean {'.'.join(nearest)}?"
    if len(key) == 1:
        return f"; sections are {', '.join(Config.model_fields)}"
    _, field = find(key[:-1])
    section = section_of(field) if field is not None else None
    return f"; [{'.'.join(key[:-1])}] has {', '.join(section.model_fields)}" if section is not None else ""


def suggest_variable(parts: list[str]) -> str:
    """Return `; did you mean …?` for a variable that names no key."""
    nearest = _nearest(tuple(parts))
    return f"; did you mean {variable_of(nearest)}?" if nearest else "; docs/configuration.md lists all keys"


def _nearest(key: Key) -> Key | None:
    """Return the key most likely meant: much alike beside it, of its name elsewhere, alike beside it, alike at all."""
    known = [known for known in _keys(Config) if known != key]
    beside = {known[-1]: known for known in known if known[:-1] == key[:-1]}
    if near := difflib.get_close_matches(key[-1], beside, 1, 0.8):
        return beside[near[0]]
    if elsewhere := [known for known in known if known[-1] == key[-1]]:
        return elsewhere[0]
    if near := difflib.get_close_matches(key[-1], beside, 1, 0.6):
        return beside[near[0]]
    dotted = {".".join(known): known for known in known}
    near = difflib.get_close_matches(".".join(key), dotted, 1, 0.75)
    return dotted[near[0]] if near else None


def without_secrets(message: str, merged: Mapping[str, Any]) -> str:
    """Mask what a validator may have quoted."""
    for secret in sorted(_secrets_in(merged), key=len, reverse=True):
        message = message.replace(secret, MASK)
    return message


def _secrets_in(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _secrets_in(value)
        elif is_secret_key(name) and len(str(value)) >= _SHORTEST_SECRET:
            yield str(value)


# --- the schema ----------------------------------------------------------------------


def find(parts: Key | list[str]) -> tuple[Key, FieldInfo | None]:
    """Return the longest key that `parts` begin with, and its field; None where they name nothing."""
    model: type[BaseModel] | None = Config
    key: Key = ()
    field: FieldInfo | None = None
    for part in parts:
        if model is None:
            break
        if (field := model.model_fields.get(part)) is None:
            return key, None
        key, model = (*key, part), section_of(field)
    return key, field


def _key_of(loc: tuple[int | str, ...]) -> Key:
    """Return the key that pydantic's location means, without its union branches and indices."""
    parts = [str(part) for part in loc]
    key, field = find(parts)
    if field is None or is_table(field):
        return tuple(parts[: len(key) + 1])
    return key


def _keys(model: type[BaseModel], prefix: Key = ()) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        if (section := section_of(field)) is not None:
            yield from _keys(section, (*prefix, name))


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section behind a field, None for a plain key."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _branches(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) not in (tuple, dict) else (field.annotation,)


def is_list(field: FieldInfo) -> bool:
    """Whether the key may hold a list."""
    return any(get_origin(branch) is tuple for branch in _branches(field))


def is_table(field: FieldInfo) -> bool:
    """Whether the key holds a table of free names."""
    return any(get_origin(branch) is dict for branch in _branches(field))


def choices_of(field: FieldInfo) -> set[Any]:
    """Return the fixed words that the key may hold."""
    return {choice for branch in _branches(field) if get_origin(branch) is Literal for choice in get_args(branch)}


def variable_of(key: Key) -> str:
    """Return the environment variable that sets `key`."""
    return PREFIX + "__".join(key).upper()
