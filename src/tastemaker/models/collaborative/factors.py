"""What methods with one vector per user and item share: dot products, and users they never saw.

A query with a known user is answered by that user's learned vector, one with a history alone by
a vector computed from the history (fold-in), and one with neither by the average learned user,
which ranks items about as popularity does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Queries, Ragged
from tastemaker.losses.pairwise import batch_l2, bpr
from tastemaker.models.base import GradientConfig, ModelConfig, Recommender, settings
from tastemaker.models.collaborative.least_squares import solve_least_squares
from tastemaker.training.batches import PairBatches
from tastemaker.training.stages import Batch, ComputeStage, GradientStage, Loss, Objective, Stage

__all__ = [
    "Factors",
    "GraphFactors",
    "PairwiseConfig",
    "PairwiseFactors",
    "fill_unseen",
    "fold_in_pairwise",
    "item_moments",
]


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
                histories = queries.histories.items.take(folded).distinct(self.n_items)
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


@settings
class PairwiseConfig(GradientConfig):
    """Settings of methods that train vectors on triples; methods override the defaults."""

    hidden_size: int = Field(default=64, ge=1)  # width of the vectors
    num_negatives: int = Field(default=1, ge=1)  # negatives per positive
    regularization: float = Field(default=1e-4, ge=0)  # L2 weight of a triple's rows
    fold_in_regularization: float = Field(default=0.05, gt=0)  # L2 of an unseen user (ours)
    init_std: float = Field(default=0.1, gt=0)  # of the initial entries (LightGCN code)
    batch_size: int = Field(default=2048, ge=1)  # positives
    validate_every: int = Field(default=5, ge=1)  # epochs between validations (ours)
    precision: Literal["float32", "bf16", "fp16", "auto"] = "float32"  # small sums (ours)


class PairwiseFactors(Factors):
    """Base of methods that learn a vector per user and item from (user, item, other item).

    The vectors that scores come from are those of `propagated`, here the tables themselves. Of a
    subclass, `batch_vectors` and `triple_loss` are what adversarial training takes apart.
    """

    config: PairwiseConfig

    def __init__(self, config: PairwiseConfig, dataset: Dataset, width: int | None = None) -> None:
        """`width` is that of the propagated vectors, by default `hidden_size`."""
        super().__init__(config, dataset, width or config.hidden_size)
        self.user_embedding = nn.Embedding(dataset.n_users, config.hidden_size)
        self.item_embedding = nn.Embedding(dataset.n_items, config.hidden_size)
        nn.init.normal_(self.user_embedding.weight, std=config.init_std)
        nn.init.normal_(self.item_embedding.weight, std=config.init_std)

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """Pairwise training, then the vector for users without interactions."""
        seen = data.histories().items.lengths > 0
        return [
            GradientStage("fit", self.objectives(data), **self.config.schedule()),
            ComputeStage("average-user", lambda: self._average(seen), self._keep),
        ]

    def objectives(self, data: TrainingSet) -> list[Objective]:
        """What the gradient stage minimises: the triple loss on every interaction."""
        config = self.config
        batches = PairBatches.of(data, config.batch_size, num_negatives=config.num_negatives)
        return [Objective("bpr", self.loss, batches, config.optimizer())]

    @property
    def shares_negatives(self) -> bool:
        """Whether the positives of a batch have the same negatives, [K] in place of [B, K]."""
        return False

    def propagated(self) -> tuple[Tensor, Tensor]:
        """The vectors of all users [n_users, W] and items [N, W] that scores come from."""
        return self.user_embedding.weight, self.item_embedding.weight

    def batch_vectors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of `propagated` of a batch of triples.

        Args:
            batch: rows `users` and `positives` [B] and `negatives` [B, K], or [K] if shared, int64.

        Returns:
            [B, W], [B, W] and [B, K, W], or [K, W], float.
        """
        users, items = self.propagated()
        return (  # not by indexing, whose gradient several threads add up in any order
            F.embedding(batch["users"], users),
            F.embedding(batch["positives"], items),
            F.embedding(batch["negatives"], items),
        )

    def triple_loss(
        self, users: Tensor, positives: Tensor, negatives: Tensor, batch: Batch
    ) -> Loss:
        """BPR of the given vectors (shapes of `batch_vectors`) plus the penalty of the batch."""
        ranking = bpr((users * positives).sum(-1), (users[:, None] * negatives).sum(-1))
        penalty = self.config.regularization * self.penalty(users, positives, negatives, batch)
        return Loss(ranking + penalty, len(users), {"bpr": ranking.detach()})

    def penalty(self, users: Tensor, positives: Tensor, negatives: Tensor, batch: Batch) -> Tensor:
        """The L2 penalty of a batch: that of the vectors themselves."""
        del batch
        return batch_l2(users, positives, negatives)

    def loss(self, batch: Batch) -> Loss:
        """The triple loss of a batch."""
        return self.triple_loss(*self.batch_vectors(batch), batch)

    @torch.no_grad()
    def _average(self, seen: NDArray[np.bool_]) -> Mapping[str, Tensor]:
        users, average = fill_unseen(self.user_embedding.weight, seen)
        return {"users": users, "average_user": average}

    @torch.no_grad()
    def _keep(self, product: Mapping[str, Tensor]) -> None:
        self.user_embedding.weight.copy_(product["users"])
        self.average_user = product["average_user"].to(self.device)

    def user_vectors(self) -> Tensor:
        """[n_users, W] float32."""
        return self.user_embedding.weight

    def item_vectors(self) -> Tensor:
        """[N, W] float32."""
        return self.item_embedding.weight

    def fold_in(self, histories: Ragged) -> Tensor:
        """The user's own BPR minimum given the items, to second order."""
        table = self.item_vectors().detach()
        moments = self.cached("moments", lambda: item_moments(table))
        return fold_in_pairwise(table, moments, histories, self.config.fold_in_regularization)


class GraphFactors(PairwiseFactors):
    """Base of pairwise methods whose vectors pass over graphs made from the training data.

    A subclass makes its graphs in `prepare` and uses them in `propagated`. The propagated vectors
    are kept with the model when training ends, so answering needs no graph.
    """

    users: Tensor  # [n_users, W] float32 propagated vectors; [0, W] until training ends
    items: Tensor  # [N, W] float32, likewise

    def __init__(self, config: PairwiseConfig, dataset: Dataset, width: int | None = None) -> None:
        super().__init__(config, dataset, width)
        width = width or config.hidden_size
        self.register_buffer("users", torch.zeros(0, width))
        self.register_buffer("items", torch.zeros(0, width))

    @abstractmethod
    def prepare(self, data: TrainingSet) -> None:
        """Make the graphs of the training data, on the model's device."""

    def release(self) -> None:
        """Drop the graphs, once the propagated vectors are kept."""

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """Pairwise training on the graphs, then the propagated vectors."""
        self.prepare(data)
        self.users, self.items = self.users[:0], self.items[:0]  # until training ends
        seen = data.histories().items.lengths > 0
        return [
            GradientStage("fit", self.objectives(data), **self.config.schedule()),
            ComputeStage("propagate", lambda: self._average(seen), self._keep),
        ]

    def penalty(self, users: Tensor, positives: Tensor, negatives: Tensor, batch: Batch) -> Tensor:
        """The L2 penalty of a batch: that of the rows before propagation."""
        del users, positives, negatives
        return batch_l2(
            self.user_embedding(batch["users"]),
            self.item_embedding(batch["positives"]),
            self.item_embedding(batch["negatives"]),
        )

    @torch.no_grad()
    def _average(self, seen: NDArray[np.bool_]) -> Mapping[str, Tensor]:
        users, items = self.propagated()
        users, average = fill_unseen(users, seen)
        return {"users": users, "items": items, "average_user": average}

    def _keep(self, product: Mapping[str, Tensor]) -> None:
        for name, value in product.items():
            setattr(self, name, value.to(self.device))
        self.release()

    @torch.no_grad()
    def _vectors(self) -> tuple[Tensor, Tensor]:
        if len(self.users):
            return self.users, self.items
        vectors: tuple[Tensor, Tensor] = self.cached("propagated", self.propagated)
        return vectors

    def user_vectors(self) -> Tensor:
        """[n_users, W] float32, propagated."""
        return self._vectors()[0]

    def item_vectors(self) -> Tensor:
        """[N, W] float32, propagated."""
        return self._vectors()[1]


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
