from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from tastemaker.data import Queries, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.models.collaborative.bpr_mf import BPRMF
from tastemaker.models.collaborative.factors import fold_in_pairwise, item_moments
from tastemaker.training import Batch
from tests.models.toys import (
    all_queries,
    assert_hidden_item_first,
    checkerboard,
    fitted,
    random_matrix,
    rank_agreement,
    training_set,
)

QUICK = {"epochs": 60, "learning_rate": 0.02, "batch_size": 256, "hidden_size": 8, "monitor": None}


def test_loss_is_that_of_the_paper():
    model = BPRMF.create({"regularization": 0.5}, training_set(random_matrix()).dataset)
    triples = [(0, 3, [5, 9]), (7, 1, [2, 30])]
    users, positives, negatives = (torch.tensor(part) for part in zip(*triples, strict=True))
    batch = Batch({"users": users, "positives": positives, "negatives": negatives})
    U, V = model.user_embedding.weight, model.item_embedding.weight
    terms = []
    for user, positive, drawn in triples:
        for negative in drawn:
            u, i, j = U[user], V[positive], V[negative]
            penalty = 0.5 * 0.5 * (u @ u + i @ i + j @ j)
            terms.append(-logsigmoid(u @ i - u @ j) + penalty)
    loss = model.loss(batch)
    torch.testing.assert_close(loss.value, torch.stack(terms).mean())
    assert loss.weight == 2


def test_shared_loss_is_that_of_its_triples():
    """Every user with every negative of the batch that they do not know."""
    settings = {"regularization": 0.5, "negatives": "shared"}
    model = BPRMF.create(settings, training_set(random_matrix()).dataset)
    users, positives, negatives = torch.tensor([0, 7]), torch.tensor([3, 1]), torch.tensor([5, 30])
    unknown = torch.tensor([[True, True], [False, True]])
    batch = Batch(
        {"users": users, "positives": positives, "unknown": unknown}, {"negatives": negatives}
    )
    U, V = model.user_embedding.weight, model.item_embedding.weight
    triples = [(0, 3, 5), (0, 3, 30), (7, 1, 30)]
    ranking = torch.stack([-logsigmoid(U[u] @ V[i] - U[u] @ V[j]) for u, i, j in triples]).mean()
    rows = (U[users], V[positives], V[negatives])
    penalty = 0.5 * 0.5 * sum(part.square().sum(1).mean() for part in rows)
    loss = model.loss(batch)
    torch.testing.assert_close(loss.value, ranking + penalty)
    assert loss.weight == 2


@pytest.mark.parametrize("negatives", ["own", "shared"])
def test_gradients_repeat_on_several_threads(negatives):
    data = training_set(random_matrix(300, 200))
    settings = {"negatives": negatives, "num_negatives": 4, "batch_size": 8192, "hidden_size": 64}
    model = BPRMF.create(settings, data.dataset)
    batches = model.objectives(data)[0].batches
    generator = np.random.default_rng(0)
    batch = batches.gather(batches.plan(generator)[0], generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, *rest = (
            torch.autograd.grad(model.loss(batch).value, list(model.parameters())) for _ in range(8)
        )
    finally:
        torch.set_num_threads(threads)
    for other in rest:
        assert all(torch.equal(*pair) for pair in zip(first, other, strict=True))


def test_fold_in_is_the_newton_step_of_the_users_own_loss():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    history, regularization = [1, 4, 8], 0.05

    def loss(u: torch.Tensor) -> torch.Tensor:
        scores = table @ u
        pairs = -logsigmoid(scores[history][:, None] - scores)  # every item as the negative
        return pairs.mean() + 0.5 * regularization * u @ u

    zero = torch.zeros(4, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(loss, zero)
    curvature = torch.autograd.functional.hessian(loss, zero)
    expected = -torch.linalg.solve(curvature, slope)
    rows = Ragged.from_lists([history, [0]])
    found = fold_in_pairwise(table, item_moments(table), rows, regularization)
    torch.testing.assert_close(found[0], expected)


def test_fold_in_ranks_like_the_learned_user():
    data = training_set(random_matrix(120, 40, seed=2))
    model = fitted(BPRMF, data, **QUICK)
    queries = all_queries(data)
    agreement = rank_agreement(model.score(queries), model.score(queries.anonymous()))
    assert agreement > 0.85, f"Spearman correlation {agreement:.3f}"


@pytest.mark.parametrize("negatives", ["own", "shared"])
def test_hidden_items_of_the_checkerboard_come_first(negatives):
    data = training_set(checkerboard())
    settings = {"hidden_size": 4, "num_negatives": 4, "negatives": negatives}
    model = fitted(BPRMF, data, **QUICK | settings)
    assert_hidden_item_first(model, data)


def test_users_without_interactions_and_empty_histories_get_the_average_user():
    X = random_matrix(60, 30)
    X[[5, 17]] = 0.0
    dataset = training_set(random_matrix(60, 30)).dataset
    dataset = dataset.with_interactions(*np.nonzero(X), {})
    data = TrainingSet.whole(dataset)
    model = fitted(BPRMF, data, **QUICK)
    average = model.score(Queries.from_histories([[]]))[0]
    unseen = Queries(np.array([5, 17]), all_queries(data).histories.take(np.array([5, 17])))
    for scores in model.score(unseen):
        torch.testing.assert_close(scores, average)
    correlation = np.corrcoef(average.numpy(), data.item_counts())[0, 1]
    assert correlation > 0.6, "the average user does not follow popularity"


def test_what_is_derived_from_the_weights_is_forgotten_when_they_change():
    data = training_set(random_matrix())
    model = fitted(BPRMF, data, **QUICK | {"epochs": 2})
    queries = all_queries(data).anonymous()
    before = model.score(queries)
    assert torch.equal(model.score(queries), before)
    model.train()
    with torch.no_grad():
        model.item_embedding.weight.mul_(3.0)
    trained = model.score(queries)
    assert torch.equal(model.eval().score(queries), trained)
    assert not torch.allclose(trained, before)
    other = fitted(BPRMF, data, seed=1, **QUICK | {"epochs": 2})
    expected = other.score(queries)
    assert torch.equal(model.load_state(other.state()).score(queries), expected)


@pytest.mark.parametrize("users", [[0, -1, 3, -1], [-1, -1, -1, -1], [1, 2, 3, 4]])
def test_known_and_unknown_users_mix_in_a_batch(users):
    data = training_set(random_matrix())
    model = fitted(BPRMF, data, **QUICK | {"epochs": 2})
    mixed = Queries(np.array(users), all_queries(data).histories.take(np.array([0, 1, 3, 9])))
    together = model.score(mixed)
    for row in range(4):
        alone = model.score(mixed.take(slice(row, row + 1)))[0]
        torch.testing.assert_close(together[row], alone)
        if users[row] >= 0:
            learned = model.user_embedding.weight[users[row]] @ model.item_embedding.weight.T
            torch.testing.assert_close(together[row], learned.detach())
