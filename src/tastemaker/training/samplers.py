"""Negative samples: items drawn by a law, optionally never one of the row's own items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.queries import Ragged

__all__ = ["NegativeSampler"]

_MAX_ROUNDS = 20  # after these redraws a user with nearly every item keeps what was drawn


@dataclass(frozen=True)
class NegativeSampler:
    """Draws items uniformly or by popularity^alpha.

    Attributes:
        n_items: catalog size N.
        known: items each row must not be given, rows sorted ascending; `None` allows every item.
        weights: [N] float64 cumulative probabilities of a non-uniform law, or `None`.
    """

    n_items: int
    known: Ragged | None = None
    weights: NDArray[np.float64] | None = None

    @classmethod
    def build(
        cls,
        n_items: int,
        *,
        known: Ragged | None = None,
        counts: NDArray[np.int64] | None = None,
        alpha: float = 0.0,
    ) -> NegativeSampler:
        """A sampler over N items.

        Args:
            n_items: catalog size.
            known: per row the items to avoid (any order, repeats allowed).
            counts: [N] interactions per item, needed when `alpha` is not 0.
            alpha: exponent of popularity; 0 is uniform.
        """
        weights = None
        if alpha:
            if counts is None:
                raise ValueError("popularity sampling needs the item counts")
            law = np.power(counts.astype(np.float64), alpha)
            weights = np.cumsum(law) / law.sum()
        if known is not None:
            known = known.distinct(n_items)
        return cls(n_items, known, weights)

    def draw(self, size: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.int64]:
        """Items of any row, shape `size`, int64."""
        if self.weights is None:
            return generator.integers(0, self.n_items, size, dtype=np.int64)
        return np.searchsorted(self.weights, generator.random(size), side="right").clip(
            max=self.n_items - 1
        )

    def draw_for(
        self, rows: NDArray[np.int64], per_row: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """[len(rows), per_row] int64 items that are not among the known ones of each row."""
        drawn = self.draw((len(rows), per_row), generator)
        if self.known is None:
            return drawn
        flat = drawn.reshape(-1)
        row_of = np.repeat(rows, per_row)
        pending = np.arange(len(flat))
        for _ in range(_MAX_ROUNDS):
            pending = pending[self._is_known(row_of[pending], flat[pending])]
            if not len(pending):
                break
            flat[pending] = self.draw((len(pending),), generator)
        return drawn

    def _is_known(self, rows: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each item is known to its row: one binary search per item, all at once."""
        assert self.known is not None
        low, high = self.known.offsets[rows].copy(), self.known.offsets[rows + 1].copy()
        stop = high.copy()
        values = self.known.values
        for _ in range(int(self.known.lengths.max(initial=0)).bit_length()):
            middle = (low + high) >> 1
            below = (low < high) & (values[np.minimum(middle, len(values) - 1)] < items)
            low = np.where(below, middle + 1, low)
            high = np.where(below, high, np.maximum(middle, low))
        found = low < stop
        found[found] = values[low[found]] == items[found]
        return found
