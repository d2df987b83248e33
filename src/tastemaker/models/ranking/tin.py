"""TIN: attention and representation that know both what an item is and how long ago it was.

Paper: "Temporal Interest Network for User Response Prediction", WWW 2024, arXiv 2308.08487; code
zhouxy1003/TIN. The vector of an event is that of its item plus that of its place in time, counted
back from the target, which has place 0. The same vectors give the attention of target q to
behaviour k, their dot product, and the representation, the product of the weighted sum with q: four
things meet, the meaning and the time of both. A perceptron sees the sum, q and the product, and a
bias of the target item is added.

What we changed: all fields of an item are its vector, and fields of users and contexts join the
perceptron when there are any (the reference has item and category alone). The normalisations of
the reference code never leave their initial moments, which makes them scales next to linear maps;
they are left out. Its linear map after the weighted sum, which the paper's equations do not have,
is off by default: on Amazon Beauty it costs .01 to .015 of validation GAUC. Histories hold liked
items from strictly earlier moments, the last `max_length`.

Cost of an epoch over R rows with histories of L: O(R L W) for items of width W; memory O(B L W).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset
from tastemaker.errors import ConfigError
from tastemaker.layers.mlp import MLP, MLPActivation
from tastemaker.layers.target_interest import InterestTime, TargetInterest
from tastemaker.models.base import Need, settings
from tastemaker.models.ranking.ranker import Asked, Ranker, RankerConfig
from tastemaker.models.search import Choice, LogUniform, Uniform

__all__ = ["TIN", "gap_places"]

_GAP_PLACES = 34  # 0 for the target, one each for gaps of less than 1, 2, 4, ... 2^32 seconds


class TIN(Ranker):
    """Target attention and representation with time in both."""

    @settings
    class Config(RankerConfig):
        """Settings of TIN."""

        hidden_size: int = Field(default=64, ge=1)  # width of a field's vector (paper's code)
        max_length: int = Field(default=100, ge=1)  # most recent liked items (ours; code: all)
        clock: Literal["rank", "gap"] = "rank"  # places: events ago, or log2 seconds (paper, both)
        time: InterestTime = "add"  # how places join items (paper); "none" leaves them out
        product: bool = True  # target-aware representation (paper)
        transform: bool = False  # linear map after the weighted sum (reference code; paper: no)
        hidden_sizes: tuple[int, ...] = (80, 40)  # of the perceptron (reference code)
        activation: MLPActivation = "sigmoid"  # of the perceptron (reference code)
        dropout: float = Field(default=0.0, ge=0, lt=1)  # in the perceptron (reference code)
        init_std: float = Field(default=0.02, gt=0)  # of tables (ours; code: Glorot, about that)
        clip_norm: float = Field(default=5.0, ge=0)  # largest gradient norm (reference code)
        monitor: str | None = "gauc"  # validation metric that picks the epoch (reference code)

    config: Config
    needs = frozenset({Need.LABELS, Need.ORDER})
    search = {
        "hidden_size": Choice((16, 32, 64)),
        "dropout": Uniform(0.0, 0.5),
        "regularization": LogUniform(1e-7, 1e-2),
        "learning_rate": LogUniform(3e-4, 3e-3),
    }
    presets = {
        # As many events and as wide as DIN's, which it is held against.
        "ml-1m": {
            "fields": ("user", "user.gender", "user.age", "user.occupation", "item", "item.genres"),
            "hidden_size": 16,
            "max_length": 30,
            "hidden_sizes": (200, 80),
            "activation": "relu",
            "dropout": 0.1,
            "learning_rate": 2e-3,
            "epochs": 6,
            "patience": 1,
        },
        # Likewise.
        "amazon-beauty": {
            "fields": ("item", "item.attributes"),
            "hidden_size": 32,
            "max_length": 30,
            "hidden_sizes": (80, 40),
            "activation": "relu",
            "dropout": 0.1,
            "epochs": 6,
            "patience": 1,
        },
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset, max_length=config.max_length)
        if config.clock == "gap":
            if "timestamp" not in dataset.interactions.column_names:
                raise ConfigError(
                    f"setting 'clock': gaps are between timestamps, which {dataset.name!r} does "
                    "not have; use clock=rank"
                )
            self.columns = ("timestamp",)
        self.interest = TargetInterest(
            self.item_width(),
            time=config.time,
            num_places=_GAP_PLACES if config.clock == "gap" else config.max_length + 1,
            place_std=config.init_std,
            product=config.product,
            transform=config.transform,
        )
        others = self.n_fields("user", "context") * config.hidden_size
        self.deep = MLP(
            self.interest.output_width + others,
            config.hidden_sizes,
            activation=config.activation,
            dropout=config.dropout,
        )
        self.item_bias = nn.Embedding(self.n_items, 1)
        nn.init.zeros_(self.item_bias.weight)

    def logits(self, asked: Asked, candidates: Tensor) -> Tensor:
        """The perceptron on interest and the other fields, plus the item's bias: [B, C] float."""
        vectors = self.item_vectors_for(asked.items.numel() + candidates.numel())

        def interest_of(asked: Asked, candidates: Tensor) -> Tensor:
            events, places = vectors(asked.items), self.places(asked)
            found: Tensor = self.interest(vectors(candidates), events, asked.valid, places)
            return found

        interest = asked.in_blocks(candidates, interest_of)
        others = self.embed_asked(asked).flatten(1)[:, None]  # [B, 1, F D]
        features = torch.cat([interest, others.expand(-1, candidates.shape[1], -1)], -1)
        logits: Tensor = self.deep(features) + self.item_bias(candidates)
        return logits.squeeze(-1)

    def places(self, asked: Asked) -> Tensor:
        """The place in time of every behaviour, [B, L] int64; 0 behind the last one."""
        if self.config.clock == "gap":
            gaps = asked.columns["next_timestamp"][:, None] - asked.columns["timestamp"]
            return gap_places(gaps) * asked.valid
        index = torch.arange(asked.items.shape[1], device=asked.items.device)
        return (asked.lengths[:, None] - index).clamp(min=0)


def gap_places(gaps: Tensor) -> Tensor:
    """Places of time gaps [...] in seconds: 1 below one second, 2 below two, 3 below four, ..."""
    bits = torch.log2(gaps.double().clamp(min=0.5)).floor().long() + 2
    return bits.clamp(1, _GAP_PLACES - 1)
