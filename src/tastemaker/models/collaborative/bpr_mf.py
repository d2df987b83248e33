"""BPR-MF: matrix factorisation trained to rank a user's items above others.

"BPR: Bayesian Personalized Ranking from Implicit Feedback" (UAI 2009, arXiv 1205.2618): for a user
u, an item i they took and an item j drawn uniformly among those they did not, the loss is
softplus(u.v_j - u.v_i), with an L2 penalty on the three rows.

What we changed: Adam on batches instead of gradient descent on single triples; no item biases. A
user not seen in training is answered by the minimum of their own loss, to second order, with the
items held fixed (`fold_in_pairwise`). With `negatives="shared"` all positives of a batch are
compared with the same items, drawn without replacement, but not with those their user knows: of
the items a user does not know each is as likely as another, and a step over B K triples is three
matrix products. A shared negative teaches less than one of a positive's own and costs far less.

Cost: an epoch is one pass over the triples at about 12 D operations each (6 D where negatives are
shared), plus an optimiser step over both tables per batch; memory 4 (n_users + n_items) D numbers.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from tastemaker.data import TrainingSet
from tastemaker.losses.pairwise import shared_bpr
from tastemaker.models.base import settings
from tastemaker.models.collaborative.factors import PairwiseConfig, PairwiseFactors
from tastemaker.models.search import Choice, Integer, LogUniform
from tastemaker.training.batches import SharedPairBatches
from tastemaker.training.stages import Batch, Loss, Objective

__all__ = ["BPRMF"]


class BPRMF(PairwiseFactors):
    """One vector per user and item, trained pairwise."""

    @settings
    class Config(PairwiseConfig):
        """Settings of BPR-MF."""

        num_negatives: int = Field(default=4, ge=1)  # per positive (ours; paper: 1)
        negatives: Literal["own", "shared"] = "own"  # of each positive (paper) or of a batch (ours)
        regularization: float = Field(default=1e-2, ge=0)  # L2 weight of a triple's rows (ours)
        epochs: int = Field(default=400, ge=1)  # at most (ours)

    search = {
        "hidden_size": Integer(16, 256, log=True),
        "num_negatives": Choice((1, 4, 16)),
        "regularization": LogUniform(1e-5, 1e-1),
        "learning_rate": LogUniform(1e-4, 1e-2),
    }

    presets = {
        "ml-100k": {
            "num_negatives": 4,
            "regularization": 1e-2,
            "learning_rate": 2e-3,
            "epochs": 100,
            "monitor": None,
        },
    }

    config: Config

    @property
    def shares_negatives(self) -> bool:
        """Whether the positives of a batch have their negatives in common."""
        return self.config.negatives == "shared"

    def objectives(self, data: TrainingSet) -> list[Objective]:
        """The triple loss on every interaction."""
        config = self.config
        if not self.shares_negatives:
            return super().objectives(data)
        batches = SharedPairBatches.of(data, config.batch_size, num_negatives=config.num_negatives)
        return [Objective("bpr", self.loss, batches, config.optimizer())]

    def triple_loss(
        self, users: Tensor, positives: Tensor, negatives: Tensor, batch: Batch
    ) -> Loss:
        """BPR plus the penalty of the batch; `negatives` are [B, K, D], or [K, D] if shared."""
        if not self.shares_negatives:
            return super().triple_loss(users, positives, negatives, batch)
        ranking = shared_bpr(users, positives, negatives, batch["unknown"])
        penalty = self.config.regularization * self.penalty(users, positives, negatives, batch)
        return Loss(ranking + penalty, len(users), {"bpr": ranking.detach()})
