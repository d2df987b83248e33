"""LightGCN: matrix factorisation whose vectors are averaged over a user's and item's neighbours.

"LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation" (SIGIR 2020, arXiv
2002.02126). With E_0 the embeddings of users and items and A the normalised graph of their
interactions, E_{l+1} = A E_l, and the vectors are the mean of E_0 ... E_L: no weights, no
activation, no self loops. Loss and penalty are those of BPR-MF, the penalty on rows of E_0; with
L = 0 the method is BPR-MF.

What we changed: nothing in training. A user not seen in training is answered as in BPR-MF, from
the propagated item vectors. The propagated vectors are kept with the model, so answering needs no
graph.

Cost: every batch propagates the whole graph: 8 L interactions D operations forward, as many back;
memory 24 bytes an interaction and (L + 5) (n_users + n_items) D numbers.
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
from tastemaker.layers.propagation import normalised_adjacency, propagate
from tastemaker.losses.pairwise import batch_l2, bpr
from tastemaker.models.base import GradientConfig, settings
from tastemaker.models.collaborative.factors import (
    Factors,
    fill_unseen,
    fold_in_pairwise,
    item_moments,
)
from tastemaker.models.search import Integer, LogUniform
from tastemaker.training.batches import PairBatches
from tastemaker.training.stages import (
    Batch,
    ComputeStage,
    GradientStage,
    Loss,
    Objective,
    Stage,
)

__all__ = ["LightGCN"]


class LightGCN(Factors):
    """One vector per user and item, propagated over their graph, trained pairwise."""

    @settings
    class Config(GradientConfig):
        """Settings of LightGCN."""

        hidden_size: int = Field(default=64, ge=1)  # width of the vectors (paper, sec. 4.1)
        num_layers: int = Field(default=3, ge=0)  # products L (paper, sec. 4.2)
        num_negatives: int = Field(default=1, ge=1)  # negatives per positive (paper, sec. 3.3)
        regularization: float = Field(default=1e-4, ge=0)  # L2 weight of a triple's rows (paper)
        fold_in_regularization: float = Field(default=0.05, gt=0)  # L2 of an unseen user (ours)
        init_std: float = Field(default=0.1, gt=0)  # of the initial entries (reference code)
        batch_size: int = Field(default=2048, ge=1)  # positives (paper, sec. 4.1)
        epochs: int = Field(default=1000, ge=1)  # at most (paper, sec. 4.1)
        validate_every: int = Field(default=5, ge=1)  # epochs between validations (ours)
        precision: Literal["float32", "bf16", "fp16", "auto"] = "float32"  # sparse products (ours)

    search = {
        "hidden_size": Integer(16, 256, log=True),
        "num_layers": Integer(1, 4),
        "regularization": LogUniform(1e-6, 1e-2),
        "learning_rate": LogUniform(1e-4, 1e-2),
    }

    presets = {
        "ml-100k": {
            "num_layers": 2,
            "num_negatives": 4,
            "regularization": 1e-4,
            "learning_rate": 5e-3,
            "epochs": 75,
            "monitor": None,
        },
    }

    config: Config
    users: Tensor  # [n_users, D] float32 propagated vectors; [0, D] until training ends
    items: Tensor  # [N, D] float32, likewise

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset, config.hidden_size)
        self.user_embedding = nn.Embedding(dataset.n_users, config.hidden_size)
        self.item_embedding = nn.Embedding(dataset.n_items, config.hidden_size)
        nn.init.normal_(self.user_embedding.weight, std=config.init_std)
        nn.init.normal_(self.item_embedding.weight, std=config.init_std)
        self.register_buffer("users", torch.zeros(0, config.hidden_size))
        self.register_buffer("items", torch.zeros(0, config.hidden_size))
        self._adjacency: Tensor | None = None  # made by stages()

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """Pairwise training on the graph, then the propagated vectors."""
        config = self.config
        users, items = torch.from_numpy(data.users), torch.from_numpy(data.items)
        self._adjacency = normalised_adjacency(
            users.to(self.device), items.to(self.device), self.n_users, self.n_items
        )
        self.users, self.items = self.users[:0], self.items[:0]  # until training ends
        batches = PairBatches.of(data, config.batch_size, num_negatives=config.num_negatives)
        objective = Objective("bpr", self.loss, batches, config.optimizer())
        seen = data.histories().items.lengths > 0
        return [
            GradientStage("fit", [objective], **config.schedule()),
            ComputeStage("propagate", lambda: self._final(seen), self._keep),
        ]

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Users [n_users, D] and items [N, D]: the mean of all layers of the graph."""
        assert self._adjacency is not None, "stages() makes the graph"
        nodes = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        layers = propagate(self._adjacency, nodes, self.config.num_layers)
        mean = torch.stack(layers).mean(0) if len(layers) > 1 else nodes
        return mean[: self.n_users], mean[self.n_users :]

    def loss(self, batch: Batch) -> Loss:
        """BPR on propagated vectors plus the penalty on the layer-0 rows of the batch."""
        all_users, all_items = self.propagated()
        users = all_users[batch["users"]]  # [B, D]
        positives = all_items[batch["positives"]]  # [B, D]
        negatives = all_items[batch["negatives"]]  # [B, K, D]
        ranking = bpr((users * positives).sum(-1), (users[:, None] * negatives).sum(-1))
        penalty = self.config.regularization * batch_l2(
            self.user_embedding(batch["users"]),
            self.item_embedding(batch["positives"]),
            self.item_embedding(batch["negatives"]),
        )
        return Loss(ranking + penalty, len(users), {"bpr": ranking.detach()})

    @torch.no_grad()
    def _final(self, seen: NDArray[np.bool_]) -> Mapping[str, Tensor]:
        users, items = self.propagated()
        users, average = fill_unseen(users, seen)
        return {"users": users, "items": items, "average_user": average}

    def _keep(self, product: Mapping[str, Tensor]) -> None:
        for name, value in product.items():
            setattr(self, name, value.to(self.device))
        self._adjacency = None

    @torch.no_grad()
    def _vectors(self) -> tuple[Tensor, Tensor]:
        if len(self.users):
            return self.users, self.items
        vectors: tuple[Tensor, Tensor] = self.cached("propagated", self.propagated)
        return vectors

    def user_vectors(self) -> Tensor:
        """[n_users, D] float32, propagated."""
        return self._vectors()[0]

    def item_vectors(self) -> Tensor:
        """[N, D] float32, propagated."""
        return self._vectors()[1]

    def fold_in(self, histories: Ragged) -> Tensor:
        """The user's own BPR minimum given the propagated items, to second order."""
        table = self.item_vectors()
        moments = self.cached("moments", lambda: item_moments(table))
        return fold_in_pairwise(table, moments, histories, self.config.fold_in_regularization)
