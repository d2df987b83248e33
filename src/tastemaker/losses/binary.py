"""Binary cross-entropy of a target against k negatives, plain and generalised.

One-negative BCE is SASRec's original loss (arXiv 1808.09781). It is overconfident: it learns
probabilities of "target rather than a sampled item". gBCE ("gSASRec: Reducing Overconfidence in
Sequential Recommendation Trained with Negative Sampling", RecSys 2023, arXiv 2308.07192) raises
the positive probability to a power that undoes this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bce", "gbce", "gbce_exponent"]


def bce(positive: Tensor, negatives: Tensor) -> Tensor:
    """Mean over targets and their 1 + k logits of binary cross-entropy.

    Args:
        positive: [T] float scores of the targets.
        negatives: [T, k] float scores of their negatives.

    Returns:
        Scalar, float32 (float64 for float64 input).
    """
    return _weighted(positive, negatives, 1.0)


def gbce(positive: Tensor, negatives: Tensor, n_items: int, calibration: float) -> Tensor:
    """Generalised BCE: the positive probability is raised to `gbce_exponent(...)`.

    -log(sigmoid(s)^b) = b * softplus(-s) holds in any precision, so the reference code's detour
    through a float64 logit of sigmoid(s)^b, with its clamps, is not needed.

    Args:
        positive: [T] float scores of the targets.
        negatives: [T, k] float scores of items drawn uniformly (positives may be among them).
        n_items: catalog size N.
        calibration: t in [0, 1]; 0 is `bce`, 1 gives calibrated probabilities.
    """
    return _weighted(positive, negatives, gbce_exponent(negatives.shape[1], n_items, calibration))


def gbce_exponent(num_negatives: int, n_items: int, calibration: float) -> float:
    """The exponent b = a (t (1 - 1/a) + 1/a) for the sampling rate a = k / (N - 1)."""
    rate = min(num_negatives / max(n_items - 1, 1), 1.0)
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def _weighted(positive: Tensor, negatives: Tensor, exponent: float) -> Tensor:
    if positive.element_size() < 4:
        positive, negatives = positive.float(), negatives.float()
    losses = exponent * F.softplus(-positive)[:, None]
    return torch.cat([losses, F.softplus(negatives)], 1).mean()
