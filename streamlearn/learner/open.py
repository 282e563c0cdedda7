"""From a configuration to a learner that is ready for its first step."""

from __future__ import annotations

from dataclasses import dataclass

from streamlearn.config import Config
from streamlearn.core.events import Chunk
from streamlearn.learner.anchor import anchor_chunks
from streamlearn.learner.chunking import TokenChunker
from streamlearn.learner.model import load
from streamlearn.learner.step import LoraLearner


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedLearner:
    """A loaded model and what cuts text for it."""

    learner: LoraLearner
    chunker: TokenChunker
    context_tokens: int
    anchor: tuple[Chunk, ...]
    """Chunks of `anchor.file`."""


def open_learner(config: Config) -> OpenedLearner:
    """Load everything that learning needs.

    Raises:
        Fatal: model, device, adapter shape or anchor file are not usable; says how to mend it.
    """
    loaded = load(config)
    chunker = TokenChunker(loaded.tokenizer, loaded.context_tokens)
    return OpenedLearner(
        learner=LoraLearner(loaded, config.learner),
        chunker=chunker,
        context_tokens=loaded.context_tokens,
        anchor=anchor_chunks(config.anchor.file, chunker),
    )
