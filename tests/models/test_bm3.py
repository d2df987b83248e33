from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tastemaker.data import TrainingSet
from tastemaker.models.multimodal.bm3 import BM3
from tastemaker.training import Batch, ComputeStage, fit
from tests.models.modalities import featured, published
from tests.models.toys import all_queries, checkerboard, fitted, random_matrix, rank_agreement

SMALL = {
    "features": "column:shape",
    "hidden_size": 8,
    "batch_size": 64,
    "learning_rate": 0.01,
    "epochs": 3,
    "monitor": None,
}
LONGER = {**SMALL, "epochs": 20, "batch_size": 128, "learning_rate": 0.02}
BATCH = {
    "users": torch.tensor([0, 3, 5, 5]),
    "positives": torch.tensor([1, 2, 4, 7]),
    "negatives": torch.zeros(4, 0, dtype=torch.int64),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path / "cache"))


def under_way(data, **settings) -> BM3:
    """A model whose features are there and whose training has not begun."""
    model = BM3.create({**SMALL, **settings}, data.dataset)
    for stage in model.stages(data):
        if isinstance(stage, ComputeStage) and stage.name != "propagate":
            stage.apply(stage.compute())
    return model


def missed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """1 - the mean cosine, written out."""
    return 1 - (first * second).sum(1).div(first.norm(dim=1) * second.norm(dim=1)).mean()


def test_the_loss_without_dropout_is_the_transcription():
    data = featured()
    sources = ("column:shape", "column:sound")
    model = under_way(data, dropout=0, features=sources, modality_weight=0.7, norm_weight=0.3)
    users, items = model.representations()
    P = model.predictor
    h_u, h_i = users[BATCH["users"]], items[BATCH["positives"]]
    expected = missed(P(h_u), h_i) + missed(P(h_i), h_u)
    for modality in model.modalities:
        m = (modality.table @ modality.weight + modality.bias)[BATCH["positives"]]
        expected = expected + 0.7 * (missed(P(m), h_i) + missed(P(m), m))
    norms = users.square().sum().sqrt() + items.square().sum().sqrt()
    expected = expected + 0.3 * norms / 30
    torch.testing.assert_close(model.loss(Batch(BATCH)).value, expected)


def test_items_have_their_own_table_added_and_users_do_not():
    X = random_matrix(40, 30)
    model = under_way(featured(X), num_layers=1)
    A = torch.zeros(70, 70)
    A[:40, 40:], A[40:, :40] = torch.from_numpy(X), torch.from_numpy(X.T)
    scale = torch.where(A.sum(1) > 0, A.sum(1).clamp(min=1).rsqrt(), 0.0)
    E = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    mean = (E + scale[:, None] * A * scale @ E) / 2
    users, items = model.representations()
    torch.testing.assert_close(users, mean[:40], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(items, mean[40:] + E[40:], rtol=1e-4, atol=1e-6)
    scores = model.eval().score(all_queries(featured(X)))
    torch.testing.assert_close(scores, model.predictor(users) @ model.predictor(items).T)


def test_targets_get_no_gradient_and_every_term_moves_the_predictor():
    data = featured()
    model = under_way(data)
    users = torch.randn(4, 8, requires_grad=True)
    positives = torch.randn(4, 8, requires_grad=True)
    nothing = positives.new_zeros(4, 0, 8)
    batch = Batch(BATCH)
    # one term at a time: the predictor stands still, so what moves is a prediction
    alone = under_way(data, modality_weight=0)
    alone.triple_loss(users, positives, nothing, batch).value.backward()
    first = [users.grad.clone(), positives.grad.clone()]
    assert (alone.predictor.weight.grad != 0).any()
    users.grad = positives.grad = None
    alone.predictor.requires_grad_(False)
    target = alone.eval()._target(users)
    assert not target.requires_grad
    assert all((gradient != 0).any() for gradient in first)  # as predictions they have one
    model.triple_loss(users.detach(), positives.detach(), nothing, batch).value.backward()
    (modality,) = model.modalities
    for value in (*modality.parameters(), model.predictor.weight, model.predictor.bias):
        assert (value.grad != 0).any()


def test_with_the_identity_as_predictor_and_no_dropout_features_predict_themselves():
    model = under_way(featured(), dropout=0)
    with torch.no_grad():
        model.predictor.weight.copy_(torch.eye(8))
        model.predictor.bias.zero_()
    (modality,) = model.modalities
    latent = modality(BATCH["positives"])
    own = missed(model.predictor(latent), model._target(latent))
    torch.testing.assert_close(own, torch.tensor(0.0), rtol=0, atol=1e-6)
    users, items, nothing = model.batch_vectors(Batch(BATCH))
    parts = model.triple_loss(users, items, nothing, Batch(BATCH)).parts
    torch.testing.assert_close(parts["features"], missed(latent, items))


def test_no_negative_is_looked_at():
    data = featured()
    model = under_way(data)
    losses = []
    for negatives in (
        BATCH["negatives"],
        torch.tensor([[0]] * 4),
        torch.tensor([[9], [8], [3], [2]]),
    ):
        torch.manual_seed(0)  # dropout of the targets
        losses.append(model.loss(Batch({**BATCH, "negatives": negatives})).value)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    (objective,) = model.objectives(data)
    drawn = objective.batches.gather(np.arange(9), np.random.default_rng(0))["negatives"]
    assert drawn.shape == (9, 0)


def test_without_weight_features_change_nothing():
    queries = all_queries(featured())
    scores = [
        fitted(BM3, data, **{**SMALL, "modality_weight": 0, "features": source}).score(queries)
        for data, source in (
            (featured(), ()),
            (featured(), "column:shape"),
            (featured(noise=True), "column:shape"),
        )
    ]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
    with_them = fitted(BM3, featured(), **SMALL).score(queries)
    assert not torch.equal(scores[0], with_them)


def test_vectors_do_not_collapse_and_users_find_their_half():
    """On the checkerboard users take items of their own colour; half of all pairs are alike."""
    data = featured(checkerboard())
    model = fitted(BM3, data, **LONGER)
    unit = F.normalize(model.targets, dim=1)
    cosines = (unit @ unit.T)[~torch.eye(50, dtype=torch.bool)]
    assert cosines.mean() < 0.7, f"mean cosine {cosines.mean():.2f}"
    queries = all_queries(data)
    same = torch.from_numpy(np.arange(50)[:, None] % 2 == np.arange(50) % 2)
    for asked in (queries, queries.anonymous()):
        scores = model.score(asked)
        assert scores[same].mean() > scores[~same].mean()
        best = scores.topk(20, dim=1).indices
        assert (best % 2 == torch.arange(50)[:, None] % 2).double().mean() > 0.95


def test_fold_in_ranks_like_the_learned_user():
    data = featured(random_matrix(120, 40, seed=2))
    model = fitted(BM3, data, **LONGER)
    queries = all_queries(data)
    agreement = rank_agreement(model.score(queries), model.score(queries.anonymous()))
    assert agreement > 0.85, f"Spearman correlation {agreement:.3f}"


def test_two_given_modalities_of_real_data():
    dataset = published("tiktok-sample")
    data = TrainingSet.whole(dataset)
    sources = ("column:acoustic", "column:visual")
    model = BM3.create({**SMALL, "features": sources}, dataset)
    result = fit(model, data, device="cpu")
    losses = [record["loss"] for record in result.records if "loss" in record]
    assert losses[-1] < losses[0]
    assert model.score(all_queries(data)).isfinite().all()
