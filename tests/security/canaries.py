"""Secrets that are told from all else, and where they turn up."""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import unquote_to_bytes

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){8,}")


class Canaries:
    """Secrets by the place they are planted in; each has a core that nothing quotes or cuts, and that is looked for."""

    def __init__(self) -> None:
        self._cores: dict[str, str] = {}
        """Core -> place."""

    def plant(self, place: str, rest: str = '/+:@ "%') -> str:
        """Return a new secret for `place`, with `rest` after its core: what is quoted in many ways."""
        core = f"CaN{secrets.token_hex(9)}"
        self._cores[core] = place
        return core + rest

    def found_in(self, texts: Mapping[str, bytes]) -> list[str]:
        """Return `place of the secret in place of the text` for each one that is there in any form."""
        return sorted(
            f"{place} in {name}: …{_around(form, core.encode())}…"
            for name, text in texts.items()
            for form in _forms(text)
            for core, place in self._cores.items()
            if core.encode() in form
        )


def _around(text: bytes, core: bytes) -> str:
    at = text.index(core)
    return text[max(at - 60, 0) : at].decode(errors="replace") + "[the secret]"


def _forms(text: bytes) -> Iterator[bytes]:
    """Yield the text and what its parts are the gzip, URL, base64 or hexadecimal form of."""
    if text.startswith(b"\x1f\x8b"):
        with suppress(OSError, EOFError, zlib.error):
            text = gzip.decompress(text)
    yield text
    yield unquote_to_bytes(text)
    for match in _BASE64.finditer(text):
        part = match[0].replace(b"-", b"+").replace(b"_", b"/")
        # It may stand behind a word that looks like base64 too, such as a key's name.
        for begin in range(4):
            cut = part[begin:]
            yield base64.b64decode(cut[: len(cut) // 4 * 4])
    for match in _HEX.finditer(text):
        try:
            yield binascii.unhexlify(match[0])
        except binascii.Error:
            continue
