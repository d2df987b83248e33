"""BM3: users, items and their features predict each other, and no negative is ever drawn.

"Bootstrap Latent Representations for Multi-modal Recommendation" (WWW 2023, arXiv 2207.05969;
reference code enoche/BM3). Vectors are those of LightGCN, items with their own table added. One
predictor P, shared by all, maps them; of an interaction P(user) should point where the item points
and P(item) where the user does, and P of the item's mapped features where the item and where the
features point. Targets are the same vectors with entries dropped at random and no gradient: there
is no second encoder. Scores are dot products of predictions.

What we changed: no negatives are drawn; initial vectors are normal instead of Xavier-uniform. A
user not seen in training is answered by the mean direction of the history's items, which is what
the user's own term of the loss is smallest at, the items held fixed.

Cost: a batch as LightGCN, without negatives, and six products of B D^2 a modality; trainable
features 16 N F bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, Ragged, TrainingSet
from tastemaker.layers.dropout import dropout
from tastemaker.layers.propagation import normalised_adjacency, propagate
from tastemaker.losses.bootstrap import cosine_bootstrap
from tastemaker.models.base import settings
from tastemaker.models.collaborative.histories import sum_rows
from tastemaker.models.multimodal.modalities import MultimodalConfig, MultimodalFactors
from tastemaker.models.search import Choice, LogUniform
from tastemaker.training.stages import Batch, Loss

__all__ = ["BM3"]


class BM3(MultimodalFactors):
    """One vector per user and item, trained to predict each other without negatives."""

    @settings
    class Config(MultimodalConfig):
        """Settings of BM3."""

        num_layers: int = Field(default=1, ge=0)  # products (paper: 1, or 2 on large data)
        dropout: float = Field(default=0.5, ge=0, lt=1)  # share of a target's entries (paper)
        norm_weight: float = Field(default=0.1, ge=0)  # of the norms of all vectors (paper)
        modality_weight: float = Field(default=2.0, ge=0)  # of the terms of features (paper)
        num_negatives: Literal[0] = 0  # there are none

    search = {
        "learning_rate": LogUniform(1e-4, 1e-2),
        "num_layers": Choice((1, 2)),
        "dropout": Choice((0.3, 0.5)),
        "norm_weight": Choice((0.01, 0.1)),
        "modality_weight": Choice((0.0, 0.5, 2.0)),
    }

    config: Config
    targets: Tensor  # [N, D] float32 item vectors before the predictor; [0, D] until training ends

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.predictor = nn.Linear(config.hidden_size, config.hidden_size)
        nn.init.xavier_normal_(self.predictor.weight)
        self.register_buffer("targets", torch.zeros(0, config.hidden_size))
        self._adjacency: Tensor | None = None

    @property
    def uses_features(self) -> bool:
        """Whether there are terms of features."""
        return self.config.modality_weight > 0

    def prepare(self, data: TrainingSet) -> None:
        """The graph of users and items."""
        users, items = torch.from_numpy(data.users), torch.from_numpy(data.items)
        self._adjacency = normalised_adjacency(
            users.to(self.device), items.to(self.device), self.n_users, self.n_items
        )
        self.targets = self.targets[:0]

    def release(self) -> None:
        """Drop graph and features."""
        super().release()
        self._adjacency = None

    def representations(self) -> tuple[Tensor, Tensor]:
        """Users [n_users, D] and items [N, D] before the predictor."""
        assert self._adjacency is not None, "prepare() makes the graph"
        table = self.item_embedding.weight
        nodes = torch.cat([self.user_embedding.weight, table])
        mean = torch.stack(propagate(self._adjacency, nodes, self.config.num_layers)).mean(0)
        return mean[: self.n_users], mean[self.n_users :] + table

    def propagated(self) -> tuple[Tensor, Tensor]:
        """The predictions of users [n_users, D] and items [N, D] that scores come from."""
        users, items = self.representations()
        return self.predictor(users), self.predictor(items)

    def batch_vectors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of `representations` of a batch; negatives, if it has any, are not looked at."""
        users, items = self.representations()
        return (
            F.embedding(batch["users"], users),
            F.embedding(batch["positives"], items),
            F.embedding(batch["negatives"], items),
        )

    def triple_loss(
        self, users: Tensor, positives: Tensor, negatives: Tensor, batch: Batch
    ) -> Loss:
        """The terms of given users [B, D] and positives [B, D] with each other and with features.

        Every term is 1 - mean cosine, from 0 to 2; `negatives` plays no part.
        """
        del negatives
        wanted = self._target(positives)
        interaction = cosine_bootstrap(self.predictor(users), wanted)
        interaction = interaction + cosine_bootstrap(self.predictor(positives), self._target(users))
        total, parts = interaction, {"interaction": interaction.detach()}
        if self.uses_features and len(self.modalities):
            features = users.new_zeros(())
            for modality in self.each_modality():
                latent = modality(batch["positives"])  # [B, D]
                predicted = self.predictor(latent)
                features = features + cosine_bootstrap(predicted, wanted)
                features = features + cosine_bootstrap(predicted, self._target(latent))
            total = total + self.config.modality_weight * features
            parts["features"] = features.detach()
        return Loss(total, len(users), parts)

    def loss(self, batch: Batch) -> Loss:
        """The terms of a batch, and the Frobenius norms of all vectors over the number of items."""
        users, items = self.representations()
        rows = F.embedding(batch["users"], users), F.embedding(batch["positives"], items)
        terms = self.triple_loss(*rows, F.embedding(batch["negatives"], items), batch)
        norms = (users.norm() + items.norm()) / len(items)
        return Loss(terms.value + self.config.norm_weight * norms, terms.weight, terms.parts)

    def _target(self, vectors: Tensor) -> Tensor:
        """What predictions are drawn to: the vectors with entries dropped, without gradient."""
        return dropout(vectors.detach(), self.config.dropout, training=self.training)

    @torch.no_grad()
    def _average(self, seen: NDArray[np.bool_]) -> Mapping[str, Tensor]:
        return {**super()._average(seen), "targets": self.representations()[1]}

    def fold_in(self, histories: Ragged) -> Tensor:
        """The mean direction of the history's items."""
        items = (
            self.targets
            if len(self.targets)
            else self.cached("targets", lambda: self.representations()[1])
        )
        lengths = torch.from_numpy(histories.lengths).to(items)
        return sum_rows(F.normalize(items, dim=1), histories) / lengths[:, None]
