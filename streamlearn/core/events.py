"""The words of the stream: what arrives, what is learnt, and how far we are.

Nothing here knows Kafka, a tokenizer's vocabulary or a tensor library beyond
numpy arrays. Times are event times, seconds since 1970 (UTC).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Progress: TypeAlias = dict[str, dict[int, int]]
"""{topic: {partition: next offset}}; a partition that is absent was never read."""


class Outcome(StrEnum):
    """What became of an event; every offset gets exactly one."""

    ADMITTED = "admitted"
    DUPLICATE = "duplicate"
    FILTERED = "filtered"
    DEAD_LETTER = "dead_letter"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """Up to `context_tokens` consecutive tokens of one event: the unit of scoring and learning.

    `ids[0]` is context only (the start token, or the last token of the chunk
    before), so position t predicts `ids[t + 1]` and `scored[0]` is False.
    """

    ids: NDArray[np.int32]
    """Token ids, shape (T,)."""
    scored: NDArray[np.bool_]
    """Which tokens carry loss, shape (T,); a prompt is read, never learnt."""
    text_bytes: int
    """UTF-8 bytes that the scored tokens stand for, for bits per byte."""

    @property
    def scored_tokens(self) -> int:
        """How many tokens carry loss."""
        return int(self.scored.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One message as the broker keeps it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: float
    """Broker or producer time, seconds since 1970; 0.0 where there is none."""
    headers: tuple[tuple[str, bytes | None], ...] = ()
    topic_id: str = ""
    """Of the topic that it was read from, as the brokers tell it; "" where they tell none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a record is no event, in words for an operator."""

    stage: str
    """`decode`, `fields`, `clean` or `chunk`: where it failed (Kafka Connect's `stage`)."""
    error: str
    """A short stable name such as `NotUtf8`, `NotJson`, `MissingField`, `TooLong`."""
    message: str
    """What is wrong, where, and how to mend it; never the record's whole text."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrival:
    """One record of the stream after ingest, ready to be admitted.

    `outcome` is what ingest alone can know: ADMITTED, FILTERED or DEAD_LETTER.
    Whether an admitted one repeats an earlier text is decided at admission,
    where the memory of past texts is part of the checkpoint.
    """

    id: str
    topic: str
    partition: int
    offset: int
    ts: float
    """Event time, seconds since 1970."""
    source: str
    """Stratum of the stream for scores and replay: `ingest.fields.source`, else the topic."""
    outcome: Outcome
    digest: bytes = b""
    """16 bytes that stand for the cleaned text; equal texts, equal digests."""
    signature: NDArray[np.uint32] | None = None
    """Stands for the text among near duplicates (`core.near_duplicates`); None for a text that is too short."""
    chunks: tuple[Chunk, ...] = ()
    rejection: Rejection | None = None
    record: Record | None = None
    """The original, kept only where it goes to the dead-letter topic."""
    skipped: int = 0
    """Offsets just before this one that retention removed unseen (`kafka.on_lost_data = "skip"`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Text that is learnt as a whole."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A prompt that is read and a completion that is learnt."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Turns of which only the assistant's are learnt."""

    messages: Sequence[Message] = field(default_factory=tuple)


Content: TypeAlias = Plain | Completion | Conversation
