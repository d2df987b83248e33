"""Many small regularised least-squares problems at once, one per user or item.

Row b solves (sum over its items of v v^T + scale_b S + ridge_b I) x = sum over its items of v,
where S is shared by all rows (a cached Gramian or covariance). Rows are sorted by length and cut
into blocks that stay in cache, so padding is small and forming the systems is one batched matrix
product.

Cost: 2 D^2 per item of a row and D^3 / 3 per row; memory of one block beside the result.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.data.queries import Ragged
from tastemaker.models.collaborative.histories import sum_rows
from tastemaker.training.loop import TrainingError

__all__ = ["solve_least_squares"]

_BLOCK_ITEMS = 1 << 13  # items gathered per block: 2 MB of float32 at width 64
_BLOCK_NUMBERS = 1 << 18  # entries of all systems of a block: 1 MB of float32


def solve_least_squares(
    table: Tensor, rows: Ragged, shared: Tensor, scale: Tensor, ridge: Tensor
) -> Tensor:
    """The solutions x of all rows.

    Args:
        table: [N, D] float32 or float64 vectors v.
        rows: B rows of codes into `table`; a row without any gets zeros.
        shared: [D, D] S, symmetric and positive semidefinite.
        scale: [B] weights of S.
        ridge: [B] weights of the identity, positive.

    Returns:
        [B, D] of the dtype and device of `table`.

    Raises:
        TrainingError: when a system is singular in this precision; a larger ridge mends it.
    """
    width, device = table.shape[1], table.device
    padded = torch.cat([table, table.new_zeros(1, width)])  # code N is a zero vector
    targets = sum_rows(table, rows)
    solutions = torch.zeros_like(targets)
    values = torch.from_numpy(rows.values).to(device)
    for block in _blocks(rows.lengths, max(1, _BLOCK_NUMBERS // width**2)):
        chosen = torch.from_numpy(block).to(device)
        lengths = torch.from_numpy(rows.lengths[block]).to(device)[:, None]
        starts = torch.from_numpy(rows.offsets[block]).to(device)[:, None]
        column = torch.arange(int(rows.lengths[block[0]]), device=device)
        places = (starts + column).clamp_(max=len(values) - 1)
        codes = torch.where(column < lengths, values[places], len(table))  # [b, L]
        vectors = padded.index_select(0, codes.flatten()).view(*codes.shape, width)  # [b, L, D]
        systems = vectors.mT @ vectors
        systems.addcmul_(scale[chosen, None, None], shared)
        systems.diagonal(dim1=1, dim2=2).add_(ridge[chosen, None])
        solutions[chosen] = _solve_positive(systems, targets[chosen])
    if not solutions.isfinite().all():
        raise TrainingError(
            f"a least-squares system is singular in {table.dtype}; use a larger regularisation"
        )
    return solutions


def _blocks(lengths: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of at most `most` rows of similar length, the longest first; empty rows in none."""
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    first = 0
    while first < len(order):
        size = min(most, max(1, _BLOCK_ITEMS // int(lengths[order[first]])))
        yield order[first : first + size]
        first += size


def _solve_positive(systems: Tensor, targets: Tensor) -> Tensor:
    """Solutions of [b, D, D] symmetric positive definite systems with right sides [b, D]."""
    lower = torch.linalg.cholesky_ex(systems)[0]  # NaN where there is none
    forward = torch.linalg.solve_triangular(lower, targets[:, :, None], upper=False)
    solutions: Tensor = torch.linalg.solve_triangular(lower.mT, forward, upper=True)
    return solutions[:, :, 0]
