"""Pairwise losses: a positive item should score above a negative one.

BPR is "BPR: Bayesian Personalized Ranking from Implicit Feedback" (UAI 2009, arXiv 1205.2618).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["bpr", "batch_l2"]


def bpr(positives: Tensor, negatives: Tensor) -> Tensor:
    """Mean of -log sigmoid(s+ - s-) over all pairs of a positive and one of its negatives.

    Args:
        positives: [B] float scores.
        negatives: [B, K] float scores, K negatives of each positive.

    Returns:
        Scalar float32 (float64 for float64 input).
    """
    if negatives.shape[:1] != positives.shape or negatives.dim() != 2:
        raise ValueError(
            f"positives are {tuple(positives.shape)} and negatives {tuple(negatives.shape)}; "
            "expected [B] and [B, K]"
        )
    differences = positives[:, None] - negatives  # [B, K]
    if differences.element_size() < 4:
        differences = differences.float()
    return F.softplus(-differences).mean()


def batch_l2(*rows: Tensor) -> Tensor:
    """Half the squared norm of the embedding rows of a triple, averaged over the batch.

    This is the regulariser of BPR and LightGCN: of the rows a batch touches, before any
    propagation, and neither of the whole table (weight decay) nor of propagated rows. Several
    negatives of one positive count with their mean, so that the weight of the regulariser does
    not depend on how many there are.

    Args:
        rows: [B, D] or [B, K, D] float each, e.g. users, positives and negatives.

    Returns:
        Scalar: the sum over arguments of the mean over their rows of |row|^2 / 2.
    """
    total = rows[0].new_zeros(())
    for part in rows:
        total = total + part.square().sum(-1).mean()
    return 0.5 * total
