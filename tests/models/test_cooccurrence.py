from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from tastemaker.models.collaborative import cooccurrence
from tastemaker.models.collaborative.cooccurrence import Cooccurrence


@pytest.fixture
def matrix():
    """[70, 45] zeros and ones; some items nobody took."""
    rng = np.random.default_rng(4)
    taken = rng.random((70, 45)) < rng.random(45) ** 2
    taken[:, [0, 20, 44]] = False
    return taken.astype(np.float32)


@pytest.fixture(params=[0, 10**9], ids=["sparse", "dense"])
def log(request, matrix, monkeypatch):
    monkeypatch.setattr(cooccurrence, "_DENSE", request.param)
    monkeypatch.setattr(cooccurrence, "_WIDTH", 7)
    monkeypatch.setattr(cooccurrence, "_PAIRS", 100)
    return Cooccurrence(csr_array(matrix))


def test_the_matrix_is_the_product(log, matrix):
    np.testing.assert_array_equal(log.matrix().numpy(), matrix.T @ matrix)
    np.testing.assert_array_equal(log.counts.numpy(), matrix.sum(0))


def test_blocks_have_every_pair_once(log, matrix):
    found = np.zeros((45, 45), np.float32)
    for items in log.blocks():
        others, counts = log.together(items)
        places = np.arange(45)[None].repeat(len(items), 0) if others is None else others.numpy()
        np.add.at(found, (items[:, None], places), counts.numpy())
    np.testing.assert_array_equal(found, matrix.T @ matrix)


def test_long_histories_are_counted_densely():
    everything = csr_array(np.ones((50, 40), np.float32))
    assert Cooccurrence(everything).is_dense
    pairs = np.zeros((2000, 4000), np.float32)
    pairs[np.arange(2000), np.arange(2000)] = pairs[np.arange(2000), np.arange(2000) + 2000] = 1.0
    assert not Cooccurrence(csr_array(pairs)).is_dense
