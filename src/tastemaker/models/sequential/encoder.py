"""What methods share that turn a history into one vector and score items by dot products.

Histories become rows of item codes, right padded with N (the catalog size), so that every row
starts at position 0; a row of the item table stands for each code, the last one for padding. The
users' own codes are ignored: everybody is answered from a history.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from tastemaker.data import Dataset
from tastemaker.data.queries import Queries, Ragged
from tastemaker.errors import ConfigError
from tastemaker.models.base import ModelConfig, Need, Recommender
from tastemaker.training.stages import Batch

__all__ = ["CausalRecommender", "SequentialRecommender", "refuse_uneven_heads"]

_TOKENS = 1 << 15  # positions encoded at once when scoring


def refuse_uneven_heads(hidden_size: int, num_heads: int) -> None:
    """Raise `ConfigError` when the heads do not divide the width."""
    if hidden_size % num_heads:
        raise ConfigError(
            f"setting 'num_heads': {num_heads} does not divide hidden_size, {hidden_size}; "
            "choose a divisor"
        )


class SequentialRecommender(Recommender):
    """Base of methods with an item table and an encoder of histories.

    A subclass gives `encode` and `encode_last`, and may add an `item_bias`.

    Attributes:
        max_length: events of a history that are looked at, the most recent ones.
        item_embeddings: [N + special tokens, D] table; row N is the zero padding.
        item_bias: [N] parameter added to the scores, or `None`.
    """

    needs = frozenset({Need.ORDER})
    item_bias: nn.Parameter | None

    def __init__(
        self,
        config: ModelConfig,
        dataset: Dataset,
        *,
        width: int,
        max_length: int,
        special_tokens: int = 1,
    ) -> None:
        super().__init__(config, dataset)
        self.max_length = max_length
        self.item_embeddings = nn.Embedding(
            self.n_items + special_tokens, width, padding_idx=self.n_items
        )
        self.item_bias = None

    @abstractmethod
    def encode(self, items: Tensor) -> Tensor:
        """States at every position: [B, L] int64 right padded to [B, L, D] float."""

    @abstractmethod
    def encode_last(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The state that predicts what follows each row.

        Args:
            items: [B, L] int64, right padded; at most `max_length` events a row.
            lengths: [B] int64, 0 for an empty history.

        Returns:
            [B, D] float.
        """

    @torch.no_grad()
    def user_vectors(self, queries: Queries) -> Tensor:
        """The vector whose dot products with `item_vectors` are the scores, [B, D] float32.

        Rows are encoded in blocks of similar length, so padding costs little.
        """
        histories = queries.histories.items
        lengths = np.minimum(histories.lengths, self.max_length)
        order = np.argsort(lengths, kind="stable")
        vectors = torch.empty(len(queries), self.item_embeddings.embedding_dim, device=self.device)
        stop = len(order)
        while stop > 0:  # from the longest to the shortest
            width = max(int(lengths[order[stop - 1]]), 1)
            rows = order[max(0, stop - max(1, _TOKENS // width)) : stop]
            stop -= len(rows)
            items, block_lengths = self._dense(histories.take(rows, last=width), width)
            encoded = self.encode_last(items, block_lengths)
            vectors[torch.from_numpy(rows).to(self.device)] = encoded.float()
        return vectors

    def _dense(self, histories: Ragged, width: int) -> tuple[Tensor, Tensor]:
        items = torch.from_numpy(histories.padded(width, self.n_items)).to(self.device)
        return items, torch.from_numpy(histories.lengths).to(self.device)

    @torch.no_grad()
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Dot products of user and item vectors, plus the item bias: [B, N] or [B, C]."""
        vectors, table = self.user_vectors(queries), self.item_vectors()
        if items is None:
            scores = vectors @ table.T
            return scores if self.item_bias is None else scores + self.item_bias
        scores = torch.einsum("bd,bcd->bc", vectors, table[items])
        return scores if self.item_bias is None else scores + self.item_bias[items]

    def item_vectors(self) -> Tensor:
        """[N, D] float32."""
        return self.item_embeddings.weight[: self.n_items]


class CausalRecommender(SequentialRecommender):
    """Base of methods whose state after each event predicts the next one.

    A learned vector `start` stands before the first event. It answers empty histories, and
    learns by predicting the first event of every training row: one target more a row, which
    leaves the states after events as they are in the papers.

    Attributes:
        start: [D] parameter.
    """

    def __init__(
        self, config: ModelConfig, dataset: Dataset, *, width: int, max_length: int
    ) -> None:
        super().__init__(config, dataset, width=width, max_length=max_length)
        self.start = nn.Parameter(torch.zeros(width))

    def encode_last(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The state at the last event, or `start` where there is none."""
        states = self.encode(items)  # [B, L, D]
        last = states[torch.arange(len(items), device=items.device), (lengths - 1).clamp(min=0)]
        return torch.where((lengths > 0)[:, None], last, self.start.to(last.dtype))

    def next_item_states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The state before every target of a batch, the first event of each row included.

        Args:
            batch: rows `items` and `targets`, [B, L] int64 each.

        Returns:
            States [B, 1 + L, D] (the start, then the state after each event) and the targets
            [B, 1 + L] int64, N where there is none.
        """
        items = batch["items"]
        states = self.encode(items)
        start = self.start.to(states.dtype).expand(len(items), 1, -1)
        return torch.cat([start, states], 1), torch.cat([items[:, :1], batch["targets"]], 1)
