"""Text to chunks, by the model's own tokenizer.

Decides which tokens carry loss and where an event is cut. Every token of a
text is scored exactly once. Text that looks like a control token is encoded
as text: an event can teach the model words, never open or close a turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.events import Chunk, Completion, Content, Conversation, Plain

_UTF8_STEPS = np.array([0x80, 0x800, 0x10000], dtype=np.uint32)
"""Code points from which UTF-8 takes another byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Tokens in a row with one meaning; all of shape (N,)."""

    ids: NDArray[np.int32]
    bytes: NDArray[np.int32]
    """UTF-8 bytes that each token stands for; 0 where no loss is carried."""
    scored: NDArray[np.bool_]


class TokenChunker:
    """Cuts content into chunks of at most `context_tokens` ids.

    A chunk begins with one token of context (the start token, or the last token of the chunk before), so even the
    first token of an event is predicted from something.
    """

    def __init__(self, tokenizer: Any, context_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._context = context_tokens
        plain = tokenizer.backend_tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        plain.no_truncation()
        plain.no_padding()
        plain.encode_special_tokens = True
        self._plain = plain
        control = tokenizer.backend_tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        control.no_truncation()
        control.no_padding()
        self._control = control
        self._end = int(tokenizer.eos_token_id)
        self._start = int(tokenizer.bos_token_id if tokenizer.bos_token_id is not None else self._end)

    def chunk(self, content: Content) -> tuple[Chunk, ...]:
        """Cut `content` into chunks; empty when nothing would be scored.

        Raises:
            ValueError: a conversation, but the tokenizer has no chat template, or one that refuses or rewrites it.
        """
        match content:
            case Plain(text=text):
                return self._cut([self._text(text, scored=True)])
            case Completion(prompt=prompt, completion=completion):
                # At most half a context of prompt: the rest is for what is learnt.
                read = self._last(self._text(prompt, scored=False), self._context // 2)
                return self._cut([read, self._text(completion, scored=True), self._ending()])
            case Conversation():
                return self._cut(self._turns(content))

    def _text(self, text: str, *, scored: bool) -> _Piece:
        encoding = self._plain.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        starts = np.array([start for start, _ in encoding.offsets] + [len(text)], dtype=np.int64)
        if len(ids):
            # What a normaliser dropped at the front still belongs to the first token.
            starts[0] = 0
        sizes = np.diff(_byte_positions(text)[starts]).astype(np.int32)
        return _Piece(ids=ids, bytes=sizes if scored else np.zeros_like(sizes), scored=np.full(len(ids), scored))

    def _markup(self, text: str) -> _Piece:
        ids = np.array(self._control.encode(text, add_special_tokens=False).ids, dtype=np.int32)
        return _Piece(ids=ids, bytes=np.zeros_like(ids), scored=np.zeros(len(ids), dtype=np.bool_))

    def _ending(self) -> _Piece:
        return _Piece(
            ids=np.array([self._end], dtype=np.int32),
            bytes=np.zeros(1, dtype=np.int32),
            scored=np.ones(1, dtype=np.bool_),
        )

    def _last(self, piece: _Piece, count: int) -> _Piece:
        return _Piece(ids=piece.ids[-count:], bytes=piece.bytes[-count:], scored=piece.scored[-count:])

    def _turns(self, conversation: Conversation) -> list[_Piece]:
        """Render all turns and take them apart again: markup, content, markup, content, …, markup."""
        if not self._tokenizer.chat_template:
            raise ValueError("the event is a conversation, but the model's tokenizer has no chat template")
        turns = [{"role": turn.role, "content": turn.content.strip()} for turn in conversation.messages]
        markups = self._markups(turns)
        pieces = [self._markup(markups[0])]
        for turn, after in zip(turns, markups[1:], strict=True):
            learnt = turn["role"] == "assistant"
            pieces.append(self._text(turn["content"], scored=learnt))
            pieces.append(self._closing(after, scored=learnt))
        return pieces

    def _markups(self, turns: list[dict[str, str]]) -> list[str]:
        """Return what the template puts before, between and after the contents.

        Found around stand-ins, as a content may itself read like markup; then proved on the contents themselves.
        """
        stand_ins = [f"content-4e1c0f7a-{place:06d}" for place in range(len(turns))]
        rest = self._render([{**turn, "content": name} for turn, name in zip(turns, stand_ins, strict=True)])
        markups = []
        for turn, name in zip(turns, stand_ins, strict=True):
            markup, found, rest = rest.partition(name)
            if not found:
                raise ValueError(f"the model's chat template does not render the content of a {turn['role']!r} turn")
            markups.append(markup)
        markups.append(rest)
        contents = [turn["content"] for turn in turns]
        whole = "".join(part for pair in zip(markups, [*contents, ""], strict=True) for part in pair)
        if self._render(turns) != whole:
            raise ValueError("the model's chat template rewrites what the turns say, so losses cannot be told apart")
        return markups

    def _render(self, turns: list[dict[str, str]]) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False))
        except Exception as error:  # noqa: BLE001 - a template is its author's program, and refuses as it likes
            raise ValueError(f"the model's chat template refuses the conversation: {error}") from None

    def _closing(self, text: str, *, scored: bool) -> _Piece:
        """Markup after a content; an assistant learns to end its turn, not what follows."""
        piece = self._markup(text)
        ends = np.flatnonzero(piece.ids == self._end)
        if scored and ends.size:
            piece.scored[: ends[0] + 1] = True
        return piece

    def _cut(self, pieces: list[_Piece]) -> tuple[Chunk, ...]:
        ids = np.concatenate([np.array([self._start], dtype=np.int32)] + [piece.ids for piece in pieces])
        scored = np.concatenate([np.zeros(1, dtype=np.bool_)] + [piece.scored for piece in pieces])
        sizes = np.concatenate([np.zeros(1, dtype=np.int32)] + [piece.bytes for piece in pieces])
        chunks = []
        for first in range(0, max(len(ids) - 1, 0), self._context - 1):
            part = slice(first, first + self._context)
            carries = scored[part].copy()
            carries[0] = False
            if carries.any():
                own = int(sizes[first + 1 : first + self._context].sum())
                chunks.append(Chunk(ids=ids[part].copy(), scored=carries, text_bytes=own))
        return tuple(chunks)


def _byte_positions(text: str) -> NDArray[np.int64]:
    """Return the UTF-8 byte position of every character and of the end, shape (len(text) + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + np.searchsorted(_UTF8_STEPS, points, side="right")
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])
