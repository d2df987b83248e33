"""Small data with known answers for the tests of single methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch

from tastemaker.data import Dataset, Queries, TrainingSet
from tastemaker.models.base import Recommender
from tastemaker.training import fit


def training_set(matrix: np.ndarray, *, times: np.ndarray | None = None) -> TrainingSet:
    """The training set whose matrix is `matrix` [U, N] of 0/1, user and item codes as there.

    The rows of a user are in the order of the columns; `times` [R] gives each row a timestamp.
    """
    n_users, n_items = matrix.shape
    every = np.arange(max(n_users, n_items))  # a log that fixes the codes: first come, first coded
    log = {"user": every.clip(max=n_users - 1), "item": every.clip(max=n_items - 1)}
    dataset = Dataset.from_frame(
        pl.DataFrame(log if times is None else {**log, "time": every + 1_600_000_000}),
        user="user",
        item="item",
        timestamp=None if times is None else "time",
        name="toy",
    )
    columns = {} if times is None else {"timestamp": times}
    dataset = dataset.with_interactions(*np.nonzero(matrix), columns)
    data = TrainingSet.whole(dataset)
    np.testing.assert_array_equal(data.matrix().toarray(), matrix)
    return data


def random_matrix(
    n_users: int = 60, n_items: int = 50, density: float = 0.2, *, seed: int = 0
) -> np.ndarray:
    """A 0/1 matrix [U, N] float32 in which everybody has two items, and some items are popular."""
    generator = np.random.default_rng(seed)
    popularity = generator.uniform(0.2, 1.8, n_items) * density
    matrix = (generator.random((n_users, n_items)) < popularity).astype(np.float32)
    matrix[np.arange(n_users), np.arange(n_users) % n_items] = 1.0
    matrix[np.arange(n_users), (np.arange(n_users) + 1) % n_items] = 1.0
    return matrix


def checkerboard(size: int = 50) -> np.ndarray:
    """User u took every item of u's colour but item u: the one that must come first."""
    codes = np.arange(size)
    return ((codes[:, None] % 2 == codes % 2) & (codes[:, None] != codes)).astype(np.float32)


def fitted(kind: type[Recommender], data: TrainingSet, *, seed: int = 0, **settings: Any) -> Any:
    """A model of that class, trained on the CPU."""
    model = kind.create(settings, data.dataset, seed=seed)
    fit(model, data, seed=seed, device="cpu")
    return model


def all_queries(data: TrainingSet) -> Queries:
    """Every user of the training set, known, with the history the model was trained on."""
    return Queries(np.arange(data.n_users), data.histories())


def first_items(model: Recommender, data: TrainingSet, *, anonymous: bool) -> np.ndarray:
    """The best item that each user has not taken, [U]."""
    queries = all_queries(data)
    if anonymous:
        queries = queries.anonymous()
    return model.recommend(queries, 1, exclude=queries.histories.items).items[:, 0].numpy()


def assert_hidden_item_first(model: Recommender, data: TrainingSet) -> None:
    """On the checkerboard each user, known or not, is recommended the one hidden item."""
    for anonymous in (False, True):
        found = first_items(model, data, anonymous=anonymous)
        np.testing.assert_array_equal(found, np.arange(data.n_users))


def rank_agreement(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean Spearman correlation of the rows of two score tables [B, N]."""
    ranks = [table.argsort(1).argsort(1).double() for table in (first, second)]
    centred = [table - table.mean(1, keepdim=True) for table in ranks]
    norms = centred[0].norm(dim=1) * centred[1].norm(dim=1)
    return float(((centred[0] * centred[1]).sum(1) / norms).mean())
