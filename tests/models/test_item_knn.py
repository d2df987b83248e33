from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from tastemaker.data import Queries
from tastemaker.models.collaborative import cooccurrence, item_knn
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


@pytest.mark.parametrize("dear", [0, 10**9])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("measure", ["cosine", "dot", "pearson"])
def test_scores_are_the_history_times_the_kept_similarities(measure, normalize, dear, monkeypatch):
    monkeypatch.setattr(cooccurrence, "_DENSE", dear)  # never dense, or always
    monkeypatch.setattr(cooccurrence, "_WIDTH", 7)
    monkeypatch.setattr(cooccurrence, "_PAIRS", 170)  # blocks of about three items
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


@pytest.mark.parametrize("dear", [0, 10**9])
def test_each_scored_item_keeps_its_nearest(dear, monkeypatch):
    monkeypatch.setattr(cooccurrence, "_DENSE", dear)
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
    together, counts = torch.from_numpy(X.T @ X), torch.from_numpy(X.sum(0))
    found = item_knn.similarity(together, counts[:, None], counts, len(X), "pearson", 0.0)
    for i, j in [(0, 1), (3, 7), (20, 40)]:
        expected = stats.pearsonr(X[:, i], X[:, j]).statistic
        assert float(found[i, j]) == pytest.approx(expected, abs=1e-6)


def test_items_nobody_took_have_no_neighbours():
    X = random_matrix(60, 40, seed=2)
    X[:, [0, 17, 39]] = 0.0
    scores = fitted(ItemKNN, training_set(X)).score(Queries.from_histories([[3, 8], [17]]))
    assert scores[0].count_nonzero() > 0
    assert scores[0, [0, 17, 39]].count_nonzero() == 0
    assert scores[1].count_nonzero() == 0


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
