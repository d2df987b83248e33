"""DeepFM: a factorisation machine and a deep network over the same embeddings, added up.

Paper: "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017, arXiv
1703.04247; conventions (initial values, penalty, layers) of reczoo/FuxiCTR, whose benchmark
publishes the figures ours stand beside. The logit is a bias, a weight for each value, all pairwise
dot products of the field vectors, and a multi-layer perceptron on the vectors side by side.

What we changed: a missing value is the zero vector (FuxiCTR: the vector of unknown values); the
learning rate follows `decay` instead of falling on plateaus.

Cost of an epoch over R rows of F fields: O(R (F D H + H^2)) for hidden layers of width H; memory
(D + 1) numbers a value, three times that with Adam.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset
from tastemaker.layers.mlp import MLP
from tastemaker.models.base import settings
from tastemaker.models.ranking.ranker import Asked, Ranker, RankerConfig
from tastemaker.models.search import Choice, LogUniform, Uniform

__all__ = ["DeepFM", "pairwise_products"]


class DeepFM(Ranker):
    """Factorisation machine plus deep network."""

    @settings
    class Config(RankerConfig):
        """Settings of DeepFM."""

        hidden_sizes: tuple[int, ...] = (400, 400, 400)  # of the deep part (paper, sec. 3.1)
        batch_norm: bool = False  # in the deep part (BARS: on Frappe, off on Criteo)
        dropout: float = Field(default=0.2, ge=0, lt=1)  # in the deep part (BARS, Criteo)

    config: Config
    search = {
        "hidden_size": Choice((8, 16, 32)),
        "dropout": Uniform(0.0, 0.5),
        "regularization": LogUniform(1e-7, 1e-1),
        "learning_rate": LogUniform(3e-4, 3e-3),
    }
    presets = {
        # Chosen on the validation rows of Frappe; widths and batch norm of BARS.
        "frappe": {
            "hidden_size": 10,
            "batch_norm": True,
            "regularization": 0.05,
            "epochs": 30,
            "patience": 3,
        },
        # Chosen on the validation rows of Last.FM with sampled negatives.
        "kg-lastfm-music": {
            "hidden_size": 64,
            "hidden_sizes": (64, 32),
            "regularization": 0.03,
            "epochs": 15,
            "patience": 3,
        },
        # Chosen on the validation rows of Book-Crossing with sampled negatives.
        "kg-book-crossing": {
            "hidden_sizes": (64, 32),
            "regularization": 0.003,
        },
        # One epoch or two are enough for a million rows.
        "ml-1m": {
            "fields": ("user", "user.gender", "user.age", "user.occupation", "item", "item.genres"),
            "hidden_sizes": (200, 80),
            "learning_rate": 2e-3,
            "epochs": 4,
            "patience": 1,
        },
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.weights = self.embedding_bank(1)
        self.bias = nn.Parameter(torch.zeros(1))
        self.deep = MLP(
            self.n_fields("user", "item", "context") * config.hidden_size,
            config.hidden_sizes,
            batch_norm=config.batch_norm,
            dropout=config.dropout,
        )

    def logits(self, asked: Asked, candidates: Tensor) -> Tensor:
        """Bias, weights, pairwise products and the deep part: [B, C] float."""
        vectors = self.embed(asked, candidates)  # [B, C, F, D]
        first = self.embed(asked, candidates, self.weights).sum((-2, -1))
        deep: Tensor = self.deep(vectors.flatten(-2)).squeeze(-1)
        return self.bias + first + pairwise_products(vectors) + deep


def pairwise_products(vectors: Tensor) -> Tensor:
    """The sum of the dot products of all pairs of fields: [..., F, D] float to [...].

    Half the difference of the square of the sum and the sum of the squares: O(F D).
    """
    total = vectors.sum(-2)
    return 0.5 * (total.square().sum(-1) - vectors.square().sum((-2, -1)))
