"""Grounding: from the vector of a generated text to scores of the items of a catalog.

Paper: "A Bi-Step Grounding Paradigm for Large Language Models in Recommendation Systems", TORS
2025, arXiv 2308.08434, sec. 3.3: items are ranked by their title's distance to the text, shrunk
for items that other knowledge (popularity, a collaborative model) holds likely.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fused_scores", "text_distances", "unit_range"]


def text_distances(texts: Tensor, titles: Tensor) -> Tensor:
    """Euclidean distances of texts [B, D] to titles [N, D], [B, N] float32.

    Computed from differences, not from dot products, so equal vectors have distance 0 exactly.
    """
    return torch.cdist(texts.float(), titles.float(), compute_mode="donot_use_mm_for_euclid_dist")


def unit_range(values: Tensor) -> Tensor:
    """The last dimension brought to [0, 1] by its least and greatest value; constants become 0."""
    least, greatest = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return (values - least) / (greatest - least).clamp_min(torch.finfo(values.dtype).tiny)


def fused_scores(distances: Tensor, likelihoods: Tensor | None, gamma: float) -> Tensor:
    """Scores of items, higher is better: minus the distance, shrunk for likely items.

    `-unit_range(distances) * (1 + C)^-gamma` with C the likelihoods brought to [0, 1].

    Args:
        distances: [B, N] float of texts to titles.
        likelihoods: [N] or [B, N] float, higher for likelier items; `None` leaves them out.
        gamma: weight of the likelihoods; 0 ranks by distance alone, large ones by likelihood
            alone (items at distance 0 stay first). At most 99, beyond which float32 underflows.

    Returns:
        [B, N] float32 from -1 to 0.
    """
    scores = -unit_range(distances)
    if likelihoods is None or gamma == 0:
        return scores
    return scores * (1 + unit_range(likelihoods.float())) ** -gamma
