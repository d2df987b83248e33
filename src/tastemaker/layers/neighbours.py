"""Nearest neighbours of vectors among themselves: exact, by cosine, in blocks.

Cost for M vectors of width E: 2 M^2 E operations, and about one pass over the M^2 cosines for the
selection, of which `block` rows are held at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tastemaker.layers.selection import top_k

__all__ = ["nearest_neighbours"]

_HELD = 1 << 23  # cosines held at once: 32 MB


@torch.no_grad()
def nearest_neighbours(
    vectors: Tensor, k: int, *, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k nearest other vectors of each, nearest first; equal ones in a fixed random order.

    Args:
        vectors: [M, E] float, on any device; a zero vector has cosine 0 with all.
        k: neighbours each.
        groups: [M] int64; members of one group are never neighbours (of one user, say). `None`
            leaves out each vector itself alone.

    Returns:
        Rows [M, k] int64 and cosines [M, k] float32; -1 and -inf where there are fewer than k.

    Raises:
        ValueError: when k is not positive, or a vector is not finite.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one neighbour")
    if not vectors.isfinite().all():
        raise ValueError("a vector is not finite, so it has no neighbours; check what made it")
    count, device = len(vectors), vectors.device
    unit = F.normalize(vectors.float(), dim=1)
    keys = torch.arange(count, device=device)
    ordered, members = (keys if groups is None else groups).sort(stable=True)
    rows = torch.full((count, k), -1, dtype=torch.int64, device=device)
    cosines = torch.full((count, k), -torch.inf, device=device)
    block = max(1, _HELD // max(count, 1))
    for start in range(0, count, block):
        some = slice(start, min(start + block, count))
        scores = unit[some] @ unit.T  # [b, M]
        own = keys[some] if groups is None else groups[some]
        asking, places = _runs(
            torch.searchsorted(ordered, own), torch.searchsorted(ordered, own, right=True)
        )
        scores[asking, members[places]] = -torch.inf
        found, values = top_k(scores, min(k, count), keys[some])
        rows[some, : found.shape[1]], cosines[some, : found.shape[1]] = found, values
    return rows, cosines


def _runs(starts: Tensor, stops: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers from each start [b] up to its stop, flat, and the run each is of."""
    lengths = stops - starts
    before = lengths.cumsum(0) - lengths
    runs = torch.repeat_interleave(torch.arange(len(starts), device=starts.device), lengths)
    return runs, torch.arange(len(runs), device=starts.device) + (starts - before)[runs]
