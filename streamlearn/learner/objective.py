"""The loss that is also the score, and the distance from the base.

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


def token_kl(base_BTV: Tensor, logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Return KL(base‖adapted) of each predicted token, in nats, shape (B, T); 0 where none is asked for.

    The forward direction: where the text was drawn from the base itself, its
    mean is an unbiased estimate of how far the adapted model has gone from it.

    Args:
        base_BTV: the base's logits, without gradient; any float dtype.
        logits_BTV: the adapted model's, of the same shape.
        labels_BT: `IGNORED` marks what carries no loss.
    """
    base, adapted = F.log_softmax(base_BTV.float(), dim=-1), F.log_softmax(logits_BTV.float(), dim=-1)
    kl = F.kl_div(adapted, base, log_target=True, reduction="none").sum(dim=-1)
    return kl.masked_fill(labels_BT == IGNORED, 0.0)
