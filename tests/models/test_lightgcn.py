from __future__ import annotations

import numpy as np
import torch

from tastemaker.data import TrainingSet
from tastemaker.models.collaborative.bpr_mf import BPRMF
from tastemaker.models.collaborative.lightgcn import LightGCN
from tastemaker.training import Batch, GradientStage, fit
from tests.models.toys import (
    all_queries,
    assert_hidden_item_first,
    checkerboard,
    fitted,
    random_matrix,
    rank_agreement,
    training_set,
)

QUICK = {"epochs": 40, "learning_rate": 0.02, "batch_size": 256, "hidden_size": 8, "monitor": None}


def test_without_layers_it_is_exactly_bpr_mf():
    data = training_set(random_matrix())
    shared = {**QUICK, "epochs": 3, "regularization": 0.01, "num_negatives": 2}
    lightgcn, bpr_mf = fitted(LightGCN, data, num_layers=0, **shared), fitted(BPRMF, data, **shared)
    queries = all_queries(data)
    for asked in (queries, queries.anonymous()):  # equal up to the order of float32 sums
        torch.testing.assert_close(lightgcn.score(asked), bpr_mf.score(asked), rtol=1e-4, atol=1e-6)


def test_vectors_are_the_mean_of_the_dense_propagation():
    X = random_matrix(20, 15)
    data = training_set(X)
    model = LightGCN.create({"num_layers": 3, "hidden_size": 4}, data.dataset)
    model.stages(data)
    A = np.block([[np.zeros((20, 20)), X], [X.T, np.zeros((15, 15))]])
    degrees = A.sum(1)
    scale = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees, 1)), 0)
    A = scale[:, None] * A * scale
    E = torch.cat([model.user_embedding.weight, model.item_embedding.weight]).detach().numpy()
    expected = (E + A @ E + A @ A @ E + A @ A @ A @ E) / 4
    users, items = model.propagated()
    np.testing.assert_allclose(users.detach(), expected[:20], atol=1e-6)
    np.testing.assert_allclose(items.detach(), expected[20:], atol=1e-6)


def test_permuting_users_permutes_scores():
    X = random_matrix()
    order = np.random.default_rng(4).permutation(len(X))
    first, second = training_set(X), training_set(X[order])
    settings = {"num_layers": 2, "hidden_size": 8}
    model, permuted = (LightGCN.create(settings, data.dataset) for data in (first, second))
    with torch.no_grad():
        permuted.item_embedding.weight.copy_(model.item_embedding.weight)
        permuted.user_embedding.weight.copy_(model.user_embedding.weight[torch.from_numpy(order)])
    model.stages(first)
    permuted.stages(second)
    scores, moved = (
        model.eval().score(all_queries(first)),
        permuted.eval().score(all_queries(second)),
    )
    torch.testing.assert_close(moved, scores[torch.from_numpy(order)], rtol=1e-5, atol=1e-7)


def test_the_penalty_is_on_layer_0_rows():
    data = training_set(random_matrix())
    batch = Batch(
        {
            "users": torch.tensor([0, 3]),
            "positives": torch.tensor([1, 2]),
            "negatives": torch.tensor([[5], [6]]),
        }
    )
    plain, penalised = (
        LightGCN.create({"regularization": weight, "num_layers": 2}, data.dataset, seed=5)
        for weight in (0.0, 1.0)
    )
    for model in (plain, penalised):
        model.stages(data)
    rows = [
        plain.user_embedding.weight[[0, 3]],
        plain.item_embedding.weight[[1, 2]],
        plain.item_embedding.weight[[5, 6]],
    ]
    expected = sum(part.square().sum() for part in rows) / 2 / 2
    difference = penalised.loss(batch).value - plain.loss(batch).value
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-6)


def test_propagation_is_cached_for_answers_and_forgotten_in_training():
    data = training_set(random_matrix())
    model = LightGCN.create({"num_layers": 2, **QUICK}, data.dataset)
    stage = model.stages(data)[0]
    assert isinstance(stage, GradientStage)
    model.eval()
    assert model.item_vectors() is model.item_vectors()
    before = model.item_vectors().clone()
    model.train()
    with torch.no_grad():
        model.item_embedding.weight.add_(1.0)
    model.eval()
    assert not torch.equal(model.item_vectors(), before)


def test_answers_need_no_graph():
    data = training_set(random_matrix())
    model = fitted(LightGCN, data, num_layers=2, **QUICK | {"epochs": 2})
    users, items = model.users.clone(), model.items.clone()
    loaded = LightGCN.create(
        {"num_layers": 2, **QUICK}, data.dataset.without_interactions(), seed=9
    )
    loaded.load_state(model.state()).eval()
    queries = all_queries(data)
    assert torch.equal(loaded.score(queries), users @ items.T)
    assert torch.equal(loaded.score(queries.anonymous()), model.score(queries.anonymous()))


def test_a_second_fit_learns_from_the_new_data():
    first, second = training_set(random_matrix()), training_set(random_matrix(seed=8))
    model = fitted(LightGCN, first, num_layers=1, **QUICK | {"epochs": 2})
    before = model.users.clone()
    data = TrainingSet.whole(
        first.dataset.with_interactions(*np.nonzero(second.matrix().toarray()), {})
    )
    fit(model, data, device="cpu")
    assert not torch.equal(model.users, before)
    model.eval()
    assert model.item_vectors() is model.items


def test_hidden_items_of_the_checkerboard_come_first():
    data = training_set(checkerboard())
    model = fitted(LightGCN, data, num_layers=2, **QUICK)
    assert_hidden_item_first(model, data)


def test_fold_in_ranks_like_the_learned_user():
    data = training_set(random_matrix(120, 40, seed=2))
    model = fitted(LightGCN, data, num_layers=2, **QUICK)
    queries = all_queries(data)
    agreement = rank_agreement(model.score(queries), model.score(queries.anonymous()))
    assert agreement > 0.85, f"Spearman correlation {agreement:.3f}"
