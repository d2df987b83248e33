"""DIN: what a user did before, weighted by how much it has to do with the item at hand.

Paper: "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, arXiv 1706.06978;
conventions of reczoo/FuxiCTR. A perceptron scores every liked item of the history against the
target; the weighted sum, the target and all other fields go through a deep network. An item is all
its fields side by side, the same vectors in the history and as a target.

What we changed: weights sum to one by default, as in the published settings (`softmax=False` is
the paper's); the perceptron and Dice see real behaviours only, so batch statistics do not depend
on padding; histories hold liked items from strictly earlier moments.

Cost of an epoch over R rows with histories of L: O(R L (W K + K^2)) for attention layers of width K
over items of width W; memory O(B L (W + K)).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from tastemaker.data import Dataset
from tastemaker.layers.mlp import MLP, MLPActivation
from tastemaker.layers.target_interest import InterestScore, TargetInterest
from tastemaker.models.base import Need, settings
from tastemaker.models.ranking.ranker import Asked, Ranker, RankerConfig
from tastemaker.models.search import Choice, LogUniform, Uniform

__all__ = ["DIN"]


class DIN(Ranker):
    """Target attention over the history, then a deep network."""

    @settings
    class Config(RankerConfig):
        """Settings of DIN."""

        max_length: int = Field(default=100, ge=1)  # most recent liked items (BARS, Amazon)
        score: InterestScore = "mlp"  # of a behaviour for a target: perceptron (paper) or product
        attention_sizes: tuple[int, ...] = Field(default=(80, 40), min_length=1)  # paper's code
        attention_activation: MLPActivation = "dice"  # of the attention (paper, sec. 5.2)
        softmax: bool = True  # attention weights sum to one (BARS, Amazon; paper: no)
        product: bool = False  # history times target, too: DIN+ (TIN's code; paper: no)
        hidden_sizes: tuple[int, ...] = (200, 80)  # of the deep part (paper's code)
        activation: MLPActivation = "dice"  # of the deep part (paper, sec. 5.2)
        batch_norm: bool = False  # in the deep part (BARS: on Amazon)
        dropout: float = Field(default=0.1, ge=0, lt=1)  # in the deep part (BARS, Amazon)

    config: Config
    needs = frozenset({Need.LABELS, Need.ORDER})
    search = {
        "hidden_size": Choice((16, 32, 64)),
        "dropout": Uniform(0.0, 0.5),
        "regularization": LogUniform(1e-7, 1e-2),
        "learning_rate": LogUniform(3e-4, 3e-3),
    }
    presets = {
        # A smaller attention than the paper's, for the CPU; all else as TIN's.
        "ml-1m": {
            "fields": ("user", "user.gender", "user.age", "user.occupation", "item", "item.genres"),
            "max_length": 30,
            "hidden_sizes": (200, 80),
            "activation": "relu",
            "dropout": 0.1,
            "learning_rate": 2e-3,
            "epochs": 6,
            "patience": 1,
            "attention_sizes": (32,),
            "attention_activation": "relu",
            "init_std": 0.02,
            "clip_norm": 5.0,
            "monitor": "gauc",
        },
        # All but the attention as TIN's.
        "amazon-beauty": {
            "fields": ("item", "item.attributes"),
            "hidden_size": 32,
            "max_length": 30,
            "hidden_sizes": (80, 40),
            "activation": "relu",
            "dropout": 0.1,
            "epochs": 6,
            "patience": 1,
            "attention_sizes": (32,),
            "attention_activation": "relu",
            "init_std": 0.02,
            "clip_norm": 5.0,
            "monitor": "gauc",
        },
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset, max_length=config.max_length)
        self.interest = TargetInterest(
            self.item_width(),
            score=config.score,
            attention_sizes=config.attention_sizes,
            activation=config.attention_activation,
            softmax=config.softmax,
            product=config.product,
        )
        others = self.n_fields("user", "context") * config.hidden_size
        self.deep = MLP(
            self.interest.output_width + others,
            config.hidden_sizes,
            activation=config.activation,
            batch_norm=config.batch_norm,
            dropout=config.dropout,
        )

    def logits(self, asked: Asked, candidates: Tensor) -> Tensor:
        """The deep network on interest, target and the other fields: [B, C] float."""
        vectors = self.item_vectors_for(asked.items.numel() + candidates.numel())

        def interest_of(asked: Asked, candidates: Tensor) -> Tensor:
            found: Tensor = self.interest(vectors(candidates), vectors(asked.items), asked.valid)
            return found

        if self.interest.is_rowwise:
            interest = asked.in_blocks(candidates, interest_of)
        else:
            interest = interest_of(asked, candidates)
        others = self.embed_asked(asked).flatten(1)[:, None]  # [B, 1, F D]
        features = torch.cat([interest, others.expand(-1, candidates.shape[1], -1)], -1)
        logits: Tensor = self.deep(features)
        return logits.squeeze(-1)
