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

from pydantic import BaseModel, SecretStr

from streamlearn.config import Config

MASK = "***"

_SECRET_KEY = re.compile(
    r"password|passwd|passphrase|secret|token|credential|private|jaas|access[._-]?key|api[._-]?key|key\.pem",
    re.IGNORECASE,
)
_NAMES_A_PLACE = re.compile(r"\.(location|url)$")
_USERINFO = re.compile(r"(?<=://)[^/?#\s]+@")

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
    """Return an address without the user and password it may carry.

    >>> mask_text("http://me:pw@proxy:8080/x")
    'http://***@proxy:8080/x'
    """
    return _USERINFO.sub(f"{MASK}@", text)


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
    found |= {str(value) for key, value in config.kafka.client.items() if is_secret_key(key)}
    for text in _texts(config.model_dump(mode="json")):
        for userinfo in _USERINFO.findall(text):
            found |= {userinfo.removesuffix("@"), userinfo.removesuffix("@").partition(":")[2]}
    return found - {""}


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
