"""Pairwise losses: a positive item should score above a negative one.

BPR is "BPR: Bayesian Personalized Ranking from Implicit Feedback" (UAI 2009, arXiv 1205.2618).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["batch_l2", "bpr", "shared_bpr"]


def bpr(positives: Tensor, negatives: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of -log sigmoid(s+ - s-) over all pairs of a positive and one of its negatives.

    Args:
        positives: [B] float scores.
        negatives: [B, K] float scores, K negatives of each positive.
        mask: [B, K] bool, the pairs that count; by default all. Without any the loss is 0.

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
    if mask is None:
        return F.softplus(-differences).mean()
    losses = F.softplus(-differences).masked_fill(~mask, 0.0)
    return losses.sum() / mask.sum().clamp(min=1)


def shared_bpr(users: Tensor, positives: Tensor, negatives: Tensor, mask: Tensor) -> Tensor:
    """`bpr` of dot products with K negatives that all positives share: three matrix products.

    A mean loss knows its gradient as soon as it knows its scores, so one pass over the pairs finds
    both, and no score is kept. The value and gradients are those of
    `bpr((users * positives).sum(-1), users @ negatives.T, mask)`; a pair whose loss exceeds 87 in
    float32 reads as 87 (its gradient is right). Gradients of gradients are not available.

    Args:
        users: [B, W] float.
        positives: [B, W] float.
        negatives: [K, W] float.
        mask: [B, K] bool, the pairs that count.

    Returns:
        Scalar float32 (float64 for float64 input). Cost: 6 B K W operations with gradients, and
        three buffers of B K numbers.
    """
    if mask.shape != (len(users), len(negatives)) or positives.shape != users.shape:
        raise ValueError(
            f"users are {tuple(users.shape)}, positives {tuple(positives.shape)}, negatives "
            f"{tuple(negatives.shape)} and the mask {tuple(mask.shape)}; expected [B, W], [B, W], "
            "[K, W] and [B, K]"
        )
    loss: Tensor = _SharedBPR.apply(users, positives, negatives, mask)  # type: ignore[no-untyped-call]
    return loss


class _SharedBPR(torch.autograd.Function):
    """Mean of -log sigmoid over the pairs of a mask, whose forward pass leaves the gradients."""

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, positives: Tensor, negatives: Tensor, mask: Tensor
    ) -> Tensor:
        with torch.autocast(users.device.type, enabled=False):
            u, p, n = (rows.detach() for rows in (users, positives, negatives))
            if u.element_size() < 4:
                u, p, n = u.float(), p.float(), n.float()
            margins = (u @ n.T).sub_((u * p).sum(1, keepdim=True))  # s- - s+, [B, K]
            counted = mask.view(torch.uint8).to(margins.dtype)  # faster than from bool
            share = counted.sum().clamp_(min=1).reciprocal_()
            slopes = torch.sigmoid(margins).mul_(counted).mul_(share)
            by_positive = slopes.sum(1, keepdim=True)
            gradients = (
                (slopes @ n).addcmul_(by_positive, p, value=-1),
                u * -by_positive,
                slopes.T @ u,
            )
            won = torch.sigmoid_(margins.neg_()).clamp_min_(torch.finfo(margins.dtype).tiny)
            loss = torch.dot(won.log_().view(-1), counted.view(-1)).mul_(-share)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = users.dtype, positives.dtype, negatives.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        users, positives, negatives = (
            (saved * gradient).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return users, positives, negatives, None


def batch_l2(*rows: Tensor) -> Tensor:
    """Half the squared norm of the embedding rows of a triple, averaged over the batch.

    This is the regulariser of BPR and LightGCN: of the rows a batch touches, before any
    propagation, and neither of the whole table (weight decay) nor of propagated rows. Several
    negatives of one positive count with their mean, so that the weight of the regulariser does
    not depend on how many there are.

    Args:
        rows: [B, D], [B, K, D] or, shared by the batch, [K, D] float each, e.g. users, positives
            and negatives.

    Returns:
        Scalar: the sum over arguments of the mean over their rows of |row|^2 / 2.
    """
    total = rows[0].new_zeros(())
    for part in rows:
        total = total + part.square().sum(-1).mean()
    return 0.5 * total
