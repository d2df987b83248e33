from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tastemaker.layers.propagation import (
    draw_edges,
    edge_softmax,
    entries,
    normalised_adjacency,
    product,
    propagate,
    relation_walk,
    sparse_matrix,
    symmetric_weights,
    transposed,
)

#           items
#           0  1  2  3
MATRIX = [
    [1.0, 1.0, 0.0, 0.0],  # user 0
    [0.0, 1.0, 0.0, 1.0],  # user 1
    [0.0, 0.0, 0.0, 0.0],  # user 2 has nothing
    [0.0, 1.0, 0.0, 0.0],  # user 3; nobody has item 2
]


def edges() -> tuple[torch.Tensor, torch.Tensor]:
    users, items = torch.tensor(MATRIX).nonzero(as_tuple=True)
    return users, items


def dense_adjacency() -> torch.Tensor:
    """D^-1/2 [[0, X], [X^T, 0]] D^-1/2 as the paper writes it; nodes without edges stay zero."""
    X = torch.tensor(MATRIX, dtype=torch.float64)
    A = torch.zeros(8, 8, dtype=torch.float64)
    A[:4, 4:], A[4:, :4] = X, X.T
    degrees = A.sum(1)
    scale = torch.where(degrees > 0, degrees.clamp(min=1).rsqrt(), 0.0)
    return scale[:, None] * A * scale


def test_adjacency_is_the_dense_normalisation():
    sparse = normalised_adjacency(*edges(), 4, 4)
    assert sparse.layout == torch.sparse_csr
    torch.testing.assert_close(sparse.to_dense().double(), dense_adjacency(), rtol=0, atol=1e-7)


def test_repeated_and_unsorted_edges_count_once():
    users, items = edges()
    order = torch.tensor([4, 2, 0, 3, 1, 2, 2, 0])
    shuffled = normalised_adjacency(users[order], items[order], 4, 4)
    torch.testing.assert_close(
        shuffled.to_dense(), normalised_adjacency(users, items, 4, 4).to_dense()
    )


def test_layers_are_powers_of_the_dense_matrix():
    nodes = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    layers = propagate(normalised_adjacency(*edges(), 4, 4), nodes, 3)
    assert len(layers) == 4
    expected = nodes.double()
    for layer in layers:
        torch.testing.assert_close(layer.double(), expected, rtol=0, atol=1e-6)
        expected = dense_adjacency() @ expected


def test_no_layers_is_the_input():
    nodes = torch.ones(8, 2)
    assert propagate(normalised_adjacency(*edges(), 4, 4), nodes, 0) == [nodes]


def test_gradients_equal_those_of_the_dense_product():
    generator = torch.Generator().manual_seed(1)
    nodes = torch.randn(8, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    sparse = normalised_adjacency(*edges(), 4, 4).double()
    (sum(propagate(sparse, nodes, 3)) * weights).sum().backward()
    found, nodes.grad = nodes.grad, None
    total, layer = nodes, nodes
    for _ in range(3):
        layer = dense_adjacency() @ layer
        total = total + layer
    (total * weights).sum().backward()
    torch.testing.assert_close(found, nodes.grad, rtol=1e-6, atol=1e-7)


def test_gradients_of_gradients_exist():
    nodes = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    sparse = normalised_adjacency(*edges(), 4, 4).double()
    assert torch.autograd.gradgradcheck(lambda x: propagate(sparse, x, 2)[-1].pow(3), [nodes])


def test_autocast_leaves_the_products_alone():
    nodes = torch.randn(8, 4)
    sparse = normalised_adjacency(*edges(), 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        cast = propagate(sparse, nodes, 2)[-1]
    assert torch.equal(cast, propagate(sparse, nodes, 2)[-1])


# A directed graph of four nodes; the two edges 0 -> 1 are of different relations.
#                     0  0  0  0  1  3
HEADS = torch.tensor([0, 0, 0, 0, 1, 3])
KINDS = torch.tensor([0, 0, 1, 1, 0, 1])
TAILS = torch.tensor([1, 2, 1, 3, 0, 3])


def test_entries_of_one_place_add_up():
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    matrix = sparse_matrix(HEADS, TAILS, weights, (4, 4))
    expected = torch.tensor(
        [
            [0.0, 5.0, 2.0, 8.0],
            [16.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 32.0],
        ]
    )
    assert torch.equal(matrix.to_dense(), expected)
    assert torch.equal(transposed(matrix).to_dense(), expected.T)
    assert torch.equal(sparse_matrix(*entries(matrix), (4, 4)).to_dense(), expected)


def test_gradients_of_a_directed_product_are_those_of_the_dense_one():
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(6, generator=generator, dtype=torch.float64)
    matrix = sparse_matrix(HEADS, TAILS, weights, (4, 4))
    nodes = torch.randn(4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: product(matrix, x, transposed(matrix)), [nodes])
    layers = propagate(matrix, nodes, 2, transposed(matrix))
    torch.testing.assert_close(layers[2], matrix.to_dense() @ matrix.to_dense() @ nodes)


def test_softmax_counts_parallel_edges_one_by_one():
    logits = torch.tensor([1.0, 2.0, 3.0, -1.0, 100.0, -100.0], dtype=torch.float64)
    found = edge_softmax(logits, HEADS, 4)
    expected = torch.cat([torch.softmax(logits[:4], 0), torch.ones(2, dtype=torch.float64)])
    torch.testing.assert_close(found, expected)
    sums = sparse_matrix(HEADS, TAILS, found, (4, 4)).to_dense().sum(1)
    torch.testing.assert_close(sums, torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64))


def test_softmax_over_edges_has_the_gradient_of_a_softmax():
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: edge_softmax(x, HEADS, 4), [logits])


def test_the_random_walk_is_within_each_relation():
    assert relation_walk(HEADS, KINDS, 4).tolist() == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]


def test_symmetric_weights_are_the_entries_of_the_adjacency():
    users, items = edges()
    found = symmetric_weights(users, items, 4, 4)
    torch.testing.assert_close(found.double(), dense_adjacency()[users, 4 + items])


def test_a_drawn_graph_is_normalised_by_its_own_degrees():
    users, items = (part[[0, 3, 4]] for part in edges())  # edges (0, 0), (1, 3), (3, 1)
    assert torch.equal(normalised_adjacency(users, items, 4, 4).values(), torch.ones(6))


def test_edges_are_drawn_without_repeats_and_anew_each_time():
    weights = np.random.default_rng(0).random(1000) + 0.1
    generator = np.random.default_rng(1)
    first, second = (draw_edges(weights, 300, generator) for _ in range(2))
    for drawn in (first, second):
        assert len(drawn) == 300
        assert (np.diff(drawn) > 0).all()
    assert not np.array_equal(first, second)
    again = draw_edges(weights, 300, np.random.default_rng(1))
    np.testing.assert_array_equal(first, again)
    assert draw_edges(weights, 0, generator).tolist() == []
    assert draw_edges(weights, 1000, generator).tolist() == list(range(1000))
    with pytest.raises(ValueError, match="1001"):
        draw_edges(weights, 1001, generator)


def test_edges_are_drawn_by_the_law_of_successive_draws():
    """Three edges, two of them drawn: P(edge 2 stays out) = sum over orders of the other two."""
    weights = np.array([3.0, 2.0, 1.0])
    generator = np.random.default_rng(5)
    missing = np.bincount(
        [3 - draw_edges(weights, 2, generator).sum() for _ in range(20_000)], minlength=3
    )
    p = weights / weights.sum()
    out = p[0] * p[1] / (1 - p[0]) + p[1] * p[0] / (1 - p[1])
    assert abs(missing[2] / 20_000 - out) < 0.012  # 3.4 standard deviations
    assert missing[0] < missing[1] < missing[2]


def test_edges_between_popular_nodes_are_drawn_less_often():
    #               degree products rise along the edges
    users, items = torch.tensor([0, 1, 1, 2, 2, 2]), torch.tensor([0, 1, 2, 1, 2, 2 + 1])
    weights = symmetric_weights(users, items, 3, 4).double().numpy()
    generator = np.random.default_rng(2)
    counts = np.bincount(
        np.concatenate([draw_edges(weights, 3, generator) for _ in range(4000)]), minlength=6
    )
    levels = [counts[weights == level].mean() for level in np.unique(weights)[::-1]]
    assert all(more > less + 50 for more, less in pairwise(levels))


def test_edges_are_drawn_evenly_where_all_degrees_are_equal():
    generator = np.random.default_rng(3)
    counts = np.bincount(
        np.concatenate([draw_edges(np.ones(8), 2, generator) for _ in range(4000)]), minlength=8
    )
    assert abs(counts - 1000).max() < 110  # 4 standard deviations
