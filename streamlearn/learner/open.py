"""From a configuration to a learner that is ready for its first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from streamlearn.config import Config
from streamlearn.core.events import Chunk
from streamlearn.learner.chunking import TokenChunker
from streamlearn.learner.held_out import held_out_chunks
from streamlearn.learner.model import Loaded, load
from streamlearn.learner.resolve import cache_directory
from streamlearn.learner.self_anchor import self_made_anchor
from streamlearn.learner.step import LoraLearner
from streamlearn.learner.texts import chunks_of_file
from streamlearn.ports import Anchor


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedLearner:
    """A loaded model and what cuts text for it."""

    learner: LoraLearner
    chunker: TokenChunker
    context_tokens: int
    anchor: Anchor
    """Makes the text on which the adapter is held close to the base: of `anchor.file`, or of the base's own. Only a
    lineage that begins need ask."""
    held_out: tuple[Chunk, ...]
    """The text on which forgetting is measured; empty where it is not."""


def open_learner(config: Config, loaded: Loaded | None = None) -> OpenedLearner:
    """Load everything that learning needs; the model only where it is not `loaded`.

    Raises:
        Fatal: model, device or adapter shape are not usable; says how to mend it.
    """
    loaded = loaded or load(config)
    chunker = TokenChunker(loaded.tokenizer, loaded.context_tokens)
    return OpenedLearner(
        learner=LoraLearner(loaded, config.learner, anchor_weight=config.anchor.weight),
        chunker=chunker,
        context_tokens=loaded.context_tokens,
        anchor=partial(_anchor, config, loaded, chunker),
        held_out=held_out_chunks(
            config.gate.held_out, chunker, chunks=config.gate.held_out_chunks if config.gate.enabled else 0
        ),
    )


def _anchor(
    config: Config, loaded: Loaded, chunker: TokenChunker, go_on: Callable[[int, int], bool], /
) -> tuple[Chunk, ...] | None:
    anchor = config.anchor
    if anchor.file is not None:
        return chunks_of_file("anchor.file", anchor.file, chunker)
    if anchor.chunks == 0 or config.mix.anchor == 0.0:
        return ()
    tokens = min(anchor.tokens, loaded.context_tokens)
    return self_made_anchor(loaded, go_on, chunks=anchor.chunks, tokens=tokens, cache=cache_directory(config.model))
