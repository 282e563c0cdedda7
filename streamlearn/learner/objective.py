"""The loss that is also the score.

Shape suffixes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - PyTorch's own custom
from torch import Tensor

from streamlearn.learner.batch import IGNORED


def token_nll(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the negative log-likelihood of each label, in nats, shape (B, T); 0 where none is asked for.

    Args:
        logits_BTV: any float dtype; the reduction is done in float32.
        labels_BT: the token each position must predict; `IGNORED` marks what carries no loss.
    """
    nll = F.cross_entropy(logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), ignore_index=IGNORED, reduction="none")
    return nll.view(labels_BT.shape)
