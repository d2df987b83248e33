from __future__ import annotations

from dataclasses import replace

import numpy as np

from tastemaker.data.queries import Queries
from tastemaker.evaluation.slices import item_slices, query_slices, standard_slices
from tests.evaluation.toys import make_part


def test_items_by_hand() -> None:
    # 20 interactions: a head of 4 or more, a tail of 4 or more.
    counts = np.array([1, 0, 5, 4, 1, 3, 2, 3, 1, 0])
    found = {name: np.flatnonzero(items).tolist() for name, items in item_slices(counts).items()}
    assert found == {"head": [2], "body": [3, 5, 7], "tail": [0, 4, 6, 8], "cold": [1, 9]}


def test_items_are_in_one_slice_each_and_equal_counts_together() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = rng.zipf(1.5, rng.integers(1, 60)).clip(max=50) - 1
        slices = item_slices(counts)
        assert (np.sum(list(slices.values()), 0) == 1).all()
        for items in slices.values():
            others = counts[~items]
            assert not np.isin(counts[items], others).any()
        total = counts.sum()
        if total:
            assert counts[slices["head"]].sum() >= 0.2 * total
        if slices["body"].any():
            assert counts[slices["tail"]].sum() >= 0.2 * total
            head, body, tail = (counts[slices[name]] for name in ("head", "body", "tail"))
            assert head.min() > body.max() > body.min() - 1 >= tail.max()


def test_without_interactions_everything_is_cold() -> None:
    slices = item_slices(np.zeros(3, int))
    assert slices["cold"].all()
    assert not slices["head"].any()


def test_queries_by_hand() -> None:
    lengths = np.array([1, 2, 3, 4, 5, 6])
    found = query_slices(lengths, np.array([True, False, True, True, True, True]))
    assert {name: np.flatnonzero(queries).tolist() for name, queries in found.items()} == {
        "low-activity": [0, 1],
        "medium-activity": [2, 3],
        "high-activity": [4, 5],
        "new-users": [1],
    }


def test_equal_lengths_share_a_slice() -> None:
    found = query_slices(np.array([7, 7, 7, 7]), np.ones(4, bool))
    assert found["low-activity"].all()


def test_standard_slices_choose_targets() -> None:
    part = make_part([[0, 1], [], [2], [0]], [[1], [], [0, 1, 2], [1, 2]])
    part = replace(part, queries=Queries(np.array([0, 1, -1, 3]), part.queries.histories))
    # Targets are 0, 1 | none | 2 | 0; the query without targets is in no tercile.
    found = standard_slices(part, np.array([9, 1, 0]))
    assert {name: chosen.tolist() for name, chosen in found.items()} == {
        "head": [True, False, False, True],
        "tail": [False, True, False, False],
        "cold": [False, False, True, False],
        "low-activity": [True, True, False, False],
        "medium-activity": [False, False, False, True],
        "high-activity": [False, False, True, False],
        "new-users": [False, False, True, False],
    }


def test_no_targets_no_slices() -> None:
    assert standard_slices(make_part([[], []]), np.array([1])) == {}
