"""Contrastive losses: a view should be closer to its partner than to everything else.

NT-Xent is "A Simple Framework for Contrastive Learning of Visual Representations" (ICML 2020,
arXiv 2002.05709): the two views of B samples are 2B views, each compared with its partner and
with the 2 (B - 1) views of other samples. InfoNCE is "Representation Learning with Contrastive
Predictive Coding" (arXiv 1807.03748): B anchors, each with one positive and explicit negatives.

Scores are dot products, or cosines, divided by `temperature`. They are computed in float32 also
under autocast: logits of bfloat16 vectors of length eight are rounded to a quarter. Memory is
O(B^2) for NT-Xent, O(B S) for S negatives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["info_nce", "nt_xent", "view_scores"]


def view_scores(
    first: Tensor, second: Tensor, *, temperature: float = 1.0, cosine: bool = False
) -> tuple[Tensor, Tensor]:
    """Scores of all 2B views (the first ones, then the second ones) with each other.

    Args:
        first, second: [B, D] float, row b of both is sample b.
        temperature: divides the scores.
        cosine: whether vectors are scaled to length one first.

    Returns:
        Scores [2B, 2B], float32 (float64 for float64 input), -inf where a view meets itself; and
        the column of each view's partner, [2B] int64.

    Raises:
        ValueError: when the shapes differ.
    """
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(
            f"views are {tuple(first.shape)} and {tuple(second.shape)}; expected [B, D] twice"
        )
    with torch.autocast(first.device.type, enabled=False):
        views = _comparable(torch.cat([first, second]), cosine)
        scores = (views / temperature) @ views.T
    partners = torch.arange(len(views), device=views.device).roll(len(first))
    return scores.fill_diagonal_(-torch.inf), partners


def nt_xent(
    first: Tensor, second: Tensor, *, temperature: float = 1.0, cosine: bool = False
) -> Tensor:
    """The mean over 2B views of -log p(its partner among all other views).

    Args:
        first, second, temperature, cosine: as in `view_scores`.

    Returns:
        Scalar float32 (float64 for float64 input); 0 for fewer than two samples: no negatives.
    """
    if len(first) < 2:
        return 0.0 * (first.sum() + second.sum())
    scores, partners = view_scores(first, second, temperature=temperature, cosine=cosine)
    return F.cross_entropy(scores, partners)


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 1.0,
    cosine: bool = False,
) -> Tensor:
    """The one-sided form: the mean of -log p(positive among it and the anchor's negatives).

    Args:
        anchors: [B, D] float.
        positives: [B, D] float.
        negatives: [S, D] float, shared by all anchors, or [B, S, D], each anchor's own.
        temperature, cosine: as in `view_scores`.

    Returns:
        Scalar float32 (float64 for float64 input).

    Raises:
        ValueError: when the shapes do not fit each other.
    """
    shared = negatives.dim() == 2
    leading = anchors.shape[:0] if shared else anchors.shape[:1]
    own = (*leading, negatives.shape[-2], anchors.shape[-1])
    if anchors.dim() != 2 or positives.shape != anchors.shape or negatives.shape != own:
        raise ValueError(
            f"anchors are {tuple(anchors.shape)}, positives {tuple(positives.shape)} and "
            f"negatives {tuple(negatives.shape)}; expected [B, D], [B, D] and [S, D] or [B, S, D]"
        )
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, positives, negatives = (
            _comparable(vectors, cosine) for vectors in (anchors, positives, negatives)
        )
        near = (anchors * positives).sum(1, keepdim=True)  # [B, 1]
        far = anchors @ negatives.T if shared else (negatives @ anchors[:, :, None]).squeeze(2)
        scores = torch.cat([near, far], 1) / temperature
    return F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.int64))


def _comparable(vectors: Tensor, cosine: bool) -> Tensor:
    """Vectors, at least float32, whose dot products are the scores."""
    wide = vectors.float() if vectors.element_size() < 4 else vectors
    return F.normalize(wide, dim=-1) if cosine else wide
