from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.sparse import csr_array

from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.evaluation.beyond import Exposure, ItemFacts, ListMetrics, coverage, gini

# fmt: off
CATEGORIES = np.array([
    #  a  b  c
    [1, 0, 0],   # item 0
    [1, 1, 0],   # item 1
    [0, 1, 0],   # item 2
    [0, 0, 1],   # item 3
    [0, 0, 0],   # item 4 has none
], float)
COUNTS = np.array([8, 4, 2, 2, 0])
# fmt: on


@pytest.fixture(params=["dense", "sparse"])
def metrics(request: pytest.FixtureRequest) -> ListMetrics:
    return ListMetrics(
        ItemFacts(COUNTS, CATEGORIES if request.param == "dense" else csr_array(CATEGORIES))
    )


def measure(metrics: ListMetrics, kind: str, items: list[list[int]]) -> list[float]:
    return metrics.measure(kind, np.array(items), None).tolist()


def test_coverage_and_gini_by_hand() -> None:
    assert coverage(np.array([3, 0, 1, 0])) == 0.5
    assert gini(np.array([2, 2, 2])) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 6, 0])) == pytest.approx(3 / 4)  # (N - 1) / N
    # Mean absolute difference over twice the mean: (1 + 2 + 3 + 1 + 2 + 1) * 2 / 16 / (2 * 1.5)
    assert gini(np.array([0, 3, 1, 2])) == pytest.approx(20 / 16 / 3)
    assert math.isnan(gini(np.zeros(3, int)))


def test_exposure_counts_each_length(metrics: ListMetrics) -> None:
    exposure = Exposure(5, [1, 3])
    exposure.add(np.array([[0, 1, 2], [0, 2, -1]]))
    exposure.add(np.array([[1, 0, 2]]))
    assert exposure.estimate("coverage", 1).value == 2 / 5
    assert exposure.estimate("coverage", 3).value == 3 / 5
    assert exposure.estimate("gini", 1).value == gini(np.array([2, 1, 0, 0, 0]))
    assert exposure.estimate("gini", 3).value == gini(np.array([3, 2, 3, 0, 0]))
    assert exposure.estimate("gini", 3).n == 3


def test_exposure_does_not_depend_on_batches() -> None:
    items = np.random.default_rng(0).integers(-1, 50, (333, 4))
    whole, parts = Exposure(50, [2, 4]), Exposure(50, [2, 4])
    whole.add(items)
    for start in range(0, 333, 10):
        parts.add(items[start : start + 10])
    for kind in ("coverage", "gini"):
        for length in (2, 4):
            assert whole.estimate(kind, length) == parts.estimate(kind, length)


def test_exposure_interval_holds_what_other_users_would_give() -> None:
    # Many samples of users from one population: the interval of each should hold the gini and
    # the coverage that samples of this size have on average.
    rng = np.random.default_rng(1)
    chances = 1.0 / np.arange(1, 201)
    chances /= chances.sum()
    found = []
    for _ in range(120):
        exposure = Exposure(200, [5])
        exposure.add(rng.choice(200, (300, 5), p=chances))
        found.append((exposure.estimate("gini", 5), exposure.estimate("coverage", 5)))
    for estimates in zip(*found, strict=True):
        usual = np.mean([estimate.value for estimate in estimates])
        held = np.mean([estimate.low <= usual <= estimate.high for estimate in estimates])
        assert held >= 0.88


def test_novelty_by_hand(metrics: ListMetrics) -> None:
    # 16 interactions: shares 1/2, 1/4, 1/8, 1/8; the unseen item counts as one, 1/16.
    found = measure(metrics, "novelty", [[0, 1, 2], [3, 4, -1], [-1, -1, -1]])
    assert found == pytest.approx([(1 + 2 + 3) / 3, (3 + 4) / 2, math.nan], nan_ok=True)


def test_popularity_by_hand(metrics: ListMetrics) -> None:
    found = measure(metrics, "popularity_lift", [[0, 1, 2], [3, 4, -1], [-1, -1, -1]])
    assert found == pytest.approx([14 / 3, 1.0, math.nan], nan_ok=True)


def test_diversity_by_hand(metrics: ListMetrics) -> None:
    # fmt: off
    lists = [
        [ 0,  2,  3],   # nothing in common
        [ 0,  1,  2],   # cosines 1/sqrt(2), 0, 1/sqrt(2)
        [ 0,  4, -1],   # no category, nothing in common
        [ 1, -1, -1],   # a single item has no pairs
    ]
    # fmt: on
    found = measure(metrics, "diversity", lists)
    assert found == pytest.approx([1, 1 - math.sqrt(2) / 3, 1, math.nan], nan_ok=True)


def test_calibration_by_hand(metrics: ListMetrics) -> None:
    histories = Ragged.from_lists([[0, 1], [0, 1], [4], []])
    known = metrics.category_shares(histories)
    np.testing.assert_allclose(known[:2], [[3 / 4, 1 / 4, 0]] * 2)
    assert np.isnan(known[2:]).all()
    found = metrics.measure("calibration", np.array([[1, 0], [3, -1], [0, 1], [0, 1]]), known)
    # The second list shares no category, so all that is left of q is a hundredth of p.
    assert found == pytest.approx([0, math.log(100), math.nan, math.nan], abs=1e-6, nan_ok=True)
    half = metrics.measure("calibration", np.array([[0, 2]] * 4), known)[0]
    p, q = np.array([3 / 4, 1 / 4]), np.array([1 / 2, 1 / 2])
    assert half == pytest.approx((p * np.log(p / (0.99 * q + 0.01 * p))).sum(), abs=1e-6)


def test_diversity_agrees_with_all_pairs(metrics: ListMetrics) -> None:
    rng = np.random.default_rng(2)
    categories = (rng.random((40, 6)) < 0.3).astype(float)
    fast = ListMetrics(ItemFacts(np.ones(40, int), categories))
    lists = rng.permuted(np.tile(np.arange(40), (30, 1)), axis=1)[:, :7]
    norms = np.maximum(np.linalg.norm(categories, axis=1), 1e-12)
    cosines = (categories / norms[:, None]) @ (categories / norms[:, None]).T
    expected = [1 - np.mean([cosines[i, j] for i in row for j in row if i != j]) for row in lists]
    np.testing.assert_allclose(fast.diversity(lists), expected, atol=1e-6)


def test_facts_of_a_training_set() -> None:
    interactions = {"user": ["u", "u", "v", "v"], "item": ["x", "y", "x", "z"]}
    items = {
        "id": ["z", "x", "y"],
        "genres": [["b", "a", "b"], ["a"], []],
    }
    dataset = Dataset.from_frame(
        interactions, user="user", item="item", items=items, item_id="id",
        item_columns={"genres": "categories"},
    )  # fmt: skip
    facts = ItemFacts.of(TrainingSet(dataset, np.arange(3)))
    order = dataset.item_ids.encode(["x", "y", "z"])
    assert facts.counts[order].tolist() == [2, 1, 0]
    assert isinstance(facts.categories, np.ndarray)
    assert facts.categories[order].sum(1).tolist() == [1, 0, 2]
    assert facts.categories.max() == 1.0
