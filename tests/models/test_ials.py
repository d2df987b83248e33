from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tastemaker.data import Queries, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.models.collaborative import least_squares
from tastemaker.models.collaborative.ials import IALS, csr_tensor, improve
from tastemaker.models.collaborative.least_squares import solve_least_squares
from tastemaker.training import TrainingError
from tests.models.toys import (
    all_queries,
    assert_hidden_item_first,
    checkerboard,
    fitted,
    random_matrix,
    training_set,
)

LAMBDA, A0 = 0.01, 0.3


def objective(X: np.ndarray, U: np.ndarray, V: np.ndarray) -> float:
    """The loss of the paper, every pair written out."""
    n_users, n_items = X.shape
    scores = U @ V.T
    observed = (X * (1 - scores) ** 2).sum()
    everywhere = A0 * (scores**2).sum()
    users = ((X.sum(1) + A0 * n_items) * (U**2).sum(1)).sum()
    items = ((X.sum(0) + A0 * n_users) * (V**2).sum(1)).sum()
    return float(observed + everywhere + LAMBDA * (users + items))


def weighted_normal_equations(X: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Each user's regression with a weight per item, solved densely: no Gramian is shared."""
    solutions = []
    for row in X:
        weights = np.diag(row + A0)
        ridge = LAMBDA * (row.sum() + A0 * X.shape[1])
        system = V.T @ weights @ V + ridge * np.eye(V.shape[1])
        solutions.append(np.linalg.solve(system, V.T @ row))
    return np.array(solutions)


def ridge_of(X: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(LAMBDA * (X.sum(1) + A0 * X.shape[1]))


def toy() -> tuple[TrainingSet, np.ndarray]:
    data = training_set(random_matrix(40, 30))
    return data, data.matrix().toarray().astype(np.float64)


def model_of(data: TrainingSet, **settings: float) -> IALS:
    return fitted(IALS, data, regularization=LAMBDA, unobserved_weight=A0, **settings)


def test_learned_users_solve_the_dense_weighted_normal_equations():
    data, X = toy()
    model = model_of(data, hidden_size=8, epochs=3)
    expected = weighted_normal_equations(X, model.items.double().numpy())
    np.testing.assert_allclose(model.users.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_fold_in_of_a_training_history_is_the_learned_user():
    data, _ = toy()
    model = model_of(data, hidden_size=8)
    queries = all_queries(data)
    known, folded = model.score(queries), model.score(queries.anonymous())
    torch.testing.assert_close(folded, known, rtol=1e-5, atol=1e-6)


def test_each_half_step_lowers_the_objective():
    data, X = toy()
    generator = np.random.default_rng(0)
    U, V = (torch.from_numpy(generator.normal(size=(n, 6))) for n in X.shape)
    by_user = csr_tensor(data.matrix(), torch.device("cpu")).double()
    by_item = csr_tensor(data.matrix().T.tocsr(), torch.device("cpu")).double()
    losses = [objective(X, U.numpy(), V.numpy())]
    for _ in range(6):
        U = improve(by_user, U, V, A0, ridge_of(X), steps=2)
        losses.append(objective(X, U.numpy(), V.numpy()))
        V = improve(by_item, V, U, A0, ridge_of(X.T), steps=2)
        losses.append(objective(X, U.numpy(), V.numpy()))
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_as_many_steps_as_dimensions_solve_the_equations():
    data, X = toy()
    V = torch.from_numpy(np.random.default_rng(1).normal(size=(30, 6)))
    by_user = csr_tensor(data.matrix(), torch.device("cpu")).double()
    start = torch.zeros(40, 6, dtype=torch.float64)
    found = improve(by_user, start, V, A0, ridge_of(X), steps=6)
    np.testing.assert_allclose(found, weighted_normal_equations(X, V.numpy()), atol=1e-9)


def test_full_rank_without_regularisation_reconstructs_the_shrunk_matrix():
    X = random_matrix(12, 10)
    data = training_set(X)
    settings = {"hidden_size": 10, "epochs": 200, "cg_steps": 20, "unobserved_weight": 0.5}
    model = fitted(IALS, data, regularization=1e-6, init_std=1.0, **settings)
    scores = model.score(all_queries(data)).numpy()
    np.testing.assert_allclose(scores, X / 1.5, atol=5e-3)


@pytest.mark.parametrize("width", [5, 32])
def test_least_squares_blocks_equal_single_solves(width, monkeypatch):
    generator = np.random.default_rng(2)
    lengths = generator.integers(0, 40, 70)
    rows = Ragged.from_lengths(generator.integers(0, 50, lengths.sum()), lengths)
    table = torch.from_numpy(generator.normal(size=(50, width)))
    shared = table.T @ table / 50
    scale, ridge = (torch.from_numpy(generator.uniform(0.5, 2, 70)) for _ in range(2))
    monkeypatch.setattr(least_squares, "_BLOCK_ITEMS", 64)
    found = solve_least_squares(table, rows, shared, scale, ridge)
    for index in range(70):
        V = table[rows.row(index)]
        system = V.T @ V + scale[index] * shared + ridge[index] * torch.eye(width)
        torch.testing.assert_close(found[index], torch.linalg.solve(system, V.sum(0)))


def test_singular_systems_are_an_error_not_nan():
    table, rows = torch.ones(2, 3), Ragged.from_lists([[0, 1]])
    zeros = torch.zeros(3, 3)
    with pytest.raises(TrainingError, match="larger regularisation"):
        solve_least_squares(table, rows, zeros, torch.ones(1), torch.zeros(1))


def test_users_without_a_history_get_the_average_user():
    data, _ = toy()
    model = model_of(data, hidden_size=8)
    scores = model.score(Queries.from_histories([[]]))
    torch.testing.assert_close(scores, (model.users.mean(0) @ model.items.T)[None])
    correlation = np.corrcoef(scores[0].numpy(), data.item_counts())[0, 1]
    assert correlation > 0.9, "the average user does not follow popularity"


def test_hidden_items_of_the_checkerboard_come_first():
    data = training_set(checkerboard())
    settings = {"hidden_size": 4, "regularization": 0.01, "unobserved_weight": 0.1}
    assert_hidden_item_first(fitted(IALS, data, **settings), data)
