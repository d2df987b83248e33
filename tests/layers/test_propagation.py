from __future__ import annotations

import torch

from tastemaker.layers.propagation import normalised_adjacency, propagate

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
