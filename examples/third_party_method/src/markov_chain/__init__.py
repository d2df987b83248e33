"""Factorised Markov chain: the next item is guessed from the last item alone.

Paper: Rendle et al., Factorizing personalized Markov chains for next-basket recommendation, WWW
2010; the chain without its personal part.

What we changed: a softmax over the catalog in place of the pairwise loss, and a bias per item,
which also answers empty histories.

Cost: 2 N D floats; O(T N D) for an epoch over T targets, O(N D) for a query.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, Queries, TrainingSet
from tastemaker.losses.softmax import chunked_softmax
from tastemaker.models.base import GradientConfig, Need, Recommender, settings
from tastemaker.models.search import Choice, LogUniform
from tastemaker.training.batches import SequenceBatches
from tastemaker.training.stages import Batch, GradientStage, Loss, Objective

__all__ = ["MarkovChain"]


class MarkovChain(Recommender):
    """Scores an item by the product of its vector with that of the last item."""

    @settings
    class Config(GradientConfig):
        """Settings of the factorised Markov chain."""

        hidden_size: int = Field(default=64, ge=1)  # width of the item vectors (paper, sec. 6)
        max_length: int = Field(default=200, ge=1)  # most recent events learned from (ours)

    config: Config
    needs = frozenset({Need.ORDER})
    search = {"hidden_size": Choice((32, 64, 128)), "learning_rate": LogUniform(3e-4, 1e-2)}

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        width, padding = config.hidden_size, self.n_items
        self.last = nn.Embedding(self.n_items + 1, width, padding_idx=padding)
        self.following = nn.Embedding(self.n_items, width)
        self.bias = nn.Parameter(torch.zeros(self.n_items))
        with torch.no_grad():
            self.last.weight[:padding].normal_(std=0.02)
            self.following.weight.normal_(std=0.02)

    def stages(self, data: TrainingSet) -> Sequence[GradientStage]:
        """One gradient stage over all pairs of neighbouring events."""
        config = self.config
        batches = SequenceBatches.of(data, config.max_length, config.batch_size)
        objective = Objective("next-item", self.loss, batches, config.optimizer())
        return [GradientStage("fit", [objective], **config.schedule())]

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of each event given the one before it."""
        valid = batch["items"] != self.n_items  # [B, L]
        last, targets = batch["items"][valid], batch["targets"][valid]  # [T], [T]
        value = chunked_softmax(self.last(last), self.following.weight, targets, bias=self.bias)
        return Loss(value, valid.sum())

    @torch.no_grad()
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """[B, N] or [B, C]; the vector of an empty history is zero, which leaves the bias."""
        newest = torch.from_numpy(queries.histories.items.padded(1, self.n_items)[:, 0])
        states = self.last(newest.to(self.device))  # [B, D]
        if items is None:
            return states @ self.following.weight.T + self.bias
        return torch.einsum("bd,bcd->bc", states, self.following(items)) + self.bias[items]

    def item_vectors(self) -> Tensor:
        """[N, D]: items that follow the same items are similar."""
        return self.following.weight
