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

import torch
from pydantic import Field
from torch import Tensor

from tastemaker.data import Dataset, TrainingSet
from tastemaker.layers.propagation import normalised_adjacency, propagate
from tastemaker.models.base import settings
from tastemaker.models.collaborative.factors import GraphFactors, PairwiseConfig
from tastemaker.models.search import Integer, LogUniform

__all__ = ["LightGCN"]


class LightGCN(GraphFactors):
    """One vector per user and item, propagated over their graph, trained pairwise."""

    @settings
    class Config(PairwiseConfig):
        """Settings of LightGCN."""

        num_layers: int = Field(default=3, ge=0)  # products L (paper, sec. 4.2)
        epochs: int = Field(default=1000, ge=1)  # at most (paper, sec. 4.1)

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

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self._adjacency: Tensor | None = None

    def prepare(self, data: TrainingSet) -> None:
        """The graph of users and items."""
        users, items = torch.from_numpy(data.users), torch.from_numpy(data.items)
        self._adjacency = normalised_adjacency(
            users.to(self.device), items.to(self.device), self.n_users, self.n_items
        )

    def release(self) -> None:
        """Drop the graph."""
        self._adjacency = None

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Users [n_users, D] and items [N, D]: the mean of all layers of the graph."""
        assert self._adjacency is not None, "prepare() makes the graph"
        nodes = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        layers = propagate(self._adjacency, nodes, self.config.num_layers)
        mean = torch.stack(layers).mean(0) if len(layers) > 1 else nodes
        return mean[: self.n_users], mean[self.n_users :]
