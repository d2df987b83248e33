"""Negative samples: items drawn by a law, optionally never one of the row's own items."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.queries import Ragged

__all__ = ["NegativeSampler"]

_BITMAP_BYTES = 1 << 26  # of a table of all rows and items, a bit a pair; above it, binary search
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

    def draw_shared(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Different items for all rows together, drawn uniformly, [min(count, N)] int64."""
        if self.weights is not None:
            raise ValueError("items that rows share are drawn uniformly; use alpha=0")
        size = min(count, self.n_items)
        return generator.choice(self.n_items, size, replace=False, shuffle=False)

    def unknown(self, rows: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of `items` [K], all different, is unknown to each row, [len(rows), K] bool.

        Cost: besides the answer, the known items of the distinct rows or the rows that know
        `items`, whichever are fewer on average.
        """
        if self.known is None:
            return np.ones((len(rows), len(items)), np.bool_)
        present, inverse = np.unique(rows, return_inverse=True)
        answer = np.ones((len(present), len(items)), np.bool_)
        if len(items) * len(self.known) <= len(present) * self.n_items:
            column, row = _meeting(self._knowers, items, present)
        else:
            row, column = _meeting(self.known, present, items)
        answer[row, column] = False
        return answer[inverse]

    @cached_property
    def _knowers(self) -> Ragged:
        """The rows that know each item, N rows."""
        assert self.known is not None
        order = np.argsort(self.known.values, kind="stable")
        counts = np.bincount(self.known.values, minlength=self.n_items)
        return Ragged.from_lengths(self.known.row_index()[order], counts)

    @cached_property
    def _bitmap(self) -> NDArray[np.uint8] | None:
        """A bit for each row and item that is set where it is known; `None` if it is too large."""
        assert self.known is not None
        size = -(-len(self.known) * self.n_items // 8)
        if size > _BITMAP_BYTES:
            return None
        keys = self.known.row_index() * self.n_items + self.known.values
        bits = np.zeros(size, np.uint8)
        np.bitwise_or.at(bits, keys >> 3, (1 << (keys & 7)).astype(np.uint8))
        return bits

    def _is_known(self, rows: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each item is known to its row: a bit, or one binary search, all at once."""
        bits = self._bitmap
        if bits is None:
            return self._search(rows, items)
        keys = rows * self.n_items + items
        found: NDArray[np.bool_] = (bits[keys >> 3] >> (keys & 7).astype(np.uint8)) & 1 == 1
        return found

    def _search(self, rows: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
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


def _meeting(
    lists: Ragged, chosen: NDArray[np.int64], values: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the chosen rows of `lists` have one of `values`: places in `chosen` and in `values`."""
    taken = lists.take(chosen)
    size = 1 + max(int(taken.values.max(initial=0)), int(values.max(initial=0)))
    place = np.full(size, -1, np.int64)
    place[values] = np.arange(len(values))
    found = place[taken.values]
    hits = np.flatnonzero(found >= 0)
    return taken.row_index()[hits], found[hits]
