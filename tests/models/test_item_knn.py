from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from tastemaker.data import Queries
from tastemaker.models.collaborative import item_knn
from tastemaker.models.collaborative.item_knn import ItemKNN
from tests.models.toys import (
    all_queries,
    assert_hidden_item_first,
    checkerboard,
    fitted,
    random_matrix,
    training_set,
)


def dense_similarities(X: np.ndarray, measure: str, shrink: float) -> np.ndarray:
    """S of the definition, entry by entry, diagonal zero."""
    n_items = X.shape[1]
    S = np.zeros((n_items, n_items))
    for i in range(n_items):
        for j in range(n_items):
            if i == j:
                continue
            match measure:
                case "dot":
                    S[i, j] = X[:, i] @ X[:, j]
                case "cosine":
                    norms = np.linalg.norm(X[:, i]) * np.linalg.norm(X[:, j])
                    S[i, j] = X[:, i] @ X[:, j] / (norms + shrink)
                case "pearson":
                    a, b = X[:, i] - X[:, i].mean(), X[:, j] - X[:, j].mean()
                    S[i, j] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + shrink)
    return S


def keep_best(S: np.ndarray, k: int) -> np.ndarray:
    """The k largest positive entries of each column, the rest zero."""
    kept = np.zeros_like(S)
    for j in range(S.shape[1]):
        best = np.argsort(-S[:, j], kind="stable")[:k]
        best = best[S[best, j] > 0]
        kept[best, j] = S[best, j]
    return kept


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("measure", ["cosine", "dot", "pearson"])
def test_scores_are_the_history_times_the_kept_similarities(measure, normalize, monkeypatch):
    monkeypatch.setattr(item_knn, "_BLOCK", 170)  # blocks of three items
    X = random_matrix()
    data = training_set(X)
    settings = {"similarity": measure, "shrink": 2.0, "normalize": normalize}
    n_items = X.shape[1]
    model = fitted(ItemKNN, data, num_neighbors=n_items, **settings)
    S = keep_best(dense_similarities(X, measure, 2.0), n_items)
    if normalize:
        S /= np.maximum(S.sum(1, keepdims=True), 1e-12)
    found = model.score(all_queries(data)).numpy()
    np.testing.assert_allclose(found, X @ S, rtol=1e-5, atol=1e-6)


def test_each_scored_item_keeps_its_nearest():
    data = training_set(random_matrix(200, 30, seed=3))
    model = fitted(ItemKNN, data, num_neighbors=4, shrink=0.37)
    # A history of item i alone shows row i of S.
    S = model.score(Queries.from_histories([[item] for item in range(30)])).numpy()
    full = dense_similarities(data.matrix().toarray(), "cosine", 0.37)
    np.testing.assert_allclose(S[S > 0], full[S > 0], rtol=1e-5)
    # Which of two equal neighbours is kept is free; their values are not.
    np.testing.assert_allclose(np.sort(S, 0), np.sort(keep_best(full, 4), 0), rtol=1e-5)


def test_pearson_is_the_correlation_of_the_columns():
    X = random_matrix(seed=1)
    counts = X.sum(0).astype(np.float64)
    found = item_knn.similarity(X.T @ X, counts[:, None], counts, len(X), "pearson", 0.0)
    for i, j in [(0, 1), (3, 7), (20, 40)]:
        expected = stats.pearsonr(X[:, i], X[:, j]).statistic
        assert found[i, j] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_best_of_rows_are_those_of_a_sort(k):
    rows = [[], [3.0], [1.0, 5.0, 2.0], [0.5], list(np.random.default_rng(0).random(37))]
    offsets = np.cumsum([0, *map(len, rows)])
    values = np.concatenate([np.array(row) for row in rows])
    found = item_knn.best_of_rows(values, offsets, k)
    expected = [sorted(row)[::-1][:k] for row in rows]
    row_of = np.searchsorted(offsets, found, side="right") - 1
    assert [sorted(values[found[row_of == b]])[::-1] for b in range(len(rows))] == expected


def test_repeated_events_count_once():
    model = fitted(ItemKNN, training_set(random_matrix()))
    once, twice = (model.score(Queries.from_histories([row])) for row in ([3, 8], [8, 3, 8, 3]))
    assert torch.equal(once, twice)


def test_an_empty_history_is_answered_by_counts():
    data = training_set(random_matrix())
    model = fitted(ItemKNN, data)
    scores = model.score(Queries.from_histories([[], [4]]))
    np.testing.assert_array_equal(scores[0].numpy(), data.item_counts())
    assert not torch.equal(scores[0], scores[1])


def test_hidden_items_of_the_checkerboard_come_first():
    data = training_set(checkerboard())
    assert_hidden_item_first(fitted(ItemKNN, data, shrink=0.0), data)


def test_similar_items_are_those_of_the_own_colour():
    model = fitted(ItemKNN, training_set(checkerboard(20)))
    found = model.similar(np.array([4, 7]), 9).items.numpy()
    assert set(found[0]) == set(range(0, 20, 2)) - {4}
    assert set(found[1]) == set(range(1, 20, 2)) - {7}
