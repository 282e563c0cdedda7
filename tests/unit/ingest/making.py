"""What the tests of ingest are made of."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from streamlearn.config import Config, Ingest
from streamlearn.core.events import Chunk, Completion, Content, Conversation, Plain, Record

DEADLINE_S = 10.0


def record(value: bytes | None, *, offset: int = 7) -> Record:
    return Record(topic="news", partition=2, offset=offset, key=None, value=value, timestamp=1_700_000_000.5)


def ingest(**knobs: Any) -> Ingest:
    return Ingest.model_validate(knobs)


def configured(**sections: Any) -> Config:
    kafka = {"bootstrap_servers": "127.0.0.1:1", "topics": ["news"]} | sections.pop("kafka", {})
    return Config.model_validate(
        {"stream": {"name": "news"}, "kafka": kafka, "store": {"url": "x"}, "model": {"name": "x"}, **sections}
    )


def until(condition: Callable[[], object]) -> None:
    """Wait for `condition`, which another thread brings about."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.002)


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class WordChunker:
    """One token a word; refuses conversations as a tokenizer without chat template does."""

    def chunk(self, content: Content) -> tuple[Chunk, ...]:
        match content:
            case Plain():
                words = content.text.split()
            case Completion():
                words = content.completion.split()
            case Conversation():
                raise ValueError("no chat template")
        if words == ["nothing"]:
            return ()
        ids = np.arange(len(words) + 1, dtype=np.int32)
        return (Chunk(ids=ids, scored=ids > 0, text_bytes=sum(map(len, words))),)


class HeldChunker(WordChunker):
    """Lets the first `free` texts through, and the others when told."""

    def __init__(self, free: int = 0) -> None:
        self.go = threading.Event()
        self._free = free

    def chunk(self, content: Content) -> tuple[Chunk, ...]:
        self._free -= 1
        assert self._free >= 0 or self.go.wait(DEADLINE_S)
        return super().chunk(content)
