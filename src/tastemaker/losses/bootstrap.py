"""Bootstrap losses: a prediction is drawn to a target that no gradient reaches, with no negatives.

The cosine form of BYOL (NeurIPS 2020, arXiv 2006.07733) and SimSiam (CVPR 2021, arXiv 2011.10566).
What keeps all vectors from becoming one is the stopped gradient together with a predictor that only
the prediction passes through.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["cosine_bootstrap"]


def cosine_bootstrap(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 - the mean cosine of predictions and targets.

    Args:
        predictions: [B, D] float.
        targets: [B, D] float; no gradient flows into them. A zero row has cosine 0 with anything.

    Returns:
        Scalar in [0, 2].
    """
    return 1 - F.cosine_similarity(predictions, targets.detach(), dim=-1).mean()
