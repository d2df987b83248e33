"""Graphs of nearest neighbours between feature vectors, which multimodal methods propagate over.

A row of the graph holds a node and its nearest others by cosine: LATTICE (ACM MM 2021, arXiv
2104.09036) weighs edges by similarity, FREEDOM (ACM MM 2023, arXiv 2211.06924) gives all the same.
Edges are directed: a neighbour need not return the favour.

Cost: the search of `layers.neighbours`, then 12 bytes an edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tastemaker.layers.neighbours import nearest_neighbours
from tastemaker.layers.propagation import entries, sparse_matrix

__all__ = ["mixed_graph", "neighbour_graph"]


@torch.no_grad()
def neighbour_graph(
    features: Tensor,
    k: int,
    *,
    include_self: bool = True,
    weighted: bool = False,
    normalisation: Literal["row", "symmetric"] = "symmetric",
    present: Tensor | None = None,
) -> Tensor:
    """The graph of the k nearest rows of `features` by cosine.

    Args:
        features: [N, F] float.
        k: edges of a row, itself counted when `include_self`; fewer where there are no more rows.
        include_self: whether a row is the first of its own neighbours, or none of them.
        weighted: whether edges weigh their cosine (from 0 up) before normalisation, or 1.
        normalisation: `"row"` divides by the row sum r_i, `"symmetric"` by sqrt(r_i r_j).
        present: [N] bool, rows that have features. The others, and those of norm 0, are nobody's
            neighbour and have none but themselves.

    Returns:
        [N, N] float32 sparse CSR on the device of `features`.
    """
    n_rows, n_others = len(features), k - 1 if include_self else k
    known = features.norm(dim=1) > 0
    if present is not None:
        known &= present
    names = known.nonzero()[:, 0]
    rows = columns = torch.arange(n_rows if include_self else 0, device=features.device)
    values = torch.ones(len(rows), device=features.device)
    if n_others > 0:
        found, cosines = nearest_neighbours(features[names], n_others)  # [n, k']
        filled = found >= 0
        heads = names[:, None].expand_as(found)[filled]
        weights = cosines[filled].clamp(0, 1) if weighted else torch.ones_like(cosines[filled])
        rows, columns = torch.cat([rows, heads]), torch.cat([columns, names[found[filled]]])
        values = torch.cat([values, weights])
    sums = values.new_zeros(n_rows).index_add_(0, rows, values)
    sums = sums.clamp(min=torch.finfo(sums.dtype).tiny)
    match normalisation:
        case "row":
            values = values / sums[rows]
        case "symmetric":
            values = values / (sums[rows] * sums[columns]).sqrt()
    return sparse_matrix(rows, columns, values, (n_rows, n_rows))


def mixed_graph(graphs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum of graphs over the same nodes, one graph a modality.

    Args:
        graphs: [N, N] sparse CSR each.
        weights: one number a graph.

    Returns:
        [N, N] sparse CSR.
    """
    if not graphs or len(graphs) != len(weights):
        raise ValueError(f"{len(graphs)} graphs and {len(weights)} weights; give each graph one")
    parts = [entries(graph) for graph in graphs]
    rows, columns = (torch.cat([part[axis] for part in parts]) for axis in (0, 1))
    values = torch.cat([part[2] * weight for part, weight in zip(parts, weights, strict=True)])
    return sparse_matrix(rows, columns, values, (graphs[0].shape[0], graphs[0].shape[1]))
