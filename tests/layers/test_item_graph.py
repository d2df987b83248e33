from __future__ import annotations

import numpy as np
import pytest
import torch

from tastemaker.layers.item_graph import mixed_graph, neighbour_graph

#                         two directions, and one row between them
FEATURES = torch.tensor(
    [
        [4.0, 0.0],  # 0
        [2.0, 0.1],  # 1 is next to 0, then 2
        [1.0, 0.5],  # 2 between
        [0.0, 3.0],  # 3
        [0.1, 1.0],  # 4 is next to 3
        [0.0, 0.0],  # 5 has no features
    ]
)


def test_rows_have_k_equal_entries_with_the_diagonal():
    generator = torch.Generator().manual_seed(0)
    graph = neighbour_graph(torch.randn(300, 8, generator=generator), 10).to_dense()
    assert torch.equal((graph > 0).sum(1), torch.full((300,), 10))
    assert (graph.diagonal() > 0).all()
    torch.testing.assert_close(graph[graph > 0], torch.full((3000,), 0.1))
    torch.testing.assert_close(graph.sum(1), torch.ones(300))


def test_neighbours_are_the_nearest_by_cosine():
    graph = neighbour_graph(FEATURES, 2).to_dense()
    expected = torch.tensor(
        [
            [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
            [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.5, 0.5, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.5, 0.5, 0.0],
            [0.0, 0.0, 0.0, 0.5, 0.5, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        ]
    )
    torch.testing.assert_close(graph, expected)
    assert not torch.equal(graph, graph.T)  # 2 chose 1, which chose 0


def test_rows_said_to_have_no_features_have_none_but_themselves():
    present = torch.tensor([True, False, True, True, True, True])
    graph = neighbour_graph(FEATURES, 2, present=present).to_dense()
    assert graph[1].tolist() == [0, 1, 0, 0, 0, 0]
    assert graph[:, 1].tolist() == [0, 1, 0, 0, 0, 0]
    assert graph[0, 2] == 0.5
    assert graph.isfinite().all()


def test_weighted_without_self_and_by_row_is_the_dense_transcription():
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    for normalisation in ("row", "symmetric"):
        graph = neighbour_graph(
            features, 4, include_self=False, weighted=True, normalisation=normalisation
        )
        unit = features.double() / features.double().norm(dim=1, keepdim=True)
        cosines = (unit @ unit.T).fill_diagonal_(-2)
        expected = torch.zeros(40, 40, dtype=torch.float64)
        for row in range(40):
            nearest = cosines[row].argsort(descending=True)[:4]
            expected[row, nearest] = cosines[row, nearest].clamp(min=0)
        sums = expected.sum(1)
        if normalisation == "row":
            expected = expected / sums[:, None]
        else:
            expected = expected / (sums[:, None] * sums).sqrt()
        torch.testing.assert_close(graph.to_dense().double(), expected, rtol=1e-5, atol=1e-6)


def test_duplicates_keep_themselves():
    graph = neighbour_graph(torch.ones(6, 3), 2).to_dense()
    torch.testing.assert_close(graph.diagonal(), torch.full((6,), 0.5))
    torch.testing.assert_close(graph.sum(1), torch.ones(6))


def test_fewer_rows_than_neighbours():
    torch.testing.assert_close(neighbour_graph(FEATURES[:2], 9).to_dense(), torch.full((2, 2), 0.5))
    assert torch.equal(neighbour_graph(FEATURES[5:], 9).to_dense(), torch.ones(1, 1))
    assert neighbour_graph(FEATURES[5:], 9, include_self=False).to_dense().tolist() == [[0.0]]


def test_mixed_graphs_are_weighted_sums_whose_rows_sum_to_one():
    generator = torch.Generator().manual_seed(2)
    graphs = [neighbour_graph(torch.randn(50, 4, generator=generator), 5) for _ in range(2)]
    mixed = mixed_graph(graphs, [0.1, 0.9]).to_dense()
    expected = 0.1 * graphs[0].to_dense() + 0.9 * graphs[1].to_dense()
    torch.testing.assert_close(mixed, expected)
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="2 graphs and 1 weights"):
        mixed_graph(graphs, [1.0])
