from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.data import Dataset, Queries, TrainingSet
from tastemaker.errors import DataError
from tastemaker.models.collaborative.ease import EASE
from tests.models.toys import (
    all_queries,
    assert_hidden_item_first,
    checkerboard,
    fitted,
    random_matrix,
    training_set,
)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_columns_are_ridge_regressions_on_all_other_columns(precision):
    X = random_matrix(60, 50).astype(np.float64)
    model = fitted(EASE, training_set(X), regularization=5.0, precision=precision)
    B = model.weights.double().numpy()
    assert np.abs(np.diag(B)).max() == 0
    for j in range(50):
        others = np.delete(np.arange(50), j)
        A = X[:, others]
        expected = np.linalg.solve(A.T @ A + 5.0 * np.eye(49), A.T @ X[:, j])
        np.testing.assert_allclose(B[others, j], expected, atol=1e-6)


def test_scores_are_the_history_times_the_weights():
    X = random_matrix()
    data = training_set(X)
    model = fitted(EASE, data, regularization=5.0)
    expected = X @ model.weights.numpy()
    for queries in (all_queries(data), all_queries(data).anonymous()):
        np.testing.assert_allclose(model.score(queries).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_hidden_items_of_the_checkerboard_come_first():
    data = training_set(checkerboard())
    assert_hidden_item_first(fitted(EASE, data, regularization=1.0), data)


def test_an_empty_history_is_answered_by_counts():
    data = training_set(random_matrix())
    scores = fitted(EASE, data).score(Queries.from_histories([[], [1, 1], [1]]))
    np.testing.assert_array_equal(scores[0].numpy(), data.item_counts())
    assert torch.equal(scores[1], scores[2])


def test_a_catalog_beyond_memory_is_refused_before_any_work():
    n_items = 1_000_000
    dataset = Dataset.from_frame(
        pl.DataFrame({"user": [0, 0, 1], "item": [0, 1, 1]}),
        user="user",
        item="item",
        items=pl.DataFrame({"item": np.arange(n_items)}),
        item_id="item",
        name="wide",
    )
    model = EASE.create({}, dataset)
    with pytest.raises(DataError, match=r"EASE needs 24000 GB for 1,000,000 items.*k-core"):
        model.stages(TrainingSet.whole(dataset))
