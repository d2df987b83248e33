from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from tastemaker.data import KnowledgeGraph, TrainingSet
from tastemaker.errors import ConfigError
from tastemaker.models.collaborative.bpr_mf import BPRMF
from tastemaker.models.knowledge.kgat import KGAT
from tastemaker.training import Batch, GradientStage, fit
from tests.models.toys import all_queries, fitted, random_matrix, training_set

SMALL = {
    "hidden_size": 8,
    "relation_size": 8,
    "layer_sizes": (8, 4),
    "batch_size": 64,
    "learning_rate": 0.01,
    "epochs": 3,
    "monitor": None,
}


def known(
    matrix: np.ndarray | None = None,
    *,
    links: int = 40,
    held_out: float = 0.0,
    shuffled: bool = False,
) -> tuple[TrainingSet, np.ndarray]:
    """A training set [60, 50] whose item i is of group i % 5, and triples of it left out.

    The first `links` items have an entity; each has one of ten makers, of whom two belong to its
    group, the group's genre and the group's land.

    Returns:
        The training set, and the triples left out as rows (head, relation, tail) of nodes.
    """
    data = training_set(random_matrix() if matrix is None else matrix)
    generator = np.random.default_rng(4)
    items = np.arange(links)
    tails = {
        "maker": [f"maker {5 * generator.integers(2) + item % 5}" for item in items],
        "genre": [f"genre {item % 5}" for item in items],
        "land": [f"land {item % 5}" for item in items],
    }
    heads = np.array([f"item {item}" for item in items] * 3)
    ends = np.concatenate([tails[name] for name in tails])
    kinds = np.repeat(list(tails), links)
    if shuffled:
        ends = generator.permutation(ends)
    out = generator.random(len(heads)) < held_out
    graph = KnowledgeGraph.build(
        pa.array(heads[~out]),
        pa.array(kinds[~out]),
        pa.array(ends[~out]),
        pa.array([f"item {item}" if item < links else None for item in range(50)]),
    )
    dataset = dataclasses.replace(data.dataset, knowledge=graph)
    node_of = np.full(graph.n_entities, -1)
    node_of[graph.item_entities[:links]] = 60 + np.arange(links)
    node_of[graph.others] = 60 + 50 + np.arange(len(graph.others))
    left = np.stack(
        [
            node_of[graph.entities.encode(heads[out])],
            1 + graph.relations.encode(kinds[out]),
            node_of[graph.entities.encode(ends[out])],
        ],
        axis=1,
    )
    return TrainingSet.whole(dataset), left


def test_without_layers_and_knowledge_it_is_exactly_bpr_mf():
    data, _ = known()
    shared = {"hidden_size": 8, "regularization": 0.01}
    plain = BPRMF.create(shared, data.dataset, seed=3)
    kgat = KGAT.create(
        {**shared, "layer_sizes": (), "attention": "fixed_rw", "translate": False},
        data.dataset,
        seed=3,
    )
    kgat.stages(data)
    generator = np.random.default_rng(0)
    (objective,) = kgat.objectives(data)
    batch = objective.batches.gather(np.arange(30), generator)
    for model in (plain, kgat):
        model.loss(batch).value.backward()
    assert torch.equal(kgat.loss(batch).value, plain.loss(batch).value)
    assert torch.equal(kgat.user_embedding.weight.grad, plain.user_embedding.weight.grad)
    assert torch.equal(kgat.item_embedding.weight.grad, plain.item_embedding.weight.grad)
    queries = all_queries(data)
    assert torch.equal(kgat.eval().score(queries), plain.eval().score(queries))


def test_the_start_is_bpr_mf():
    data, _ = known()
    shared = {"hidden_size": 8, "learning_rate": 0.02, "num_negatives": 2}
    plain = BPRMF.create({**shared, "regularization": 0.03}, data.dataset, seed=3)
    settings = {
        "pretrain_epochs": 5,
        "pretrain_regularization": 0.03,
        "pretrain_learning_rate": 0.02,
    }
    kgat = KGAT.create({**SMALL, **shared, "learning_rate": 0.01, **settings}, data.dataset, seed=3)
    first, *_ = kgat.stages(data)
    (objective,), (expected,) = first.objectives, plain.objectives(data)
    assert (first.name, first.epochs, objective.optimizer) == ("pretrain", 5, expected.optimizer)
    batch = objective.batches.gather(np.arange(30), np.random.default_rng(0))
    torch.testing.assert_close(objective.loss(batch).value, plain.loss(batch).value)
    assert len(objective.parameters()) == 2
    fit(kgat, data, device="cpu")
    assert kgat.score(all_queries(data)).isfinite().all()


def dense(model: KGAT, weights: torch.Tensor) -> torch.Tensor:
    """The matrix [M, M] of these edge weights."""
    edges = model._edges()
    matrix = torch.zeros(edges.n_nodes, edges.n_nodes)
    matrix.index_put_((edges.heads, edges.tails), weights, accumulate=True)
    return matrix


def test_rows_of_attention_sum_to_one_and_those_before_to_the_number_of_relations():
    data, _ = known()
    model = KGAT.create(SMALL, data.dataset)
    stage = model.stages(data)[0]
    assert isinstance(stage, GradientStage)
    graph = model._edges().graph
    relations = np.unique(np.stack([graph.heads, graph.relations]), axis=1)[0]
    expected = torch.from_numpy(np.bincount(relations, minlength=graph.n_nodes)).float()
    assert {1, 4} <= set(expected.tolist())  # users interact; linked items have three relations too
    torch.testing.assert_close(dense(model, model.attention).sum(1), expected)
    stage.before_epoch[0](_Moment(0))
    torch.testing.assert_close(dense(model, model.attention).sum(1), expected)
    stage.before_epoch[0](_Moment(1))
    sums = dense(model, model.attention).sum(1)
    torch.testing.assert_close(sums, (expected > 0).float(), rtol=0, atol=1e-5)


@dataclasses.dataclass
class _Moment:
    epoch: int
    step: int = 0
    generator: np.random.Generator = dataclasses.field(default_factory=np.random.default_rng)


def test_attention_and_readout_are_those_of_the_paper():
    data, _ = known()
    model = KGAT.create({**SMALL, "hidden_size": 6, "relation_size": 5}, data.dataset).eval()
    model.stages(data)
    graph = model._edges().graph
    nodes = model._nodes().detach()
    logits = torch.zeros(len(graph))
    for edge, (h, r, t) in enumerate(zip(graph.heads, graph.relations, graph.tails, strict=True)):
        W = model.projections[r].detach()
        step = model.relation_embedding.weight[r].detach()
        logits[edge] = (nodes[t] @ W) @ torch.tanh(nodes[h] @ W + step)
    attention = torch.zeros(len(graph))
    for node in np.unique(graph.heads):
        own = torch.from_numpy(graph.heads == node)
        attention[own] = torch.softmax(logits[own], 0)
    torch.testing.assert_close(model.edge_weights(), attention, rtol=1e-4, atol=1e-6)
    matrix, parts = dense(model, attention), [nodes]
    for layer in model.layers:
        near = matrix @ nodes
        total = F.leaky_relu((nodes + near) @ layer.linear.weight.T + layer.linear.bias, 0.2)
        product = (nodes * near) @ layer.interaction.weight.T + layer.interaction.bias
        nodes = total + F.leaky_relu(product, 0.2)
        parts.append(nodes / nodes.norm(dim=1, keepdim=True))
    expected = torch.cat(parts, dim=1)
    users, items = model.propagated()
    torch.testing.assert_close(users.detach(), expected[:60].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(items.detach(), expected[60:110].detach(), rtol=1e-4, atol=1e-5)


def test_the_readout_has_176_columns_and_normalised_layers():
    data, _ = known()
    model = KGAT.create({}, data.dataset)
    model.stages(data)
    for vectors in model.propagated():
        blocks = vectors.split([64, 64, 32, 16], dim=1)
        for block in blocks[1:]:
            torch.testing.assert_close(block.norm(dim=1), torch.ones(len(block)))
        assert (blocks[0].norm(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("aggregator", ["gcn", "graphsage"])
def test_other_aggregators(aggregator):
    data, _ = known()
    model = KGAT.create({**SMALL, "aggregator": aggregator}, data.dataset).eval()
    model.stages(data)
    nodes = model._nodes()
    near = dense(model, model.edge_weights()) @ nodes
    layer = model.layers[0]
    given = nodes + near if aggregator == "gcn" else torch.cat([nodes, near], dim=1)
    expected = F.leaky_relu(F.linear(given, layer.linear.weight, layer.linear.bias), 0.2)
    found = model.propagated()[0][:, 8:16]
    torch.testing.assert_close(found, F.normalize(expected[:60], dim=1), rtol=1e-4, atol=1e-5)


def test_translation_tells_true_triples_it_never_saw_from_corrupted_ones():
    data, left = known(links=50, held_out=0.2)
    assert len(left) > 15
    settings = {**SMALL, "epochs": 15, "learning_rate": 0.02, "batch_size": 128}
    model = KGAT.create(settings, data.dataset, seed=1)
    fit(model, data, seed=1, device="cpu")
    model.stages(data)  # the graph again
    heads, relations, tails = torch.from_numpy(left).T
    generator = torch.Generator().manual_seed(0)
    corrupted = torch.randint(model._edges().n_nodes, (200, len(left)), generator=generator)
    true = model.triple_distances(heads, relations, tails)
    wrong = torch.stack([model.triple_distances(heads, relations, row) for row in corrupted])
    assert true.mean() < wrong.mean()
    area = (true < wrong).double().mean()
    assert area > 0.8, f"AUC {area:.3f}"


def test_attention_learns_from_translation_alone():
    data, _ = known()
    model = KGAT.create(SMALL, data.dataset)
    model.stages(data)
    bpr, knowledge = model.objectives(data)
    batch = bpr.batches.gather(
        bpr.batches.plan(np.random.default_rng(0))[0], np.random.default_rng(0)
    )
    bpr.loss(batch).value.backward()
    assert model.projections.grad is None
    assert model.relation_embedding.weight.grad is None
    assert model.entity_embedding.weight.grad is not None
    own = {id(value) for value in bpr.parameters()}
    other = {id(value) for value in knowledge.parameters()}
    tables = (model.user_embedding, model.item_embedding, model.entity_embedding)
    assert own & other == {id(table.weight) for table in tables}
    assert own | other == {id(value) for value in model.parameters()}


def test_what_the_two_objectives_are_trained_on():
    data, _ = known()
    model = KGAT.create({**SMALL, "batch_size": 32}, data.dataset)
    model.stages(data)
    bpr, knowledge = model.objectives(data)
    generator = np.random.default_rng(0)
    plan = bpr.batches.plan(generator)
    assert len(plan) == len(data) // 32 + 1
    for rows in plan:
        users = bpr.batches.gather(rows, generator)["users"]
        assert len(users.unique()) == 32
    graph = model._edges().graph
    true = set(zip(graph.heads, graph.relations, graph.tails, strict=True))
    plan = knowledge.batches.plan(generator)
    assert len(plan) == len(graph) // knowledge.batches.batch_size + 1
    corrupted_nodes = set()
    for rows in plan:
        batch = knowledge.batches.gather(rows, generator)
        heads, relations, tails, wrong = (
            batch[name].tolist() for name in ("heads", "relations", "tails", "corrupted")
        )
        assert len(set(heads)) == len(heads)
        assert set(zip(heads, relations, tails, strict=True)) <= true
        assert not set(zip(heads, relations, wrong, strict=True)) & true
        corrupted_nodes |= set(wrong)
    assert min(corrupted_nodes) < 60  # users are corrupted tails, too
    assert max(corrupted_nodes) >= 110


def test_knowledge_places_items_that_nobody_took():
    """Users take one group of five; the last ten items have no interaction, only triples."""
    matrix = np.zeros((60, 50), np.float32)
    generator = np.random.default_rng(0)
    for user in range(60):
        own = np.arange(user % 5, 40, 5)
        matrix[user, generator.choice(own, 5, replace=False)] = 1
    settings = {**SMALL, "epochs": 15, "dropout": 0.0, "learning_rate": 0.02, "batch_size": 128}
    cold = np.arange(40, 50)
    ranks = []
    for shuffled in (False, True):
        data, _ = known(matrix, links=50, shuffled=shuffled)
        scores = fitted(KGAT, data, **settings).score(all_queries(data))[:, cold]
        own = torch.from_numpy(cold % 5 == np.arange(60)[:, None] % 5)
        order = scores.argsort(1, descending=True).argsort(1)
        ranks.append(float(order[own].float().mean()))  # 0.5 at best, 4.5 at random
    assert ranks[0] < 1.5, f"mean rank of cold items of the own group {ranks[0]:.2f} of 10"
    assert ranks[0] < ranks[1] - 1.5, f"shuffled triples place them at {ranks[1]:.2f}"


def test_training_interrupted_within_an_epoch_goes_on_with_its_attention(tmp_path):
    data, _ = known()
    settings = {**SMALL, "epochs": 3}

    class Interrupted(Exception):
        pass

    straight = KGAT.create(settings, data.dataset, seed=2)
    fit(straight, data, seed=2, device="cpu")
    broken = KGAT.create(settings, data.dataset, seed=2)
    whole, calls = broken.loss, []

    def loss(batch: Batch):
        calls.append(len(batch))
        if len(calls) == 15:  # the second epoch has begun
            raise Interrupted
        return whole(batch)

    broken.loss = loss
    with pytest.raises(Interrupted):
        fit(broken, data, seed=2, device="cpu", folder=tmp_path, checkpoint_seconds=0)
    again = KGAT.create(settings, data.dataset, seed=2)
    fit(again, data, seed=2, device="cpu", folder=tmp_path)
    for name, value in straight.state().items():
        assert torch.equal(value, again.state()[name]), name


def test_ablations_have_no_more_parameters_than_they_train():
    data, _ = known()
    bare = KGAT.create(
        {**SMALL, "use_triples": False, "translate": False, "attention": "fixed_rw"}, data.dataset
    )
    assert bare.entity_embedding.weight.numel() == 0
    assert not any("relation" in name or "proj" in name for name, _ in bare.named_parameters())
    alone = KGAT.create({**SMALL, "use_triples": False}, data.dataset)
    assert alone.projections.shape[0] == 2
    for model in (bare, alone):
        fit(model, data, device="cpu")
        assert model.score(all_queries(data)).isfinite().all()
    with pytest.raises(ConfigError, match="attention"):
        KGAT.create({"translate": False}, data.dataset)


def test_users_and_items_without_anything_are_answered():
    matrix = random_matrix()
    matrix[7], matrix[:, 49] = 0, 0  # a user without interactions; item 49 has no entity either
    data, _ = known(matrix)
    model = fitted(KGAT, data, **SMALL)
    assert len(model.attention) == 0
    scores = model.score(all_queries(data))
    assert scores.isfinite().all()
    torch.testing.assert_close(scores[7], model.average_user @ model.items.T)
