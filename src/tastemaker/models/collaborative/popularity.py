"""Popularity: recommend what most users took, lately if a window is given.

The baseline that every other method must beat. The score of an item is its number of training
interactions, or of those in the last `window_days` days before the newest one. Everybody gets the
same scores, with or without a history.

Cost: one count per interaction; memory [n_items].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Queries
from tastemaker.errors import MissingNeedError
from tastemaker.models.base import ModelConfig, Recommender, settings
from tastemaker.models.search import LogUniform
from tastemaker.training.stages import ComputeStage, Stage

__all__ = ["Popularity"]

_DAY = 86_400  # seconds


class Popularity(Recommender):
    """Item counts."""

    @settings
    class Config(ModelConfig):
        """Settings of Popularity."""

        window_days: float | None = Field(default=None, gt=0)  # days counted; None = all (ours)

    search = {"window_days": LogUniform(1.0, 1000.0)}

    config: Config
    counts: Tensor  # [N] float32

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.register_buffer("counts", torch.zeros(dataset.n_items))

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """One count.

        Raises:
            MissingNeedError: when a window is asked for and the data have no clock.
        """
        if self.config.window_days is not None and not data.dataset.has_clock:
            raise MissingNeedError(
                "Popularity with window_days needs clock times, but the data set "
                f"{data.dataset.name!r} has no timestamp column; give one, or leave window_days out"
            )
        return [ComputeStage("count", lambda: self._count(data), self._apply_counts)]

    def _count(self, data: TrainingSet) -> Mapping[str, Tensor]:
        counts = data.item_counts()
        if self.config.window_days is not None:
            times = data.column("timestamp")
            recent = times > times.max() - self.config.window_days * _DAY
            counts = np.bincount(data.items[recent], minlength=self.n_items)
        return {"counts": torch.from_numpy(counts.astype(np.float32))}

    def _apply_counts(self, product: Mapping[str, Tensor]) -> None:
        self.counts = product["counts"].to(self.device)

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """The counts, for everybody: [B, N], or [B, C] for given `items`."""
        if items is not None:
            return self.counts[items]
        return self.counts.repeat(len(queries), 1)
