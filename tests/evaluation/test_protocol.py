from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.errors import ConfigError, DataError
from tastemaker.evaluation import Candidates, Evaluation, evaluate, parse_metrics
from tastemaker.evaluation.candidates import draw
from tastemaker.evaluation.ranking import RANKING_METRICS
from tests.evaluation.test_ranking import slow_metrics
from tests.evaluation.toys import TableModel, make_part, random_rows


def random_part(rng: np.random.Generator, n_users: int, n_items: int, longest: int = 6):
    return make_part(
        random_rows(rng, n_users, n_items, longest), random_rows(rng, n_users, n_items, longest)
    )


def training_set(n_users: int, n_items: int, seed: int = 0) -> TrainingSet:
    """Popular first: item i has about n / (i + 1) interactions; two categories."""
    rng = np.random.default_rng(seed)
    chances = 1.0 / np.arange(1, n_items + 1)
    items = np.concatenate(
        [np.arange(n_items), rng.choice(n_items, 20 * n_users, p=chances / chances.sum())]
    )
    users = np.concatenate([np.arange(n_items) % n_users, np.repeat(np.arange(n_users), 20)])
    dataset = Dataset.from_frame(
        {"user": users, "item": items},
        user="user",
        item="item",
        items={
            "id": np.arange(n_items),
            "kind": [["odd", "even"][i % 2 :] for i in range(n_items)],
        },
        item_id="id",
        item_columns={"kind": "categories"},
    )
    assert dataset.item_ids.encode(range(n_items)).tolist() == list(range(n_items))
    return TrainingSet.whole(dataset)


def same(one: Evaluation, other: Evaluation) -> None:
    assert one.to_json() == other.to_json()
    assert one.per_query.keys() == other.per_query.keys()
    for name, values in one.per_query.items():
        np.testing.assert_array_equal(values, other.per_query[name], err_msg=name)


def test_values_agree_with_a_slow_evaluation() -> None:
    rng = np.random.default_rng(0)
    table = rng.permuted(np.tile(np.arange(30.0), (25, 1)), axis=1)  # no ties
    part = random_part(rng, 25, 30)
    found = evaluate(TableModel(table), part, ks=(3, 10))
    expected: dict[str, list[float]] = {name: [] for name in found.per_query}
    unreachable = 0
    for user in range(25):
        targets = set(part.targets.row(user).tolist())
        seen = set(part.queries.histories.items.row(user).tolist())
        unreachable += len(targets & seen)
        ranked = [item for item in np.argsort(-table[user]).tolist() if item not in seen]
        for k in (3, 10) if targets else ():
            for name, value in slow_metrics(ranked, targets, k).items():
                expected[f"{name}@{k}"].append(value)
    for name, values in expected.items():
        np.testing.assert_allclose(found.per_query[name], values, err_msg=name)
        assert found[name] == pytest.approx(np.mean(values))
    asked = np.flatnonzero(part.targets.lengths)
    assert found.users.tolist() == asked.tolist()
    assert (found.n_queries, found.n_skipped) == (len(asked), 25 - len(asked))
    assert found.n_unreachable == unreachable > 0


def test_metrics_come_in_the_order_asked() -> None:
    found = evaluate(
        TableModel(np.eye(3)), make_part([[1], [2]]), metrics=["coverage", "ndcg@2", "hr"], ks=(1,)
    )
    assert list(found.values) == ["coverage@1", "ndcg@2", "hr@1"]


def test_seen_items_are_never_recommended() -> None:
    # The model likes what the user has seen best of all.
    rng = np.random.default_rng(1)
    part = random_part(rng, 40, 20)
    table = rng.random((40, 20))
    for user in range(40):
        table[user, part.queries.histories.items.row(user)] += 10
    model = TableModel(table)
    lists = model.recommend(part.queries, 20, exclude=part.queries.histories.items).items
    for user in range(40):
        assert not np.isin(part.queries.histories.items.row(user), lists[user]).any()
    masked = evaluate(model, part, metrics=["ndcg@10"])
    allowed = evaluate(model, part, metrics=["ndcg@10"], exclude_seen=False)
    assert masked["ndcg@10"] != allowed["ndcg@10"]
    assert allowed.n_unreachable == 0
    assert "masked" in masked.protocol
    assert "allowed" in allowed.protocol


@pytest.mark.parametrize("seed", range(3))
def test_perfect_scores_have_ndcg_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = random_rows(rng, 30, 50, 8)
    table = rng.random((30, 50))
    for user, items in enumerate(targets):
        table[user, items] += 1
    found = evaluate(TableModel(table), make_part(targets), metrics=["ndcg", "hr", "mrr"])
    assert [estimate.value for estimate in found.values.values()] == [1.0] * 6


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param(lambda rng, shape: rng.random(shape), id="random"),
        pytest.param(lambda rng, shape: np.zeros(shape), id="constant"),
        pytest.param(lambda rng, shape: rng.integers(0, 2, shape), id="two values"),
    ],
)
@pytest.mark.parametrize("targets_are", ["popular items, first in the catalog", "any items"])
def test_uninformed_scores_get_the_metrics_of_random_order(scores, targets_are: str) -> None:
    rng = np.random.default_rng(2)
    n_queries, n_items, k = 6_000, 60, 10
    first = 5 if targets_are.startswith("popular") else n_items
    targets = [rng.choice(first, 2, replace=False).tolist() for _ in range(n_queries)]
    model = TableModel(np.broadcast_to(0, (n_queries, n_items)))
    model.table = torch.from_numpy(scores(rng, (n_queries, n_items)).astype(np.float32))
    found = evaluate(model, make_part(targets), ks=(k,))
    gain = (1 / np.log2(np.arange(2, k + 2))).sum()
    expected = {
        "recall@10": k / n_items,
        "precision@10": 2 / n_items,
        "hr@10": 1 - math.comb(n_items - 2, k) / math.comb(n_items, k),
        "ndcg@10": 2 / n_items * gain / (1 + 1 / math.log2(3)),
    }
    for name, value in expected.items():
        estimate = found.values[name]
        # Four standard errors; 1.96 of them is half the interval.
        reach = (estimate.high - estimate.low) / 2 / 1.96 * 4
        assert abs(estimate.value - value) < reach, name
    assert found["coverage@10"] == 1.0


@pytest.mark.parametrize("candidates", [None, Candidates(15), Candidates(15, "popularity")])
def test_batch_size_changes_nothing(candidates: Candidates | None) -> None:
    rng = np.random.default_rng(3)
    part = random_part(rng, 300, 40)
    model = TableModel(rng.integers(0, 3, (300, 40)))
    train = training_set(300, 40)
    evaluations = [
        evaluate(model, part, train=train, candidates=candidates, batch_size=size)
        for size in (1, 7, 1024)
    ]
    for one, other in itertools.pairwise(evaluations):
        same(one, other)


def test_a_query_gets_the_same_list_alone() -> None:
    part = random_part(np.random.default_rng(4), 50, 30)
    model = TableModel(np.zeros((50, 30)))
    together = model.recommend(part.queries, 8).items
    alone = [model.recommend(part.queries.take(slice(row, row + 1)), 8).items for row in range(50)]
    assert torch.equal(together, torch.cat(alone))
    assert len(torch.unique(together, dim=0)) > 45  # every query has an order of its own


def test_batches_are_no_larger_than_asked() -> None:
    model = TableModel(np.zeros((10, 5)))
    evaluate(model, make_part([[1]] * 10), metrics=["hr@1"], batch_size=4)
    assert model.calls == [4, 4, 2]


def test_repeated_targets_count_once() -> None:
    model = TableModel(np.array([[3.0, 2.0, 1.0, 0.0]]))
    once = evaluate(model, make_part([[1, 3]]), ks=(2,))
    twice = evaluate(model, make_part([[3, 1, 1, 3, 3]]), ks=(2,))
    same(once, twice)


def test_lists_shorter_than_k() -> None:
    model = TableModel(np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]))
    found = evaluate(model, make_part([[1], [0]], [[0, 2], [0, 1, 2]]), ks=(5,))
    assert found.per_query["hr@5"].tolist() == [1.0, 0.0]
    assert found.per_query["precision@5"].tolist() == [0.2, 0.0]
    assert found["coverage@5"] == pytest.approx(1 / 3)
    assert found.n_unreachable == 1


def test_slices_count_only_their_targets() -> None:
    part = make_part([[0, 2], [], [1, 2]])
    table = np.array([[3.0, 2.0, 1.0], [0, 0, 0], [1.0, 2.0, 3.0]])
    chosen = np.array([True, False, False, True])  # item 0 of the first query, item 2 of the last
    found = evaluate(TableModel(table), part, metrics=["mrr@3", "coverage@3"], slices={"s": chosen})
    assert list(found.slices) == ["s"]
    assert list(found.slices["s"]) == ["mrr@3"]
    assert found.slices["s"]["mrr@3"].value == 1.0
    assert found.slices["s"]["mrr@3"].n == 2
    others = evaluate(TableModel(table), part, metrics=["mrr@3"], slices={"s": ~chosen})
    assert others.slices["s"]["mrr@3"].value == pytest.approx((1 / 3 + 1 / 2) / 2)
    with pytest.raises(DataError, match=r"slice 'x' chooses among 3 targets.*has 4"):
        evaluate(TableModel(table), part, slices={"x": chosen[:3]})


def test_everything_is_measured_with_training_data() -> None:
    rng = np.random.default_rng(5)
    train = training_set(60, 30)
    histories = train.histories().items
    part = make_part(random_rows(rng, 60, 30, 4), [histories.row(user) for user in range(60)])
    counts = train.item_counts()
    popular = evaluate(
        TableModel(np.tile(counts, (60, 1))), part, train=train, ks=(3,), exclude_seen=False
    )
    rare = evaluate(
        TableModel(np.tile(-counts, (60, 1))), part, train=train, ks=(3,), exclude_seen=False
    )
    assert popular["novelty@3"] < rare["novelty@3"]
    assert popular["popularity_lift@3"] > 0 > rare["popularity_lift@3"]
    assert popular["coverage@3"] == pytest.approx(0.1)
    assert set(popular.values) == {
        f"{name}@3"
        for name in (
            *RANKING_METRICS, "coverage", "gini", "novelty", "popularity_lift", "diversity",
            "calibration",
        )
    }  # fmt: skip
    # The lift is the mean popularity of lists over that of histories, less one.
    usual = np.mean([counts[histories.row(user)].mean() for user in popular.users])
    top = np.sort(counts)[-3:].mean()
    assert popular["popularity_lift@3"] == pytest.approx(top / usual - 1)
    assert {"head", "tail", "low-activity"} <= set(popular.slices)


def test_sampled_ranking_by_hand_and_by_name() -> None:
    # The target is beaten by 10 of 20 items: among all 19 others it has rank 11.
    table = np.tile(np.arange(20.0), (200, 1))
    part = make_part([[9]] * 200)
    full = evaluate(TableModel(table), part, metrics=["mrr@20"])
    everyone = evaluate(TableModel(table), part, metrics=["mrr@20"], candidates=Candidates(500))
    assert full["mrr@20"] == everyone["mrr@20"] == pytest.approx(1 / 11)
    one = evaluate(TableModel(table), part, metrics=["mrr@20"], candidates=Candidates(1))
    assert one["mrr@20"] == pytest.approx((9 * 1 + 10 * 0.5) / 19, abs=0.06)
    assert "full" in full.protocol
    assert "SAMPLED" in one.protocol
    assert "1 items drawn by uniform (seed 0)" in one.protocol


def test_drawn_items_are_new_and_in_proportion() -> None:
    rng = np.random.default_rng(6)
    weights = np.array([0, 1, 2, 3, 4, 10])
    taken = Ragged.from_lists([[5]] * 20_000)
    drawn = draw(weights, 1, [taken], rng)
    shares = np.bincount(drawn[:, 0], minlength=6) / len(drawn)
    np.testing.assert_allclose(shares, [0, 0.1, 0.2, 0.3, 0.4, 0], atol=0.015)
    several = draw(weights, 3, [taken.take(slice(0, 50))], rng)
    assert all(len(set(row)) == 3 for row in several.tolist())
    assert not np.isin(several, [0, 5]).any()
    # Only four items can be drawn at all.
    assert (draw(weights, 6, [taken.take(slice(0, 50))], rng) == -1).sum(1).tolist() == [2] * 50


def test_a_torch_model_is_measured_in_evaluation_mode_and_put_back() -> None:
    class Noisy(torch.nn.Module):
        n_items = 5

        def __init__(self) -> None:
            super().__init__()
            self.dropout = torch.nn.Dropout(0.9)

        def recommend(self, queries, k, *, exclude=None, allow=None):
            assert not self.training
            assert torch.is_inference_mode_enabled()
            return TableModel(np.eye(5)[:, ::-1].copy()).recommend(queries, k)

    model = Noisy().train()
    evaluate(model, make_part([[1], [2]]), metrics=["hr@1"])
    assert model.training
    assert not torch.is_inference_mode_enabled()
    evaluate(model.eval(), make_part([[1], [2]]), metrics=["hr@1"])
    assert not model.training


def test_an_evaluation_survives_json() -> None:
    train = training_set(20, 10)
    part = random_part(np.random.default_rng(7), 20, 10)
    found = evaluate(TableModel(np.random.default_rng(8).random((20, 10))), part, train=train)
    text = json.dumps(found.to_json(), allow_nan=False)
    back = Evaluation.from_json(json.loads(text), found.per_query, found.users)
    same(found, back)
    assert str(back) == str(found)


def test_metric_names() -> None:
    names = [metric.name for metric in parse_metrics(["ndcg", "recall@50", "ndcg@10"], (10, 20))]
    assert names == ["ndcg@10", "ndcg@20", "recall@50"]
    with pytest.raises(ConfigError, match=r"unknown metric 'ndgc@10'; did you mean 'ndcg'\?"):
        parse_metrics(["ndgc@10"], (10,))
    for bad in ("ndcg@", "ndcg@x", "ndcg@-1", "ndcg@1.5"):
        with pytest.raises(ConfigError, match="after @ comes a list length"):
            parse_metrics([bad], (10,))
    with pytest.raises(ConfigError, match="must be at least 1"):
        parse_metrics(["ndcg@0"], (10,))
    with pytest.raises(ConfigError, match="no metric"):
        parse_metrics([], (10,))


def test_what_is_missing_is_said() -> None:
    model, part = TableModel(np.eye(3)), make_part([[1], [2]])
    with pytest.raises(ConfigError, match=r"'novelty@10' is about the training data"):
        evaluate(model, part, metrics=["novelty@10"])
    with pytest.raises(ConfigError, match="popularity need counts"):
        evaluate(model, part, candidates=Candidates(5, "popularity"))
    with pytest.raises(ConfigError, match="at least 1"):
        Candidates(0)
    with pytest.raises(ConfigError, match="'uniform' or 'popularity'"):
        Candidates(5, "zipf")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no query of this part has a target"):
        evaluate(model, make_part([[], []]))
    bare = Dataset.from_frame({"user": [1, 2, 3], "item": [1, 2, 3]}, user="user", item="item")
    with pytest.raises(ConfigError, match="kind 'categories'"):
        evaluate(model, part, train=TrainingSet.whole(bare), metrics=["diversity@2"])
