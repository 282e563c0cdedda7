"""A learner without a model: one number, moved by every chunk, and a tokenizer that counts words."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamlearn.core.arrays import from_bytes, to_bytes
from streamlearn.core.batches import Draw, StepPlan, StepResult
from streamlearn.core.events import Chunk, Completion, Content, Conversation, Plain
from streamlearn.core.manifest import BaseModelCard, LoraShape

_DIGEST = "0" * 64
CONTEXT_TOKENS = 256


class WordChunker:
    """One token a word, 256 to a chunk."""

    def chunk(self, content: Content) -> tuple[Chunk, ...]:
        """Cut `content` into chunks."""
        match content:
            case Plain(text=text):
                words = text.split()
            case Completion(completion=completion):
                words = completion.split()
            case Conversation(messages=messages):
                words = [word for message in messages for word in message.content.split()]
        cuts = range(0, len(words), CONTEXT_TOKENS - 1)
        return tuple(_chunk(words[place : place + CONTEXT_TOKENS - 1]) for place in cuts)


def _chunk(words: Sequence[str]) -> Chunk:
    ids = np.array([0, *(zlib.crc32(word.encode()) % 50_000 for word in words)], dtype=np.int32)
    scored = np.ones(len(ids), dtype=np.bool_)
    scored[0] = False
    return Chunk(ids=ids, scored=scored, text_bytes=sum(map(len, words)))


class NumberSnapshot:
    """A copy of the number."""

    def __init__(self, weight: float, padding: int) -> None:
        self._weight = weight
        self._padding = padding

    def files(self) -> dict[str, bytes]:
        """Serialise; as large as the adapter and optimiser of a small model, so that uploads are worth the name."""
        adapter = np.full(self._padding, self._weight, dtype=np.float32)
        return {
            "adapter.safetensors": to_bytes({"weight": adapter}),
            "optimizer.safetensors": to_bytes({"first": adapter, "second": adapter}),
        }


class NumberLearner:
    """`ports.Learner` whose scores depend on the order of what it learns, and whose steps take microseconds."""

    def __init__(self, adapter_megabytes: int = 4) -> None:
        self._weight = 0.0
        self._padding = adapter_megabytes * 2**20 // 4
        self._guests: dict[str, float] = {}

    @property
    def base(self) -> BaseModelCard:
        """No model."""
        return BaseModelCard(
            name="number",
            served_name="number",
            config_digest=_DIGEST,
            weights_digest=_DIGEST,
            tokenizer_digest=_DIGEST,
            parameters=1,
        )

    @property
    def lora(self) -> LoraShape:
        """No adapter."""
        return LoraShape(rank=8, alpha=16.0, target_modules=("n",), parameters=1)

    def step(self, batch: Sequence[Draw], plan: StepPlan) -> StepResult:
        """Score every chunk by the number, then move it."""
        nll = tuple(draw.chunk.scored_tokens * (1.0 + abs(self._weight)) for draw in batch)
        for draw in batch:
            self._weight = 0.9 * self._weight + plan.learning_rate * float(draw.chunk.ids[-1] % 101)
        return StepResult(nll=nll, passed_over=(), gradient_norm=1.0, scaled=1.0, applied=True, seconds=1e-6)

    def base_nll(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return two nats a token, shape (B,)."""
        return np.array([2.0 * chunk.scored_tokens for chunk in chunks])

    def seat(self, name: str, adapter: bytes) -> None:
        """Remember a version's number."""
        self._guests[name] = float(from_bytes(adapter)["weight"][0])

    def leave(self, name: str) -> None:
        """Forget it."""
        self._guests.pop(name, None)

    def guest_nll(self, name: str, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return the losses by a version's number, shape (B,)."""
        return np.array([chunk.scored_tokens * (1.0 + abs(self._guests[name])) for chunk in chunks])

    def begin_anew(self) -> None:
        """Forget everything."""
        self._weight = 0.0

    def snapshot(self) -> NumberSnapshot:
        """Copy the number."""
        return NumberSnapshot(self._weight, self._padding)

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Continue from a snapshot."""
        self._weight = float(from_bytes(files["adapter.safetensors"])["weight"][0])

    def adapter_config(self) -> bytes:
        """Return something that is JSON."""
        return b"{}"
