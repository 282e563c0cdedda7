"""What of a configuration may be shown, and what stands for it.

A key is secret by its type (`SecretStr`) or, among librdkafka's properties, by
its name; an address may carry a password of its own. Nothing here reads a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr

from streamlearn.config import Config

MASK = "***"

_TELLTALE = (
    r"pas{1,2}(?:w(?:or[dt]|d)|phrase)|secret|token|credential|private|jaas|ac{1,2}ess[._-]?key|api[._-]?key|key\.pem"
    r"|oauthbearer\.(?:config|extensions)"
)
"""Mistyped ones too: what librdkafka refuses is shown all the same."""
_SECRET_KEY = re.compile(_TELLTALE, re.IGNORECASE)
_NAMES_A_PLACE = re.compile(r"\.(location|url)$")
_USERINFO = re.compile(
    r"(?<=://)[^/?#\s\"']+@"  # user:password@host or token@host
    r"|(?<=://)[^\s,\"'/:@]+:[^,\"'@]*@"  # a password with a slash or space: few remember to quote it
    r"|(?<![^\s,;\"'(])[^\s,;\"'(/:@]+:(?!//)[^\s,\"'@]*@"  # without a scheme
)
# From the word on, and not far: time must stay linear in a text that only repeats it.
_GIVEN = re.compile(
    rf"((?:{_TELLTALE})[\w.-]{{0,60}}[\"']?\s{{0,8}}[=:]\s{{0,8}}[\"']?)(?!\s|\*\*\*)[^\s\"',;&]+", re.IGNORECASE
)
"""`sasl.password=…` within another text, such as an address's query or properties in one line."""

_ADDRESSES: dict[str, Any] = {
    "kafka": {"bootstrap_servers": True},
    "store": True,
    "http": True,
    "log": True,
    "model": {"cache_dir": True},
}
"""Where things are and how they are shown, which changes nothing of what is learnt."""


def is_secret_key(name: str) -> bool:
    """Whether a property of this name holds a secret.

    >>> is_secret_key("sasl.password"), is_secret_key("ssl.key.location"), is_secret_key("fetch.min.bytes")
    (True, False, False)
    """
    return bool(_SECRET_KEY.search(name)) and not _NAMES_A_PLACE.search(name)


def mask_text(text: str) -> str:
    """Return an address, or several, without the user, password and token that they may carry.

    >>> mask_text("http://me:pw@proxy:8080/x?token=abc")
    'http://***@proxy:8080/x?token=***'
    >>> mask_text("me:pw@broker:9092,other:9092")
    '***@broker:9092,other:9092'
    """
    return _GIVEN.sub(rf"\1{MASK}", _USERINFO.sub(f"{MASK}@", text))


def without_userinfo(url: str) -> str:
    """Return an address without the user and password that some write into one.

    >>> without_userinfo("http://me:pw@store:9000")
    'http://store:9000'
    """
    return _USERINFO.sub("", url)


def masked(config: Config) -> dict[str, Any]:
    """Return the whole configuration as JSON values, defaults included and secrets replaced by `***`."""
    shown: dict[str, Any] = _shown(config.model_dump(mode="json"))
    for key, value in shown["kafka"]["client"].items():
        if is_secret_key(key):
            shown["kafka"]["client"][key] = MASK if value != "" else value
    return shown


def secrets_of(config: Config) -> set[str]:
    """Return every secret in clear, for whoever must keep them out of its output."""
    found = set(_typed_secrets(config))
    for key, value in config.kafka.client.items():
        if is_secret_key(key):
            found |= {str(value), *_parts(key, str(value))}
    for text in _texts(config.model_dump(mode="json")):
        for userinfo in _USERINFO.findall(text):
            whole = userinfo.removesuffix("@")
            password = whole.partition(":")[2]
            found |= {whole, password, unquote(password)}
    return found - {""}


def _parts(key: str, value: str) -> Iterator[str]:
    """Yield the parts of a secret that an error may quote alone: lines of a key, settings of a token."""
    if "oauthbearer" in key:
        yield from (part.partition("=")[2] for part in value.split())
    elif "\n" in value:
        yield from (line for line in value.splitlines() if not line.startswith("-----"))


def digest(config: Config) -> str:
    """Return the SHA-256, in hex, of what decides the learning: no secrets, no addresses, no logging."""
    decisive = config.model_dump(mode="json", exclude=_ADDRESSES)
    decisive["kafka"]["client"] = {
        key: value
        for key, value in config.kafka.client.items()
        if not is_secret_key(key) and not _NAMES_A_PLACE.search(key) and mask_text(str(value)) == str(value)
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if isinstance(value, str):
        return MASK if value and set(value) == {"*"} else mask_text(value)
    return value


def _typed_secrets(section: BaseModel) -> Iterator[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from _typed_secrets(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
