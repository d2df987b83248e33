"""BPR-MF: matrix factorisation trained to rank a user's items above others.

"BPR: Bayesian Personalized Ranking from Implicit Feedback" (UAI 2009, arXiv 1205.2618): for a user
u, an item i they took and an item j drawn uniformly among those they did not, the loss is
softplus(u.v_j - u.v_i), with an L2 penalty on the three rows.

What we changed: Adam on batches instead of gradient descent on single triples; no item biases. A
user not seen in training is answered by the minimum of their own loss, to second order, with the
items held fixed (`fold_in_pairwise`).

Cost: an epoch is one pass over the interactions at about 12 D operations each, plus an optimiser
step over both tables per batch; memory 4 (n_users + n_items) D numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.losses.pairwise import batch_l2, bpr
from tastemaker.models.base import GradientConfig, settings
from tastemaker.models.collaborative.factors import (
    Factors,
    fill_unseen,
    fold_in_pairwise,
    item_moments,
)
from tastemaker.models.search import Choice, Integer, LogUniform
from tastemaker.training.batches import PairBatches
from tastemaker.training.stages import (
    Batch,
    ComputeStage,
    GradientStage,
    Loss,
    Objective,
    Stage,
)

__all__ = ["BPRMF"]


class BPRMF(Factors):
    """One vector per user and item, trained pairwise."""

    @settings
    class Config(GradientConfig):
        """Settings of BPR-MF."""

        hidden_size: int = Field(default=64, ge=1)  # width of the vectors (LightGCN paper)
        num_negatives: int = Field(default=4, ge=1)  # per positive (ours; paper: 1)
        regularization: float = Field(default=1e-2, ge=0)  # L2 weight of a triple's rows (ours)
        fold_in_regularization: float = Field(default=0.05, gt=0)  # L2 of an unseen user (ours)
        init_std: float = Field(default=0.1, gt=0)  # of the initial entries (LightGCN code)
        batch_size: int = Field(default=2048, ge=1)  # positives (LightGCN paper)
        epochs: int = Field(default=400, ge=1)  # at most (ours)
        validate_every: int = Field(default=5, ge=1)  # epochs between validations (ours)
        precision: Literal["float32", "bf16", "fp16", "auto"] = "float32"  # small sums (ours)

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

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset, config.hidden_size)
        self.user_embedding = nn.Embedding(dataset.n_users, config.hidden_size)
        self.item_embedding = nn.Embedding(dataset.n_items, config.hidden_size)
        nn.init.normal_(self.user_embedding.weight, std=config.init_std)
        nn.init.normal_(self.item_embedding.weight, std=config.init_std)

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """Pairwise training, then the vector for users without interactions."""
        config = self.config
        batches = PairBatches.of(data, config.batch_size, num_negatives=config.num_negatives)
        objective = Objective("bpr", self.loss, batches, config.optimizer())
        seen = data.histories().items.lengths > 0
        return [
            GradientStage("fit", [objective], **config.schedule()),
            ComputeStage("average-user", lambda: self._average(seen), self._keep),
        ]

    def loss(self, batch: Batch) -> Loss:
        """BPR plus the penalty on the rows of the batch."""
        users = self.user_embedding(batch["users"])  # [B, D]
        positives = self.item_embedding(batch["positives"])  # [B, D]
        negatives = self.item_embedding(batch["negatives"])  # [B, K, D]
        ranking = bpr((users * positives).sum(-1), (users[:, None] * negatives).sum(-1))
        penalty = self.config.regularization * batch_l2(users, positives, negatives)
        return Loss(ranking + penalty, len(users), {"bpr": ranking.detach()})

    @torch.no_grad()
    def _average(self, seen: NDArray[np.bool_]) -> Mapping[str, Tensor]:
        users, average = fill_unseen(self.user_embedding.weight, seen)
        return {"users": users, "average_user": average}

    @torch.no_grad()
    def _keep(self, product: Mapping[str, Tensor]) -> None:
        self.user_embedding.weight.copy_(product["users"])
        self.average_user = product["average_user"].to(self.device)

    def user_vectors(self) -> Tensor:
        """[n_users, D] float32."""
        return self.user_embedding.weight

    def item_vectors(self) -> Tensor:
        """[N, D] float32."""
        return self.item_embedding.weight

    def fold_in(self, histories: Ragged) -> Tensor:
        """The user's own BPR minimum, to second order."""
        table = self.item_embedding.weight.detach()
        moments = self.cached("moments", lambda: item_moments(table))
        return fold_in_pairwise(table, moments, histories, self.config.fold_in_regularization)
