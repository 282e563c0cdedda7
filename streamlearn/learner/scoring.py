"""From chunks to losses: how a model is asked, and in which form.

Decides whether chunks are packed or padded. That a model keeps packed chunks
apart is proved on the model itself, not believed: one that does not would
score each chunk with the others' help, and nobody would notice.

Shape suffixes: B rows, T tokens, C chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamlearn.core.events import Chunk
from streamlearn.learner.batch import MicroBatch, in_one_row, packed, padded
from streamlearn.learner.model import Loaded
from streamlearn.learner.objective import token_kl, token_nll

_log = structlog.get_logger(__name__)

ROWS = {"cpu": 2, "cuda": 8}
"""Full chunks in one forward: what bounds its memory."""
_WASTE = 0.15
"""Padding in one forward, as a share; a second forward costs more than that."""
_PROOF_TOKENS = 24
_PROOF_TOLERANCE = 0.01
"""Relative; rounding in bf16 stays well below. A chunk that sees its own copy before it loses far more."""


class Scorer:
    """Asks one model for the losses of chunks."""

    def __init__(self, loaded: Loaded) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._dtype = loaded.dtype
        self._tokens = ROWS[loaded.device.type] * loaded.context_tokens
        # On a GPU a forward costs little by itself, and a mask over a long row much.
        self.packs = loaded.device.type == "cpu" and self._keeps_apart(loaded)

    def batches(self, chunks: Sequence[Chunk]) -> Iterator[MicroBatch]:
        """Yield all of `chunks`, as many in a forward as memory allows."""
        if self.packs:
            return packed(chunks, device=self._device, tokens=self._tokens)
        return padded(chunks, device=self._device, rows=ROWS[self._device.type], waste=_WASTE)

    def nll(self, micro: MicroBatch) -> Tensor:
        """Return the summed NLL of each chunk in nats, shape (C,), float32, with gradients where they are on."""
        return micro.by_chunk(token_nll(self._logits(micro), micro.labels_BT))

    def kl(self, micro: MicroBatch) -> Tensor:
        """Return the summed KL(base‖adapted) of each chunk in nats, shape (C,), float32, with gradients as `nll`."""
        with torch.no_grad(), self._model.disable_adapter():
            base = self._logits(micro)
        return micro.by_chunk(token_kl(base, self._logits(micro), micro.labels_BT))

    @torch.no_grad()
    def scores(self, chunks: Sequence[Chunk]) -> NDArray[np.float64]:
        """Return the summed NLL of each chunk in nats, shape (C,), without learning."""
        nll = np.zeros(len(chunks))
        for micro in self.batches(chunks):
            nll[list(micro.places)] = self.nll(micro).double().cpu().numpy()
        return nll

    def _logits(self, micro: MicroBatch) -> Tensor:
        with self.autocast():
            logits: Tensor = self._model(
                input_ids=micro.ids_BT, position_ids=micro.positions_BT, use_cache=False
            ).logits
        return logits

    def autocast(self) -> AbstractContextManager[None]:
        """Compute the float32 adapter's products in the base's precision."""
        if self._dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    @torch.no_grad()
    def _keeps_apart(self, loaded: Loaded) -> bool:
        """Whether the model scores a chunk behind its own copy as it scores it alone."""
        # Spread over the vocabulary, the same at every start.
        ids = np.linspace(0, loaded.model.config.vocab_size - 1, _PROOF_TOKENS).astype(np.int32)
        scored = np.ones(_PROOF_TOKENS, dtype=np.bool_)
        scored[0] = False
        chunk = Chunk(ids=ids, scored=scored, text_bytes=0)
        alone = self.nll(in_one_row([chunk], self._device))
        together = self.nll(in_one_row([chunk, chunk], self._device))
        apart = bool(((together - alone).abs() <= _PROOF_TOLERANCE * alone).all())
        if not apart:
            _log.info("the model does not keep packed chunks apart; they are padded instead, which is slower")
        return apart
