r"""What of a text is kept, and whether there is enough of it.

Unicode NFC; line ends become `\n`; control characters other than `\n` and `\t`
go. The digest stands for the cleaned content, so that texts which differ only
in what cleaning removes are the same text.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from dataclasses import dataclass

from streamlearn.core.events import Completion, Content, Conversation, Message, Plain
from streamlearn.ingest.rejecting import Rejected

STAGE = "clean"
DIGEST_BYTES = 16

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MAX_MARKS = 100
"""Combining marks in a row; any script needs a few, Unicode's stream-safe format (UAX 15) allows 30. Putting n of
them in order takes n² steps, so that one hostile record could hold up the stream for an hour."""
_MARKED_PLANES = 0x20000
"""All combining marks, and all characters that come apart into nothing but such, are below this code point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """A content after cleaning."""

    content: Content
    digest: bytes
    """16 bytes; equal cleaned contents, equal digests."""
    enough: bool
    """Whether what would be learnt has at least `min_chars` characters, blanks around it not counted."""

    @property
    def learnt(self) -> str:
        """The texts that carry loss, as one."""
        return "\n".join(_learnt(self.content))


class Cleaner:
    """Cleans within the bounds of `[ingest]`, in characters."""

    def __init__(self, *, min_chars: int, max_chars: int) -> None:
        self._min_chars = min_chars
        self._max_chars = max_chars

    def clean(self, content: Content) -> Cleaned:
        """Return the cleaned content.

        Raises:
            Rejected: nothing is left, it is too long, or no Unicode text.
        """
        cleaned = self._cleaned(content)
        texts = _texts(cleaned)
        if (chars := sum(map(len, texts))) > self._max_chars:
            raise Rejected(
                STAGE,
                "TooLong",
                f"the text has {chars:,} characters, above ingest.max_chars = {self._max_chars:,}: split the event, "
                "or raise the limit",
            )
        learnt = sum(len(text.strip()) for text in _learnt(cleaned))
        if learnt == 0 and (isinstance(cleaned, Completion) or not any(text.strip() for text in texts)):
            what = "the completion" if isinstance(cleaned, Completion) else "the text"
            raise Rejected(STAGE, "Empty", f"{what} is empty or blank, so there is nothing to learn: do not send it")
        return Cleaned(content=cleaned, digest=_digest(cleaned, texts), enough=learnt >= self._min_chars)

    def _cleaned(self, content: Content) -> Content:
        match content:
            case Plain():
                return Plain(text=clean_text(content.text))
            case Completion():
                return Completion(prompt=clean_text(content.prompt), completion=clean_text(content.completion))
            case Conversation():
                return Conversation(
                    messages=tuple(Message(role=m.role, content=clean_text(m.content)) for m in content.messages)
                )


def clean_text(text: str) -> str:
    r"""Return `text` in NFC with `\n` line ends and without control characters.

    >>> clean_text("cafe\u0301\r\n\x00done\t.")
    'café\ndone\t.'

    Raises:
        Rejected: more than 100 combining marks in a row.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _CONTROL.search(text):
        text = _CONTROL.sub("", text)
    if text.isascii():
        return text
    if (crowd := _crowded_marks().search(text)) is not None:
        raise Rejected(
            STAGE,
            "TooManyMarks",
            f"from character {crowd.start():,} on there are {_MAX_MARKS} combining marks in a row, which is no text: "
            "do not send it",
        )
    return unicodedata.normalize("NFC", text)


def _texts(content: Content) -> tuple[str, ...]:
    """Return every text of `content`, in order."""
    match content:
        case Plain():
            return (content.text,)
        case Completion():
            return (content.prompt, content.completion)
        case Conversation():
            return tuple(message.content for message in content.messages)


def _learnt(content: Content) -> tuple[str, ...]:
    """Return the texts that carry loss."""
    match content:
        case Plain():
            return (content.text,)
        case Completion():
            return (content.completion,)
        case Conversation():
            return tuple(message.content for message in content.messages if message.role == "assistant")


def _digest(content: Content, texts: tuple[str, ...]) -> bytes:
    roles = ",".join(m.role for m in content.messages) if isinstance(content, Conversation) else ""
    # NUL was cleaned away, so that it separates without doubt.
    joined = "\0".join((type(content).__name__, roles, *texts))
    try:
        return hashlib.blake2b(joined.encode(), digest_size=DIGEST_BYTES).digest()
    except UnicodeEncodeError as error:
        raise Rejected(
            STAGE,
            "LoneSurrogate",
            f"the text holds half of a surrogate pair (U+{ord(error.object[error.start]):04X}), which is no character: "
            "let the producer cut texts between characters",
        ) from None


@functools.cache
def _crowded_marks() -> re.Pattern[str]:
    # By what a character comes apart into: U+0F73 counts as no mark itself and is two.
    marks = [
        code
        for code in range(0x300, _MARKED_PLANES)
        if unicodedata.combining(unicodedata.normalize("NFD", chr(code))[0])
    ]
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return re.compile(f"[{''.join(f'{chr(a)}-{chr(b)}' for a, b in ranges)}]{{{_MAX_MARKS}}}")
