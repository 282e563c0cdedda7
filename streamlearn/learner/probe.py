"""What `streamlearn check` wants to know of a model: does it load, does the adapter fit it, is there room."""

from __future__ import annotations

from dataclasses import dataclass

from streamlearn.config import Config
from streamlearn.core.manifest import BaseModelCard, LoraShape
from streamlearn.learner.chunking import TokenChunker
from streamlearn.learner.memory import available_bytes, needed_bytes
from streamlearn.learner.model import load
from streamlearn.learner.texts import chunks_of_file


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFindings:
    """A model that loads."""

    base: BaseModelCard
    lora: LoraShape
    device: str
    dtype: str
    """`bf16` or `fp32`."""
    context_tokens: int
    chat_template: bool
    """Conversations can be learnt."""
    needed_bytes: int
    """An estimate of what a running worker takes on the device."""
    available_bytes: int


def look(config: Config) -> ModelFindings:
    """Load everything of the model once and say what it is.

    Raises:
        Fatal: it cannot be used; says how to mend it.
    """
    loaded = load(config)
    chunker = TokenChunker(loaded.tokenizer, loaded.context_tokens)
    if config.anchor.file is not None:
        chunks_of_file("anchor.file", config.anchor.file, chunker)
    if config.gate.held_out is not None:
        chunks_of_file("gate.held_out", config.gate.held_out, chunker)
    return ModelFindings(
        base=loaded.base,
        lora=loaded.lora,
        device=str(loaded.device),
        dtype=loaded.base.dtype or "fp32",
        context_tokens=loaded.context_tokens,
        chat_template=bool(loaded.tokenizer.chat_template),
        needed_bytes=needed_bytes(loaded),
        available_bytes=available_bytes(loaded.device),
    )
