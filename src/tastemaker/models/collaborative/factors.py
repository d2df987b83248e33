"""What methods with one vector per user and item share: dot products, and users they never saw.

A query with a known user is answered by that user's learned vector, one with a history alone by
a vector computed from the history (fold-in), and one with neither by the average learned user,
which ranks items about as popularity does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.data import Dataset
from tastemaker.data.queries import Queries, Ragged
from tastemaker.models.base import ModelConfig, Recommender
from tastemaker.models.collaborative.histories import distinct
from tastemaker.models.collaborative.least_squares import solve_least_squares

__all__ = ["Factors", "fill_unseen", "fold_in_pairwise", "item_moments"]


class Factors(Recommender):
    """Base of methods that score by the dot product of a user vector and an item vector.

    A subclass gives the two tables and the fold-in, and sets `average_user` when its training
    ends (`fill_unseen`).
    """

    average_user: Tensor  # [D] float32, mean vector of the users that have interactions

    def __init__(self, config: ModelConfig, dataset: Dataset, width: int) -> None:
        super().__init__(config, dataset)
        self.register_buffer("average_user", torch.zeros(width))
        self._cache: dict[str, Any] = {}

    @abstractmethod
    def user_vectors(self) -> Tensor:
        """[n_users, D] float32."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """[N, D] float32."""

    @abstractmethod
    def fold_in(self, histories: Ragged) -> Tensor:
        """User vectors from histories of distinct items, [B, D] float32; none of them is empty."""

    @torch.no_grad()
    def query_vectors(self, queries: Queries) -> Tensor:
        """The user vector that answers each query, [B, D] float32."""
        users = torch.from_numpy(queries.users).to(self.device)
        vectors = self.user_vectors()[users.clamp(min=0)]
        if (queries.users < 0).any():
            vectors[users < 0] = self.average_user
            lengths = queries.histories.items.lengths
            folded = np.flatnonzero((queries.users < 0) & (lengths > 0))
            if len(folded):
                histories = distinct(queries.histories.items.take(folded), self.n_items)
                rows = torch.from_numpy(folded).to(self.device)
                vectors[rows] = self.fold_in(histories).to(vectors.dtype)
        return vectors

    @torch.no_grad()
    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Dot products: [B, N], or [B, C] for given `items`."""
        vectors, table = self.query_vectors(queries), self.item_vectors()
        if items is None:
            return vectors @ table.T
        return torch.einsum("bd,bcd->bc", vectors, table[items])

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        """A value derived from the weights, kept until they can change; made anew in training."""
        if self.training:
            return make()
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    def train(self, mode: bool = True) -> Self:
        """Switch mode and forget what was derived from the weights."""
        self._cache.clear()
        return super().train(mode)

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take over a stored state and forget what was derived from the old one."""
        self._cache.clear()
        return super().load_state(state)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._cache.clear()  # derived tensors do not follow the weights to another device
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved


def fill_unseen(table: Tensor, seen: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Give users without interactions, who have learned nothing, the mean of those with some.

    Args:
        table: [n_users, D] user vectors.
        seen: [n_users] whether the user has training interactions.

    Returns:
        The filled table, a new tensor, and the mean vector [D].
    """
    mask = torch.from_numpy(seen).to(table.device)
    average = table[mask].mean(0)
    return torch.where(mask[:, None], table, average), average


def item_moments(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of the item vectors, the law of a uniform negative."""
    mean = table.mean(0)
    centred = table - mean
    return mean, centred.T @ centred / len(table)


def fold_in_pairwise(
    table: Tensor, moments: tuple[Tensor, Tensor], histories: Ragged, regularization: float
) -> Tensor:
    """User vectors that minimise the BPR loss to second order, the items held fixed.

    For a history H the loss of u is the mean over i in H and over negatives j of
    softplus(-u.(v_i - v_j)) + regularization |u|^2 / 2. With softplus(-x) = log 2 - x/2 + x^2/8
    the minimum solves (C + C_H + 4 regularization I) u = 2 (m_H - m), where m and C are the mean
    and covariance of all items, m_H is the mean of H and C_H the second moment of H about m.

    Args:
        table: [N, D] float item vectors.
        moments: `item_moments(table)`.
        histories: B rows of distinct items, none empty.
        regularization: weight of |u|^2 / 2 per pair, positive. One history is less evidence than
            all of them: it wants more than training does.

    Returns:
        [B, D] float32. Cost: D^2 per event and D^3 per row.
    """
    mean, covariance = moments
    lengths = torch.from_numpy(histories.lengths).to(table)
    ridge = 4 * regularization * lengths
    return 2 * solve_least_squares(table - mean, histories, covariance, lengths, ridge)
