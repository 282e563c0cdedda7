"""Text of the base's own, so that the adapter keeps close to it without any corpus.

When a lineage begins, chunks are sampled from the base model itself:
temperature 1, every token possible, from the start token. Being drawn from
the base, they make the mean of KL(base‖adapted) over them an estimate of the
very divergence to be bounded. It needs no data, no licence and no choice of
corpus. The chunks become part of the lineage's state, so wherever it goes on,
it rehearses the same; a cache by the base's digest spares other lineages on
the same base the wait.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from transformers import StoppingCriteria, StoppingCriteriaList

from streamlearn.core.arrays import pack, unpack
from streamlearn.core.events import Chunk
from streamlearn.learner.model import Loaded

_log = structlog.get_logger(__name__)

_ROWS = 64
"""Chunks sampled side by side: a token then costs a fraction of one alone, and their caches still fit in memory."""
_SAY_EVERY_S = 10.0
_SEED = 20_260
"""Not the stream's: lineages on one base share their anchor, and with it the cache."""


def self_made_anchor(
    loaded: Loaded, go_on: Callable[[int, int], bool], *, chunks: int, tokens: int, cache: Path
) -> tuple[Chunk, ...] | None:
    """Return `chunks` chunks of `tokens` tokens that the base itself wrote, from the cache where it has them.

    Args:
        go_on: told (tokens written, tokens in all) after each token of a row; where it says no, None is returned.
        cache: a directory; made when missing, and done without where it cannot be written.
    """
    wanted = (
        f"{loaded.base.weights_digest}/{loaded.base.tokenizer_digest}/{loaded.base.dtype}/{_SEED}/{chunks}x{tokens}"
    )
    file = cache / f"anchor-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}.safetensors"
    if (found := _read(file)) is not None:
        return found
    began = time.monotonic()
    _log.info("sampling the anchor from the base model; once per base", chunks=chunks, tokens_each=tokens)
    made = _sampled(loaded, chunks, tokens, _said(began, go_on))
    if made is None:
        return None
    _log.info("the anchor is ready", seconds=round(time.monotonic() - began, 1))
    _write(file, made)
    return made


@torch.no_grad()
def _sampled(loaded: Loaded, chunks: int, tokens: int, go_on: Callable[[int, int], bool]) -> tuple[Chunk, ...] | None:
    tokenizer, device = loaded.tokenizer, loaded.device
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    made: list[Chunk] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), loaded.model.disable_adapter():
        torch.manual_seed(_SEED)
        while len(made) < chunks:
            rows = min(_ROWS, chunks - len(made))
            watched = _Watched(go_on, len(made) * tokens, rows, chunks * tokens)
            ids = torch.full((rows, 1), start, device=device)
            out = loaded.model.generate(  # type: ignore[no-untyped-call]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=tokens - 1,
                max_new_tokens=tokens - 1,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                use_cache=True,
                # A text that ends is followed by whatever the base thinks comes next; chunks keep their length.
                eos_token_id=None,
                pad_token_id=tokenizer.eos_token_id,
                stopping_criteria=StoppingCriteriaList([watched]),
            )
            if watched.stopped:
                return None
            made.extend(_chunk(row, tokenizer) for row in out.cpu().numpy())
    return tuple(made)


class _Watched(StoppingCriteria):
    """Asked after each token: tells how far we are, and stops where nobody waits any more."""

    def __init__(self, go_on: Callable[[int, int], bool], done: int, rows: int, total: int) -> None:
        self._go_on, self._done, self._rows, self._total = go_on, done, rows, total
        self.stopped = False

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        self.stopped = not self._go_on(self._done + self._rows * int(input_ids.shape[1]), self._total)
        return torch.full((input_ids.shape[0],), self.stopped, dtype=torch.bool, device=input_ids.device)


def _chunk(ids: NDArray[np.int64], tokenizer: Any) -> Chunk:
    scored = np.ones(len(ids), dtype=np.bool_)
    scored[0] = False
    text: str = tokenizer.decode(ids[1:])
    return Chunk(ids=ids.astype(np.int32), scored=scored, text_bytes=len(text.encode()))


def _said(began: float, go_on: Callable[[int, int], bool]) -> Callable[[int, int], bool]:
    """Return `go_on` that also writes to the log now and then."""
    last = began

    def say(done: int, total: int) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SAY_EVERY_S:
            last = now
            _log.info(
                "sampling the anchor",
                percent=round(100.0 * done / total),
                left_s=round((now - began) * (total - done) / max(done, 1)),
            )
        return go_on(done, total)

    return say


def _read(file: Path) -> tuple[Chunk, ...] | None:
    try:
        return tuple(unpack("anchor", load_file(file)))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _write(file: Path, chunks: tuple[Chunk, ...]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as out:
            out.write(save(dict(pack("anchor", chunks))))
        os.replace(out.name, file)  # noqa: PTH105 - atomic, also over one that another worker wrote meanwhile
    except OSError as error:
        _log.info("the anchor could not be cached; the next lineage on this base samples it again", why=str(error))
