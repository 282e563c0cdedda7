"""From any value to one that can be written down: plain, and without secrets.

Knows nothing of where it is written.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from numbers import Integral, Real
from typing import Any, TypeAlias
from urllib.parse import quote, quote_plus

from structlog.typing import EventDict, WrappedLogger

MASK = "***"
_DEEPEST = 8
"""Levels of nesting that are walked; what is below, or comes back to itself, is written as a text."""
_OWN_KEYS = frozenset({"time", "level", "logger"})
"""Set by the logging itself, and no place for a secret."""
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""Control characters, which a stream's text could move a terminal's cursor with."""
_SHORTEST_ENCODED = 8
"""Characters of base64; shorter ones occur by chance, and masking them would garble other words."""
_URL_SAFE = str.maketrans("+/", "-_")

Plain: TypeAlias = "str | int | float | list[Plain] | dict[str, Plain] | None"


class Masking:
    """A structlog processor that leaves only plain, masked values."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        # The longest first: of two secrets that begin alike, the rest of the longer must not stay.
        self._pattern = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True)))) if forms else None

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Return `event` with every value made plain."""
        return {self.text(key): value if key in _OWN_KEYS else self.plain(value) for key, value in dict(event).items()}

    def text(self, text: str) -> str:
        """Return `text` without secrets and control characters."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        return text.translate(_CONTROLS)

    def plain(self, value: Any, depth: int = 0) -> Plain:
        """Return `value` as JSON knows it; never raises."""
        try:
            if value is None or isinstance(value, bool):
                return value
            if isinstance(value, Real):
                return self._number(int(value) if isinstance(value, Integral) else float(value))
            if depth < _DEEPEST and isinstance(value, Mapping):
                return {self.text(_written(key)): self.plain(item, depth + 1) for key, item in value.items()}
            if depth < _DEEPEST and isinstance(value, list | tuple | AbstractSet):
                return [self.plain(item, depth + 1) for item in value]
            return self.text(_written(value))
        except Exception:  # noqa: BLE001 - a foreign object may do anything when it is looked at
            return f"<{type(value).__name__} that cannot be written>"

    def _number(self, value: float) -> Plain:
        # A secret of digits alone may come as a number, and JSON has no word for NaN.
        text = str(value)
        if self._pattern is not None and self._pattern.fullmatch(text):
            return MASK
        return value if math.isfinite(value) else text


def _written(value: Any) -> str:
    if isinstance(value, str | BaseException):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    return repr(value)


def _forms(secret: str) -> Iterator[str]:
    """Yield the forms in which a secret turns up: as it is, quoted by Python or JSON, in an address, and in base64.

    In base64 (HTTP's basic authentication) what stands before the secret decides how it reads; its middle then has
    one of three forms.
    """
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield quote(secret, safe="")
    yield quote_plus(secret)
    for before in range(3):
        # Of the characters at the ends, a part belongs to what is beside the secret.
        encoded = base64.b64encode(b"\0" * before + secret.encode("utf-8", "surrogatepass")).decode()
        middle = encoded[(8 * before + 5) // 6 : (8 * (before + len(secret.encode("utf-8", "surrogatepass")))) // 6]
        if len(middle) >= _SHORTEST_ENCODED:
            yield middle
            yield middle.translate(_URL_SAFE)
