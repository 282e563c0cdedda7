"""The loss that is also the score.

Shape suffixes: B chunks, T tokens, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own custom
from torch import Tensor

from streamlearn.learner.batch import IGNORED


def chunk_nll(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the summed negative log-likelihood per chunk, in nats, shape (B,).

    Args:
        logits_BTV: any float dtype; the reduction is done in float32.
        labels_BT: the token each position must predict; `IGNORED` marks what carries no loss.
    """
    nll = F.cross_entropy(logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), ignore_index=IGNORED, reduction="none")
    return nll.view(labels_BT.shape).sum(dim=1, dtype=torch.float32)
