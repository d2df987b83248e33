"""What methods with one weight per pair of items share: a query is the set of its items.

They learn nothing about users, so known users are answered from their histories like everybody
else, and an empty history is answered by item counts.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.data import Dataset
from tastemaker.data.queries import Queries, Ragged
from tastemaker.layers.selection import top_k
from tastemaker.models.base import ModelConfig, Recommender, TopK

__all__ = ["ItemToItem"]


class ItemToItem(Recommender):
    """Base of methods that add up, over the items of a history, weights towards every item."""

    counts: Tensor  # [N] float32 training interactions of each item

    def __init__(self, config: ModelConfig, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.register_buffer("counts", torch.zeros(dataset.n_items))

    @abstractmethod
    def add_up(self, histories: Ragged) -> Tensor:
        """The summed weights of histories of distinct items, [B, N] float32, a new tensor."""

    @torch.no_grad()
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Summed weights: [B, N], or [B, C] for given `items`."""
        scores = self.add_up(queries.histories.items.distinct(self.n_items))
        empty = np.flatnonzero(queries.histories.items.lengths == 0)
        if len(empty):
            scores[torch.from_numpy(empty).to(scores.device)] = self.counts
        return scores if items is None else scores.gather(1, items)

    @torch.inference_mode()
    def similar(self, items: NDArray[np.int64], k: int) -> TopK:
        """The k items that a history of one of `items` alone recommends."""
        scores = self.add_up(Ragged.from_lengths(items, np.ones(len(items), np.int64)))
        chosen = torch.from_numpy(items).to(scores.device)
        scores[torch.arange(len(chosen), device=scores.device), chosen] = -torch.inf
        return TopK(*top_k(scores, min(k, self.n_items), chosen))
