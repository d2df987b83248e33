from __future__ import annotations

import numpy as np
import pytest
import torch

from tastemaker.data import Queries
from tastemaker.errors import ConfigError, MissingNeedError
from tastemaker.models.collaborative.popularity import Popularity
from tests.models.toys import all_queries, fitted, training_set

DAY = 86_400
#              item 0  1  2
MATRIX = np.array([[1, 1, 0],
                   [1, 0, 1],
                   [1, 0, 1]], np.float32)  # fmt: skip
#          user 0: 0, 1   user 1: 0, 2   user 2: 0, 2
TIMES = np.array([0, 9, 1, 10, 2, 10]) * DAY + 1_600_000_000


def test_scores_are_counts_for_everybody():
    data = training_set(MATRIX)
    model = fitted(Popularity, data)
    expected = torch.tensor([3.0, 1.0, 2.0])
    for queries in (all_queries(data), all_queries(data).anonymous()):
        assert torch.equal(model.score(queries), expected.repeat(3, 1))
    assert torch.equal(model.score(Queries.from_histories([[]])), expected[None])
    chosen = torch.tensor([[2, 1]] * 3)
    assert torch.equal(model.score(all_queries(data), chosen), torch.tensor([[2.0, 1.0]] * 3))


@pytest.mark.parametrize(
    ("days", "expected"),
    [(0.5, [0, 0, 2]), (1.5, [0, 1, 2]), (9.0, [1, 1, 2]), (100.0, [3, 1, 2])],
)
def test_window_counts_back_from_the_newest_interaction(days, expected):
    model = fitted(Popularity, training_set(MATRIX, times=TIMES), window_days=days)
    assert model.counts.tolist() == expected


def test_window_without_a_clock_is_refused():
    data = training_set(MATRIX)
    fitted(Popularity, data)
    with pytest.raises(MissingNeedError, match=r"window_days needs clock times.*'toy'"):
        fitted(Popularity, data, window_days=7.0)


def test_window_must_be_positive():
    with pytest.raises(ConfigError, match="window_days"):
        Popularity.create({"window_days": 0}, training_set(MATRIX).dataset)
