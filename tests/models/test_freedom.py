from __future__ import annotations

import numpy as np
import pytest
import torch

from tastemaker.data import TrainingSet
from tastemaker.errors import ConfigError, MissingNeedError
from tastemaker.losses.pairwise import bpr
from tastemaker.models.collaborative.lightgcn import LightGCN
from tastemaker.models.multimodal import freedom
from tastemaker.models.multimodal.freedom import FREEDOM
from tastemaker.training import Batch, ComputeStage, fit
from tastemaker.training.artifacts import artifact_path
from tests.models.modalities import featured, published
from tests.models.toys import all_queries, fitted, random_matrix, training_set

SMALL = {
    "features": "column:shape",
    "hidden_size": 8,
    "num_neighbours": 4,
    "batch_size": 64,
    "learning_rate": 0.01,
    "epochs": 3,
    "monitor": None,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path / "cache"))


def under_way(data, **settings) -> FREEDOM:
    """A model whose computations are done and whose training has not begun."""
    model = FREEDOM.create({**SMALL, **settings}, data.dataset)
    for stage in model.stages(data):
        if isinstance(stage, ComputeStage) and stage.name != "propagate":
            stage.apply(stage.compute())
    return model


def test_the_item_graph_is_frozen_and_has_k_equal_entries_a_row():
    data = featured()
    model = under_way(data)
    graph = model.item_graph()[0].to_dense()
    assert torch.equal((graph > 0).sum(1), torch.full((30,), 4))
    torch.testing.assert_close(graph[graph > 0], torch.full((120,), 0.25))
    assert (graph.diagonal() > 0).all()
    groups = torch.arange(30) % 5
    assert (groups[graph.nonzero()[:, 0]] == groups[graph.nonzero()[:, 1]]).all()
    assert not any("item_" in name for name, _ in model.named_parameters() if "emb" not in name)
    before = [buffer.clone() for buffer in (model.item_columns, model.item_values)]
    seen = []

    def look(record):
        if record["stage"] == "fit":
            seen.append((trained.item_columns.clone(), trained.item_values.clone()))

    trained = FREEDOM.create(SMALL, data.dataset)
    fit(trained, data, device="cpu", listeners=[look])
    assert len(seen) == 3
    for columns, values in seen:
        assert torch.equal(columns, before[0])
        assert torch.equal(values, before[1])


def test_the_item_graph_is_built_once_for_the_same_features(monkeypatch):
    data, calls = featured(), []
    whole = freedom.neighbour_graph

    def counted(*args, **kwargs):
        calls.append(args)
        return whole(*args, **kwargs)

    monkeypatch.setattr(freedom, "neighbour_graph", counted)
    fitted(FREEDOM, data, **SMALL)
    fitted(FREEDOM, data, **SMALL, seed=1)
    assert len(calls) == 1
    fitted(FREEDOM, featured(noise=True), **SMALL)  # other features: another graph
    assert len(calls) == 2
    paths = {
        artifact_path(FREEDOM.create({**SMALL, **other}, data.dataset).stages(data)[0])
        for other in ({}, {"num_neighbours": 5}, {"features": "column:sound"})
    }
    assert len(paths) == 3


def test_without_its_three_parts_it_is_exactly_lightgcn():
    data = featured()
    shared = {
        key: value for key, value in SMALL.items() if key not in ("features", "num_neighbours")
    }
    shared |= {"num_layers": 2, "regularization": 1e-3}
    without = {"pruning": 0, "num_item_layers": 0, "modality_weight": 0}
    without |= {"features": SMALL["features"]}  # which are then not looked at
    found = fitted(FREEDOM, data, **shared, **without)
    expected = fitted(LightGCN, data, **shared)
    queries = all_queries(data)
    for asked in (queries, queries.anonymous()):
        assert torch.equal(found.score(asked), expected.score(asked))


def test_every_epoch_draws_another_part_of_the_interactions():
    data = featured()
    n_edges = len(np.unique(data.users * 30 + data.items))
    drawn = []

    def look(record):
        if record["stage"] == "fit":
            drawn.append(model.kept.clone())

    model = FREEDOM.create({**SMALL, "pruning": 0.7}, data.dataset)
    fit(model, data, device="cpu", listeners=[look])
    for kept in drawn:
        assert len(kept) == int(n_edges * 0.3)
        assert (kept.diff() > 0).all()
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_vectors_are_the_dense_transcription():
    data = featured()
    model = under_way(data, num_layers=2, num_item_layers=2, pruning=0.5)
    kept = torch.arange(0, len(model.kept), 2)
    model.kept, model._pruned = kept, None
    pairs = np.unique(data.users * 30 + data.items)
    users, items = model.user_embedding.weight, model.item_embedding.weight
    S = model.item_graph()[0].to_dense()
    for training, chosen in ((True, pairs[kept]), (False, pairs)):
        A = torch.zeros(70, 70)
        A[chosen // 30, 40 + chosen % 30] = 1
        A = A + A.T
        scale = torch.where(A.sum(1) > 0, A.sum(1).clamp(min=1).rsqrt(), 0.0)
        A = scale[:, None] * A * scale
        E = torch.cat([users, items])
        mean = (E + A @ E + A @ A @ E) / 3
        found_users, found_items = model.train(training).propagated()
        torch.testing.assert_close(found_users, mean[:40], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found_items, mean[40:] + S @ S @ items, rtol=1e-4, atol=1e-6)


def test_answers_do_not_depend_on_the_drawn_interactions():
    data = featured()
    model = under_way(data, pruning=0.5).eval()
    queries = all_queries(data)
    scores = []
    for seed in (0, 1):
        drawn = np.random.default_rng(seed).choice(len(model._weights), 50, replace=False)
        model.train()
        model.kept, model._pruned = torch.from_numpy(np.sort(drawn)), None
        model.propagated()
        scores.append(model.eval().score(queries))
    assert torch.equal(scores[0], scores[1])


def test_the_loss_adds_bpr_on_mapped_features():
    data = featured()
    sources = ("column:shape", "column:sound")
    model = under_way(data, features=sources, modality_weight=0.5, pruning=0)
    batch = Batch(
        {
            "users": torch.tensor([0, 3, 5]),
            "positives": torch.tensor([1, 2, 4]),
            "negatives": torch.tensor([[5], [6], [7]]),
        }
    )
    users, items = model.propagated()
    u = users[[0, 3, 5]]
    expected = bpr((u * items[[1, 2, 4]]).sum(1), (u * items[[5, 6, 7]]).sum(1)[:, None])
    for modality, width in zip(model.modalities, (6, 3), strict=True):
        assert modality.table.shape == (30, width)
        mapped = modality.table @ modality.weight + modality.bias
        ranking = bpr((u * mapped[[1, 2, 4]]).sum(1), (u * mapped[[5, 6, 7]]).sum(1)[:, None])
        expected = expected + 0.5 * ranking
    found = model.loss(batch).value
    torch.testing.assert_close(found, expected)
    found.backward()
    for modality in model.modalities:
        for name, value in modality.named_parameters():
            assert (value.grad != 0).any() or name == "bias", name  # a bias cancels in BPR


def test_frozen_features_stay_as_they_are():
    data, seen = featured(), []

    def look(record):
        if record["stage"] == "fit":
            seen.append(model.modalities[0].table.detach().clone())

    for moves in (True, False):
        seen.clear()
        model = FREEDOM.create({**SMALL, "train_features": moves}, data.dataset)
        fit(model, data, device="cpu", listeners=[look])
        assert torch.equal(seen[0], seen[-1]) is not moves


def test_features_are_let_go_when_training_ends():
    data = featured()
    model = fitted(FREEDOM, data, **SMALL)
    assert sum(value.numel() for value in model.modalities.parameters()) == 0
    assert max(len(model.kept), len(model.item_values)) == 0
    loaded = FREEDOM.create(SMALL, data.dataset.without_interactions(), seed=9)
    loaded.load_state(model.state()).eval()
    queries = all_queries(data)
    assert torch.equal(loaded.score(queries), model.score(queries))


def test_training_interrupted_within_an_epoch_goes_on_with_its_graph(tmp_path):
    data = featured()

    class Interrupted(Exception):
        pass

    straight = FREEDOM.create(SMALL, data.dataset, seed=2)
    fit(straight, data, seed=2, device="cpu")
    broken = FREEDOM.create(SMALL, data.dataset, seed=2)
    whole, calls = broken.loss, []

    def loss(batch):
        calls.append(len(batch))
        if len(calls) == 7:  # the second epoch has begun
            raise Interrupted
        return whole(batch)

    broken.loss = loss
    with pytest.raises(Interrupted):
        fit(broken, data, seed=2, device="cpu", folder=tmp_path, checkpoint_seconds=0)
    again = FREEDOM.create(SMALL, data.dataset, seed=2)
    fit(again, data, seed=2, device="cpu", folder=tmp_path)
    for name, value in straight.state().items():
        assert torch.equal(value, again.state()[name]), name


def test_items_without_features_have_no_neighbours():
    for source in ("column:shape", "text:hashing"):
        data = featured(missing=(3, 8, 13))
        model = under_way(data, features=source)
        graph = model.item_graph()[0].to_dense()
        for item in (3, 8, 13):
            assert graph[item, item] == 1
            assert graph[:, item].sum() == 1
        assert graph.isfinite().all()
        model = fitted(FREEDOM, data, **{**SMALL, "features": source})
        assert model.score(all_queries(data)).isfinite().all()


def test_like_items_place_those_that_nobody_took():
    """Users take one group of five; the second half of the items has features alone."""
    generator = np.random.default_rng(1)
    matrix = np.zeros((60, 40), np.float32)
    for user in range(60):
        matrix[user, generator.choice(np.arange(user % 5, 20, 5), 3, replace=False)] = 1
    own = torch.from_numpy(np.arange(20, 40) % 5 == np.arange(60)[:, None] % 5)
    settings = {**SMALL, "epochs": 10, "learning_rate": 0.02, "pruning": 0.3, "num_neighbours": 8}
    ranks = []
    for noise in (False, True):
        data = featured(matrix, noise=noise)
        scores = fitted(FREEDOM, data, **settings).score(all_queries(data))[:, 20:]
        order = scores.argsort(1, descending=True).argsort(1)
        ranks.append(float(order[own].float().mean()))  # 1.5 at best, 9.5 at random
    assert ranks[0] < 2.5, f"mean rank of the own group {ranks[0]:.2f} of 20"
    assert ranks[1] > 6, f"features without meaning place them at {ranks[1]:.2f}"


def test_what_it_refuses():
    bare = training_set(random_matrix())
    model = FREEDOM.create({"features": "text:hashing"}, bare.dataset)
    with pytest.raises(MissingNeedError, match="add a text column"):
        model.stages(bare)
    with pytest.raises(ConfigError, match="2 weights for 1 features"):
        FREEDOM.create({**SMALL, "feature_weights": (0.1, 0.9)}, featured().dataset)


def test_two_given_modalities_of_real_data():
    dataset = published("tiktok-sample")
    data = TrainingSet.whole(dataset)
    sources = ("column:acoustic", "column:visual")
    model = fitted(
        FREEDOM,
        data,
        **{**SMALL, "features": sources, "feature_weights": (0.9, 0.1), "num_neighbours": 10},
    )
    assert model.score(all_queries(data)).isfinite().all()
    stage = FREEDOM.create({"features": sources}, dataset).stages(data)[0]
    graph = stage.compute()
    sums = torch.segment_reduce(
        graph["item_values"], "sum", lengths=graph["item_offsets"].long().diff()
    )
    torch.testing.assert_close(sums, torch.ones(1651))
