"""What multimodal methods share: trainable feature vectors of the items, one table a modality.

Feature vectors and what maps them are needed in training alone. They come from the content store in
a stage of their own and are let go when training ends, so a stored model neither holds nor needs
an encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from tastemaker.content.features import features_fingerprint, item_features
from tastemaker.data import Dataset, TrainingSet
from tastemaker.models.base import settings
from tastemaker.models.collaborative.factors import GraphFactors, PairwiseConfig
from tastemaker.training.stages import ComputeStage, Stage

__all__ = ["Modality", "MultimodalConfig", "MultimodalFactors", "rows_with_features"]


@settings
class MultimodalConfig(PairwiseConfig):
    """Settings of methods that learn from item features; methods override the defaults."""

    features: str | tuple[str, ...] = ("text",)  # sources of item vectors, one a modality (ours)
    train_features: bool = True  # whether the vectors move, too (reference code)
    num_layers: int = Field(default=2, ge=0)  # products with the graph of users and items
    regularization: float = Field(default=0.0, ge=0)  # L2 weight of a triple's rows
    epochs: int = Field(default=1000, ge=1)  # at most (reference code)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources as a tuple."""
        return (self.features,) if isinstance(self.features, str) else self.features


class MultimodalFactors(GraphFactors):
    """Base of methods on a graph of users and items whose loss looks at item features."""

    config: MultimodalConfig

    def __init__(self, config: MultimodalConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.modalities = nn.ModuleList(Modality(config.train_features) for _ in config.sources)

    @property
    def uses_features(self) -> bool:
        """Whether the loss looks at features at all."""
        return True

    def each_modality(self) -> list[Modality]:
        """The modalities, in the order of their sources."""
        return [part for part in self.modalities if isinstance(part, Modality)]

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """The features, pairwise training on the graphs, then the propagated vectors."""
        dataset, trained = data.dataset, super().stages(data)
        for source in self.config.sources:
            features_fingerprint(dataset, source)  # refuses what the data lack, before any work
        if not (self.uses_features and self.config.sources):
            return trained
        features = ComputeStage("features", lambda: self._load(dataset), self._fill)
        return [features, *trained]

    def release(self) -> None:
        """Drop the features, once the propagated vectors are kept."""
        for modality in self.each_modality():
            modality.resize((0, 0), 0)

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take over a stored state, features of any number and width included."""
        for index, modality in enumerate(self.each_modality()):
            if (stored := state.get(f"modalities.{index}.table")) is not None:
                bias = state.get(f"modalities.{index}.bias")
                modality.resize(tuple(stored.shape), 0 if bias is None else len(bias))
        return super().load_state(state)

    def _load(self, dataset: Dataset) -> Mapping[str, Tensor]:
        """Feature vectors and initial maps (Xavier) of all modalities."""
        product: dict[str, Tensor] = {}
        for index, source in enumerate(self.config.sources):
            table = torch.from_numpy(item_features(dataset, source))
            weight = torch.empty(table.shape[1], self.config.hidden_size)
            product |= {
                f"{index}.table": table,
                f"{index}.weight": nn.init.xavier_normal_(weight),
                f"{index}.bias": torch.zeros(self.config.hidden_size),
            }
        return product

    @torch.no_grad()
    def _fill(self, product: Mapping[str, Tensor]) -> None:
        for index, modality in enumerate(self.each_modality()):
            table, bias = product[f"{index}.table"], product[f"{index}.bias"]
            modality.resize(tuple(table.shape), len(bias))
            for name, value in modality.named_parameters():
                value.copy_(product[f"{index}.{name}"])


class Modality(nn.Module):
    """Feature vectors of the items and their affine map to the width of the model."""

    def __init__(self, trainable: bool) -> None:
        super().__init__()
        self.trainable = trainable
        self.table = nn.Parameter(torch.zeros(0, 0), requires_grad=trainable)  # [N, F]
        self.weight = nn.Parameter(torch.zeros(0, 0))  # [F, D]
        self.bias = nn.Parameter(torch.zeros(0))  # [D]

    def resize(self, shape: tuple[int, ...], width: int) -> None:
        """New parameters for features [N, F] and maps to `width`, for the caller to fill."""
        make = self.bias.new_empty
        self.table = nn.Parameter(make(shape), requires_grad=self.trainable)
        self.weight = nn.Parameter(make(shape[1], width))
        self.bias = nn.Parameter(make(width))

    def forward(self, items: Tensor) -> Tensor:
        """Vectors of items: [...] int64 -> [..., D] float."""
        return nn.functional.embedding(items, self.table) @ self.weight + self.bias


def rows_with_features(features: Tensor) -> Tensor:
    """[N] bool: which rows of [N, F] features are an item's own, not the mean that fills gaps."""
    mean = features.mean(0)
    own: Tensor = (features - mean).norm(dim=1) > 1e-3 * mean.norm()
    return own
