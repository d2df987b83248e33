from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.data.queries import Ragged
from tastemaker.evaluation.ranking import RANKING_METRICS, Hits, target_ranks
from tests.evaluation.toys import random_rows

KS = (1, 3, 10, 20)


def slow_metrics(items: list[int], targets: set[int], k: int) -> dict[str, float]:
    """Every metric of one query, straight from its definition."""
    listed = [item for item in items[:k] if item >= 0]
    hits = [item in targets for item in listed]
    n = len(targets)
    found = sum(hits)
    precisions = [sum(hits[: r + 1]) / (r + 1) for r in range(len(hits)) if hits[r]]
    gain = sum(1 / math.log2(r + 2) for r in range(len(hits)) if hits[r])
    ideal = sum(1 / math.log2(r + 2) for r in range(min(k, n)))
    return {
        "recall": found / n if n else 0.0,
        "hr": float(found > 0),
        "precision": found / k,
        "mrr": 1 / (hits.index(True) + 1) if found else 0.0,
        "map": sum(precisions) / n if n else 0.0,
        "ndcg": gain / ideal if n else 0.0,
    }


def pytrec_metrics(items: list[int], targets: set[int], k: int) -> dict[str, float]:
    """The same by trec_eval; its own tie-breaking never acts, as our order becomes its scores."""
    run = {str(item): -float(rank) for rank, item in enumerate(items) if item >= 0}
    cut = {item: score for item, score in run.items() if score > -k}
    # trec_eval needs a judgement per query; a negative one stands for "nothing is relevant".
    qrel = {str(item): 1 for item in targets} or {"judged, not relevant": 0}
    names = {f"recall_{k}", f"P_{k}", f"map_cut_{k}", f"ndcg_cut_{k}", f"success_{k}", "recip_rank"}
    measures = {
        f"recall.{k}", f"P.{k}", f"map_cut.{k}", f"ndcg_cut.{k}", f"success.{k}", "recip_rank"
    }  # fmt: skip
    evaluator = pytrec_eval.RelevanceEvaluator({"q": qrel}, measures)
    if not run:
        return dict.fromkeys(("recall", "hr", "precision", "mrr", "map", "ndcg"), 0.0)
    whole = evaluator.evaluate({"q": run})["q"]
    first = evaluator.evaluate({"q": cut})["q"]
    assert names <= set(whole)
    return {
        "recall": whole[f"recall_{k}"],
        "hr": whole[f"success_{k}"],
        "precision": whole[f"P_{k}"],
        "mrr": first["recip_rank"],  # trec_eval cuts it nowhere
        "map": whole[f"map_cut_{k}"],
        "ndcg": whole[f"ndcg_cut_{k}"],
    }


def random_lists(rng: np.random.Generator, n_rows: int, n_items: int, width: int) -> np.ndarray:
    """[n_rows, width] distinct items, each row ending anywhere, some empty."""
    rows = np.full((n_rows, width), -1)
    for row in rows:
        n = rng.integers(0, min(width, n_items) + 1)
        row[:n] = rng.choice(n_items, n, replace=False)
    return rows


def assert_agree(items: np.ndarray, targets: list[list[int]], oracle, tolerance: float) -> None:
    hits = Hits.of(items.astype(np.int64), Ragged.from_lists(targets))
    for k in KS:
        expected = [
            oracle(row.tolist(), set(row_targets), k)
            for row, row_targets in zip(items, targets, strict=True)
        ]
        for name, metric in RANKING_METRICS.items():
            np.testing.assert_allclose(
                metric(hits, k),
                [values[name] for values in expected],
                rtol=0,
                atol=tolerance,
                err_msg=f"{name}@{k}",
            )


@pytest.mark.parametrize("oracle", [slow_metrics, pytrec_metrics])
@pytest.mark.parametrize(("n_items", "longest"), [(12, 6), (40, 30), (500, 5), (3, 2)])
def test_metrics_agree_with_oracles(oracle, n_items: int, longest: int) -> None:
    rng = np.random.default_rng(n_items)
    items = random_lists(rng, 60, n_items, 25)
    targets = random_rows(rng, 60, n_items, longest)
    assert_agree(items, targets, oracle, 1e-6 if oracle is pytrec_metrics else 1e-12)


@pytest.mark.parametrize("oracle", [slow_metrics, pytrec_metrics])
def test_metrics_agree_on_degenerate_lists(oracle) -> None:
    # fmt: off
    items = np.array([
        [ 4,  5, -1, -1],   # nothing relevant at all
        [-1, -1, -1, -1],   # no candidate was left
        [ 7, -1, -1, -1],   # fewer candidates than k, all hits
        [ 1,  2,  3,  4],   # more targets than places
        [ 9,  8,  6,  5],   # targets, but no hit
    ])
    targets = [[], [1, 2], [7], [1, 2, 3, 4, 5, 6], [0]]
    # fmt: on
    assert_agree(items, targets, oracle, 1e-6)


@given(st.data())
def test_metrics_agree_with_definition_everywhere(data: st.DataObject) -> None:
    n_items = data.draw(st.integers(1, 15))
    catalog = st.permutations(range(n_items))
    lists, targets = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        n = data.draw(st.integers(0, n_items))
        lists.append([*data.draw(catalog)[:n], *[-1] * (n_items - n)])
        targets.append(data.draw(catalog)[: data.draw(st.integers(0, n_items))])
    assert_agree(np.array(lists), targets, slow_metrics, 1e-12)


def test_metrics_by_hand() -> None:
    # Targets at ranks 2 and 3 of five; three targets in all.
    hits = Hits.of(np.array([[10, 20, 30, 40, 50]]), Ragged.from_lists([[30, 99, 20]]))
    found = {name: metric(hits, 5).item() for name, metric in RANKING_METRICS.items()}
    gain = 1 / math.log2(3) + 1 / math.log2(4)
    assert found == pytest.approx(
        {
            "recall": 2 / 3,
            "hr": 1.0,
            "precision": 2 / 5,
            "mrr": 1 / 2,
            "map": (1 / 2 + 2 / 3) / 3,
            "ndcg": gain / (1 + 1 / math.log2(3) + 1 / math.log2(4)),
        }
    )


def test_perfect_lists_have_ndcg_one_and_reversed_ones_less() -> None:
    targets = Ragged.from_lists([[0, 1, 2], [5], [3, 4]])
    perfect = np.array([[2, 0, 1, 9], [5, 1, 2, 3], [4, 3, 0, 1]])
    for k in (1, 2, 4):
        ndcg = RANKING_METRICS["ndcg"]
        np.testing.assert_allclose(ndcg(Hits.of(perfect, targets), k), 1.0)
    assert (ndcg(Hits.of(perfect[:, ::-1].copy(), targets), 4) < 1).all()


def test_ranks_of_targets() -> None:
    # fmt: off
    lists = np.array([
        [3, 1, 2],
        [5, -1, -1],
        [-1, -1, -1],
    ])
    # fmt: on
    targets = Ragged.from_lists([[2, 7, 3], [5], [0]])
    assert target_ranks(lists, targets).tolist() == [3, 0, 1, 1, 0]


def test_only_chosen_targets_count() -> None:
    targets = Ragged.from_lists([[1, 2], [3, 4]])
    ranks = target_ranks(np.array([[1, 2, 0], [4, 3, 0]]), targets)
    hits = Hits.from_ranks(ranks, targets, np.array([False, True, False, False]))
    assert hits.n_relevant.tolist() == [1, 0]
    # Target 2 stands at rank 2; target 1 above it is as good as any other item.
    assert RANKING_METRICS["mrr"](hits, 3).tolist() == [0.5, 0.0]
    assert RANKING_METRICS["map"](hits, 3).tolist() == [0.5, 0.0]


def test_wide_input_is_cut_into_blocks() -> None:
    rng = np.random.default_rng(5)
    items = rng.permuted(np.tile(np.arange(400), (900, 1)), axis=1)[:, :300]
    targets = random_rows(rng, 900, 400, 4)
    flat = Ragged.from_lists(targets)
    expected = [
        row.tolist().index(target) + 1 if target in row else 0
        for row, row_targets in zip(items, targets, strict=True)
        for target in row_targets
    ]
    assert target_ranks(items, flat).tolist() == expected
