"""DCN V2: products of features made explicitly by a cross network, beside or below a deep one.

Paper: "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
Systems", WWW 2021, arXiv 2008.13535; conventions of reczoo/FuxiCTR, whose benchmark publishes the
figures ours stand beside. All field vectors side by side are x_0; cross layers multiply by x_0
once more each, with full matrices or a mixture of low-rank ones.

What we changed: a missing value is the zero vector (FuxiCTR: the vector of unknown values); the
learning rate follows `decay` instead of falling on plateaus.

Cost of an epoch over R rows of width W = F D: O(R (L W^2 + W H + H^2)) for L cross layers (L E W r
with E experts of rank r); memory D numbers a value, three times that with Adam.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset
from tastemaker.layers.cross import CrossMixture, CrossNetwork
from tastemaker.layers.mlp import MLP, initialise_xavier
from tastemaker.models.base import settings
from tastemaker.models.ranking.ranker import Asked, Ranker, RankerConfig
from tastemaker.models.search import Choice, Integer, LogUniform, Uniform

__all__ = ["DCNv2"]


class DCNv2(Ranker):
    """Cross network and deep network."""

    @settings
    class Config(RankerConfig):
        """Settings of DCN V2."""

        structure: Literal["parallel", "stacked", "cross"] = "parallel"  # "cross": no deep part
        num_layers: int = Field(default=3, ge=0)  # cross layers (BARS, Criteo)
        num_experts: int = Field(default=0, ge=0)  # low-rank maps a layer; 0 = one full matrix
        rank: int = Field(default=32, ge=1)  # of the experts' maps (reference code)
        hidden_sizes: tuple[int, ...] = (400, 400, 400)  # of the deep part (BARS, Frappe)
        batch_norm: bool = False  # in the deep part (BARS: on Frappe and Criteo)
        dropout: float = Field(default=0.2, ge=0, lt=1)  # in the deep part (BARS, MovieLens)

    config: Config
    search = {
        "hidden_size": Choice((8, 16, 32)),
        "num_layers": Integer(1, 5),
        "dropout": Uniform(0.0, 0.5),
        "regularization": LogUniform(1e-7, 1e-1),
        "learning_rate": LogUniform(3e-4, 3e-3),
    }
    presets = {
        # Chosen on the validation rows of Frappe; widths, layers and dropout of BARS.
        "frappe": {
            "hidden_size": 10,
            "num_layers": 4,
            "batch_norm": True,
            "dropout": 0.4,
            "regularization": 0.01,
            "epochs": 30,
            "patience": 3,
        },
        # Chosen on the validation rows of Last.FM with sampled negatives.
        "kg-lastfm-music": {
            "hidden_size": 64,
            "hidden_sizes": (64, 32),
            "regularization": 0.03,
            "patience": 4,
        },
        # Chosen on the validation rows of Book-Crossing with sampled negatives.
        "kg-book-crossing": {
            "hidden_sizes": (64, 32),
            "regularization": 0.01,
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
        width = self.n_fields("user", "item", "context") * config.hidden_size
        self.cross = (
            CrossMixture(width, config.num_layers, config.num_experts, config.rank)
            if config.num_experts
            else CrossNetwork(width, config.num_layers)
        )
        self.deep: MLP | None = None
        if config.structure != "cross":
            self.deep = MLP(
                width,
                config.hidden_sizes,
                output=None,
                batch_norm=config.batch_norm,
                dropout=config.dropout,
            )
        ends = 0 if self.deep is None else self.deep.width
        self.output = nn.Linear(
            {"parallel": width + ends, "cross": width}.get(config.structure, ends), 1
        )
        initialise_xavier(self.output)

    def logits(self, asked: Asked, candidates: Tensor) -> Tensor:
        """A linear map of the last cross and deep layers: [B, C] float."""
        first = self.embed(asked, candidates).flatten(-2)  # [B, C, F D]
        ends = crossed = self.cross(first)
        if self.deep is not None:
            parallel = self.config.structure == "parallel"
            ends = torch.cat([crossed, self.deep(first)], -1) if parallel else self.deep(crossed)
        logits: Tensor = self.output(ends)
        return logits.squeeze(-1)
