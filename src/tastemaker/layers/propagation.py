"""Graph propagation: one sparse product a layer, over graphs that are made as views of edge lists.

Views of a list of edges: the symmetric normalisation D^-1/2 A D^-1/2 without self loops of LightGCN
(SIGIR 2020, arXiv 2002.02126) over users and items; the same over a part of the edges, drawn
without replacement (uniformly, or against edges between popular nodes: FREEDOM, ACM MM 2023, arXiv
2211.06924); and weights per edge of a directed graph with typed edges: the random walk within each
relation, or a softmax over the edges that leave a node (KGAT, KDD 2019, arXiv 1905.07854).

A graph is made once for many batches, as a CSR tensor. In graphs of users and items nodes are
numbered users first: user u is node u, item i is node `n_users + i`.

Cost: memory 12 bytes x edges, a directed graph twice that for its transpose; a layer is 2 x edges
x D floating-point operations, an undirected edge counting twice.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "draw_edges",
    "edge_softmax",
    "entries",
    "normalised_adjacency",
    "product",
    "propagate",
    "relation_walk",
    "sparse_matrix",
    "sparse_rows",
    "symmetric_weights",
    "transposed",
]


def sparse_matrix(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A matrix from its entries; entries of the same place add up.

    Args:
        rows: [E] int64.
        columns: [E] int64.
        values: [E] float.
        shape: of the matrix.

    Returns:
        Sparse CSR with int32 indices, columns sorted, on the device of `values`.
    """
    places, place_of = torch.unique(rows * shape[1] + columns, return_inverse=True)
    sums = values.new_zeros(len(places)).index_add_(0, place_of, values)
    offsets = _offsets(torch.bincount(places // shape[1], minlength=shape[0]))
    return sparse_rows(offsets, places % shape[1], sums, shape)


def sparse_rows(offsets: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A matrix from the entries of its rows, one row behind the other.

    Args:
        offsets: [M + 1] int32: the entries of row m are `offsets[m]:offsets[m + 1]`.
        columns: [E] integer, rising within a row.
        values: [E] float.
        shape: of the matrix, (M, K).

    Returns:
        Sparse CSR with int32 indices, on the device of `values`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(offsets, columns.int(), values, shape, check_invariants=True)


def _offsets(lengths: Tensor) -> Tensor:
    """Row offsets [M + 1] int32 of rows of these lengths [M]."""
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=lengths.device)
    offsets[1:] = lengths.cumsum(0)
    return offsets


def entries(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [E] int64, columns [E] int64 and values [E] of a sparse CSR matrix, row by row."""
    lengths = matrix.crow_indices().long().diff()
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=matrix.device), lengths)
    return rows, matrix.col_indices().long(), matrix.values()


def transposed(matrix: Tensor) -> Tensor:
    """The transpose of a sparse CSR matrix, itself CSR."""
    rows, columns, values = entries(matrix)
    return sparse_matrix(columns, rows, values, (matrix.shape[1], matrix.shape[0]))


def symmetric_weights(users: Tensor, items: Tensor, n_users: int, n_items: int) -> Tensor:
    """1 / sqrt(d_u d_i) of each of E distinct (user, item) edges, [E] float32."""
    degrees = (torch.bincount(users, minlength=n_users), torch.bincount(items, minlength=n_items))
    scales = [degree.clamp(min=1).double().rsqrt() for degree in degrees]
    return (scales[0][users] * scales[1][items]).float()


def normalised_adjacency(users: Tensor, items: Tensor, n_users: int, n_items: int) -> Tensor:
    """D^-1/2 A D^-1/2 of the graph whose edges are the distinct (user, item) pairs.

    Args:
        users: [R] int64 user codes.
        items: [R] int64 item codes; repeated pairs count once.
        n_users: number of users, with or without interactions.
        n_items: number of items, with or without interactions.

    Returns:
        [n_users + n_items, n_users + n_items] float32 sparse CSR with int32 indices, on the
        device of `users`. Rows of nodes without interactions are empty.
    """
    pairs = torch.unique(users * n_items + items)  # sorted by user, then item
    users, items = pairs // n_items, pairs % n_items
    by_item = torch.argsort(items, stable=True)
    lengths = torch.cat(
        [torch.bincount(users, minlength=n_users), torch.bincount(items, minlength=n_items)]
    )
    columns = torch.cat([items + n_users, users[by_item]])
    weights = symmetric_weights(users, items, n_users, n_items)
    values = torch.cat([weights, weights[by_item]])
    return sparse_rows(_offsets(lengths), columns, values, (len(lengths), len(lengths)))


def draw_edges(
    weights: NDArray[np.floating[Any]], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Edges drawn without replacement, each next one with probability in proportion to its weight.

    The edges with the smallest E_i / w_i, E_i exponential (Efraimidis and Spirakis, Weighted random
    sampling with a reservoir, IPL 2006): the same law, in one pass whatever the number of edges.

    Args:
        weights: [E] positive.
        count: how many to draw, at most E.
        generator: of the draws.

    Returns:
        [count] int64 numbers of edges, rising.
    """
    if not 0 <= count <= len(weights):
        raise ValueError(f"count is {count}; there are {len(weights)} edges to draw from")
    keys = generator.exponential(size=len(weights)) / weights
    if count in (0, len(weights)):
        return np.arange(count, dtype=np.int64)
    return np.sort(np.argpartition(keys, count)[:count])


def relation_walk(heads: Tensor, relations: Tensor, n_nodes: int) -> Tensor:
    """1 / out-degree of an edge's head within the edge's relation.

    A row of the matrix of these weights sums to the number of relations its node has.

    Args:
        heads: [E] int64 nodes.
        relations: [E] int64.
        n_nodes: number of nodes.

    Returns:
        [E] float32.
    """
    keys = relations * n_nodes + heads
    _, group, sizes = torch.unique(keys, return_inverse=True, return_counts=True)
    weights: Tensor = sizes.float().reciprocal()
    return weights[group]


def edge_softmax(logits: Tensor, heads: Tensor, n_nodes: int) -> Tensor:
    """Softmax over the edges that leave a node, parallel edges counted one by one.

    Args:
        logits: [E] float.
        heads: [E] int64 node each edge leaves.
        n_nodes: number of nodes.

    Returns:
        [E] of the dtype of `logits`; sums to 1 over the edges of each node that has any.
    """
    largest = logits.new_full((n_nodes,), -torch.inf)
    largest = largest.scatter_reduce(0, heads, logits.detach(), "amax")
    powers = (logits - largest[heads]).exp()
    sums = torch.zeros_like(largest).index_add(0, heads, powers)
    return powers / sums[heads]


class _Product(torch.autograd.Function):
    """`matrix @ nodes` whose gradient is the product with the transpose, given beside it."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transpose: Tensor, nodes: Tensor) -> Tensor:
        ctx.matrices = matrix, transpose
        with torch.autocast(nodes.device.type, enabled=False):
            return _sums(matrix, nodes.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        matrix, transpose = ctx.matrices
        return None, None, product(transpose, gradients[0], matrix)


def _sums(matrix: Tensor, nodes: Tensor) -> Tensor:
    """`matrix @ nodes`; on a CPU as an embedding bag, which adds in the same order, but faster."""
    if nodes.device.type != "cpu":
        return matrix @ nodes
    offsets, values = matrix.crow_indices()[:-1], matrix.values()
    columns = matrix.col_indices()
    return F.embedding_bag(columns, nodes, offsets, mode="sum", per_sample_weights=values)


def product(matrix: Tensor, nodes: Tensor, transpose: Tensor) -> Tensor:
    """`matrix @ nodes`, differentiable in the nodes (any number of times), not in the matrix.

    Args:
        matrix: [M, K] sparse CSR.
        nodes: [K, D] float of the dtype of `matrix`; autocast does not touch the product.
        transpose: [K, M] sparse CSR, what gradients are multiplied with: `transposed(matrix)`, or
            `matrix` itself when it is symmetric.

    Returns:
        [M, D].
    """
    found: Tensor = _Product.apply(matrix, transpose, nodes)  # type: ignore[no-untyped-call]
    return found


def propagate(
    adjacency: Tensor, nodes: Tensor, num_layers: int, transpose: Tensor | None = None
) -> list[Tensor]:
    """Node embeddings of every layer: E_0 = `nodes`, E_{l+1} = adjacency E_l.

    Args:
        adjacency: [M, M] sparse CSR; gradients flow to the nodes only.
        nodes: [M, D] float of the dtype of `adjacency`; autocast does not touch the products.
        num_layers: L, how many products.
        transpose: [M, M] sparse CSR of a directed graph; `None` for a symmetric one.

    Returns:
        L + 1 tensors [M, D]; a readout such as their mean is the caller's.
    """
    layers = [nodes]
    for _ in range(num_layers):
        layers.append(product(adjacency, layers[-1], adjacency if transpose is None else transpose))
    return layers
