"""VAT: adversarial training whose shifts are larger for users that attacks reach more easily.

"Improving the Shortest Plank: Vulnerability-Aware Adversarial Training for Robust Recommender
System" (RecSys 2024, arXiv 2409.17476; code Kaike-Zhang/VAT). Users whom the model fits well are
those who take in what fake users teach it. APR's shifts are therefore multiplied, for the user's,
the positive's and the negative's row alike, by

    g_u = lambda sigmoid((mean of L - L_u) / L_u)

where L_u is the sum of the user's BPR losses in the batch and the mean is over the batch's users:
1 for an average user when lambda is 2, up to 2 for one without loss, no less than .538.

What we changed: every interaction is a positive once an epoch (paper: users are drawn uniformly),
so active users are in a batch more often; `per_user="mean"` judges users by their mean loss
instead, which that does not move.

Cost: that of APR and one number per user and step.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tastemaker.models.base import settings
from tastemaker.models.collaborative.apr import APR, AdversarialConfig, presets_of

__all__ = ["VAT"]

_TINY = 1e-9  # added to the loss below the fraction (reference code)


class VAT(APR):
    """A pairwise factor model trained against shifts that follow each user's vulnerability."""

    @settings
    class Config(AdversarialConfig):
        """Settings of VAT."""

        vulnerability: float = Field(default=2.0, gt=0)  # lambda, bound of g_u (paper)
        per_user: Literal["sum", "mean"] = "sum"  # how a user's losses add up (paper: sum)

    presets = presets_of(
        {
            "ml-100k-bpr-mf": {"rho": 0.35},
            "ml-100k-lightgcn": {"rho": 0.25, "adversarial_weight": 2.0},
            "ml-1m-bpr-mf": {"rho": 0.35},
        }
    )

    config: Config

    def susceptibility(self, users: Tensor, losses: Tensor) -> Tensor:
        """g_u of each triple's user; see `APR.susceptibility` for the shapes."""
        zeros = losses.new_zeros(self.n_users)
        totals = zeros.index_add(0, users, losses)
        counts = zeros.index_add(0, users, torch.ones_like(losses))
        if self.config.per_user == "mean":
            totals = totals / counts.clamp(min=1)
        mean = totals.sum() / (counts > 0).sum()
        own = totals[users]
        return self.config.vulnerability * torch.sigmoid((mean - own) / (own + _TINY))
