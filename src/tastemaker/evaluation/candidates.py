"""Sampled ranking: which items a query's targets are ranked among, when not the whole catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.data.queries import Ragged
from tastemaker.errors import ConfigError

__all__ = ["Candidates", "block_size", "draw"]

_BLOCK = 1 << 22  # random numbers at once: 16 MB


@dataclass(frozen=True)
class Candidates:
    """Sampled ranking: the targets among a few drawn items instead of the whole catalog.

    Such numbers cannot be compared with those of a full ranking, and may even order models
    differently (Krichene & Rendle, On sampled metrics for item recommendation, KDD 2020).

    Attributes:
        n: items drawn per query, without replacement, besides its targets.
        by: `"uniform"`, or `"popularity"`: in proportion to the training interactions.
        seed: of the draw.
    """

    n: int
    by: Literal["uniform", "popularity"] = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"candidates: n is {self.n}, but must be at least 1")
        if self.by not in ("uniform", "popularity"):
            raise ConfigError(
                f"candidates: by is {self.by!r}, but must be 'uniform' or 'popularity'"
            )


def block_size(n_items: int) -> int:
    """Queries per block of draws: fixed by the catalog, so that no number depends on batches."""
    return max(1, min(1024, _BLOCK // n_items))


def draw(
    weights: NDArray[np.int64],
    n: int,
    taken: Sequence[Ragged],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Items for each row, without replacement and none that is taken, [b, n]; -1 = none left.

    Each item waits an exponential time at a rate of its weight; the first n to arrive are a
    sample without replacement in proportion to the weights. Takes O(b N) time.

    Args:
        weights: [N] int64, not negative.
        n: items to draw.
        taken: item codes that must not be drawn, b rows each.
        rng: source of the draw.
    """
    waits = rng.standard_exponential((len(taken[0]), len(weights)), np.float32)
    waits /= np.maximum(weights, 1).astype(np.float32)
    waits[:, weights == 0] = np.inf
    for rows in taken:
        waits[rows.row_index(), rows.values] = np.inf
    first, items = torch.topk(torch.from_numpy(waits), min(n, len(weights)), 1, largest=False)
    return np.where(np.isinf(first.numpy()), -1, items.numpy())
