"""Random views of histories: crop, mask, reorder, insert, substitute, on whole batches at once.

The first three are "Contrastive Learning for Sequential Recommendation" (ICDE 2022, arXiv
2010.14395), the last two "Contrastive Self-supervised Sequential Recommendation with Robust
Augmentation" (arXiv 2108.06479), which takes related items from a table of neighbours. Rows are
right padded and stay so; a row of one event comes out of the first three unchanged. All draws
come from the generator that is passed. O(B L log L) each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Augmentation",
    "PaddedItems",
    "crop",
    "insert",
    "mask",
    "reorder",
    "substitute",
    "two_views",
]


@dataclass(frozen=True)
class PaddedItems:
    """A batch of right-padded histories.

    Attributes:
        items: [B, L] int64 item codes, `fill` in holes and behind the last event.
        lengths: [B] int64 events of each row, holes counted.
        fill: the code of padding.
        valid: [B, L] bool, True at events that are no holes.
    """

    items: NDArray[np.int64]
    lengths: NDArray[np.int64]
    fill: int
    valid: NDArray[np.bool_]

    @classmethod
    def of(cls, items: NDArray[np.int64], lengths: NDArray[np.int64], fill: int) -> PaddedItems:
        """Histories without holes."""
        return cls(items, lengths, fill, np.arange(items.shape[1]) < lengths[:, None])

    def take(self, rows: NDArray[np.int64]) -> PaddedItems:
        """The chosen rows."""
        return PaddedItems(self.items[rows], self.lengths[rows], self.fill, self.valid[rows])


Augmentation = Callable[[PaddedItems, np.random.Generator], PaddedItems]


def crop(rows: PaddedItems, generator: np.random.Generator, *, share: float) -> PaddedItems:
    """Drop `share` of the events: floor((1 - share) * length) in a row are kept, at least one.

    They move to position 0.
    """
    kept = np.minimum(np.maximum(_floor((1 - share) * rows.lengths), 1), rows.lengths)
    starts = generator.integers(0, rows.lengths - kept + 1)
    column = np.arange(rows.items.shape[1])
    inside = column < kept[:, None]
    source = np.minimum(starts[:, None] + column, len(column) - 1)
    items = np.take_along_axis(rows.items, source, 1)
    valid = np.take_along_axis(rows.valid, source, 1) & inside
    return PaddedItems(np.where(inside, items, rows.fill), kept, rows.fill, valid)


def mask(rows: PaddedItems, generator: np.random.Generator, *, share: float) -> PaddedItems:
    """Make floor(share * length) random events holes; lengths and positions stay."""
    holes = _places(rows.lengths, _floor(share * rows.lengths), rows.items.shape[1], generator)
    items = np.where(holes, rows.fill, rows.items)
    return replace(rows, items=items, valid=rows.valid & ~holes)


def reorder(rows: PaddedItems, generator: np.random.Generator, *, share: float) -> PaddedItems:
    """Shuffle floor(share * length) consecutive events at a random place."""
    sizes = _floor(share * rows.lengths)
    starts = generator.integers(0, rows.lengths - sizes + 1)[:, None]
    column = np.arange(rows.items.shape[1], dtype=np.float64)
    inside = (column >= starts) & (column < starts + sizes[:, None])
    drawn = starts + generator.random(rows.items.shape) * sizes[:, None]
    order = np.argsort(np.where(inside, drawn, column), axis=1, kind="stable")
    return replace(
        rows,
        items=np.take_along_axis(rows.items, order, 1),
        valid=np.take_along_axis(rows.valid, order, 1),
    )


def insert(
    rows: PaddedItems,
    generator: np.random.Generator,
    *,
    share: float,
    neighbours: NDArray[np.int64],
    max_length: int,
) -> PaddedItems:
    """Put a neighbour before each of floor(share * length) random events.

    Args:
        rows: histories without holes.
        generator: of the draws.
        share: of the events.
        neighbours: [N, K] int64 related items, -1 behind the last one of an item.
        max_length: rows that grow beyond it lose their oldest events.
    """
    width = rows.items.shape[1]
    chosen = _places(rows.lengths, _floor(share * rows.lengths), width, generator)
    drawn = _drawn_neighbours(rows, chosen, neighbours, generator)
    before = drawn >= 0  # [B, L]
    items = np.where(before, drawn, rows.fill)[:, :, None]
    items = np.concatenate([items, rows.items[:, :, None]], 2).reshape(len(items), -1)
    present = np.stack([before, rows.valid], 2).reshape(items.shape)
    lengths = present.sum(1)
    surplus = np.maximum(lengths - max_length, 0)
    present &= np.cumsum(present, 1) > surplus[:, None]
    lengths = lengths - surplus
    order = np.argsort(~present, axis=1, kind="stable")[
        :, : max(int(lengths.max(initial=0)), width)
    ]
    kept = np.take_along_axis(present, order, 1)
    items = np.where(kept, np.take_along_axis(items, order, 1), rows.fill)
    return PaddedItems(items, lengths, rows.fill, kept)


def substitute(
    rows: PaddedItems,
    generator: np.random.Generator,
    *,
    probability: float,
    neighbours: NDArray[np.int64],
) -> PaddedItems:
    """Replace each event with `probability` by a random one of its item's neighbours.

    Args:
        rows: histories; padding and holes are untouched.
        generator: of the draws.
        probability: of each event; an item without neighbours stays.
        neighbours: [N, K] int64 related items, -1 behind the last one of an item.
    """
    chosen = generator.random(rows.items.shape) < probability
    drawn = _drawn_neighbours(rows, chosen & rows.valid, neighbours, generator)
    return replace(rows, items=np.where(drawn >= 0, drawn, rows.items))


def two_views(
    rows: PaddedItems, augmentations: Sequence[Augmentation], generator: np.random.Generator
) -> tuple[PaddedItems, PaddedItems]:
    """Two views of every row, by two different augmentations drawn for that row."""
    first = generator.integers(0, len(augmentations), len(rows.items))
    step = generator.integers(1, len(augmentations), len(rows.items))
    second = (first + step) % len(augmentations)
    return (
        _augmented(rows, augmentations, first, generator),
        _augmented(rows, augmentations, second, generator),
    )


def _augmented(
    rows: PaddedItems,
    augmentations: Sequence[Augmentation],
    chosen: NDArray[np.int64],
    generator: np.random.Generator,
) -> PaddedItems:
    """Every row by its own augmentation; the view is as wide as the widest of them."""
    places = [np.flatnonzero(chosen == index) for index in range(len(augmentations))]
    parts = [
        augmentation(rows.take(some), generator)
        for augmentation, some in zip(augmentations, places, strict=True)
    ]
    width = max(part.items.shape[1] for part in parts)
    items = np.full((len(chosen), width), rows.fill)
    lengths, valid = np.zeros(len(chosen), np.int64), np.zeros(items.shape, bool)
    for some, part in zip(places, parts, strict=True):
        lengths[some] = part.lengths
        items[some, : part.items.shape[1]] = part.items
        valid[some, : part.items.shape[1]] = part.valid
    return PaddedItems(items, lengths, rows.fill, valid)


def _floor(values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Rounded down, but not because of the last bit: .9 * 10 is 9."""
    floored: NDArray[np.int64] = np.floor(values + 1e-9).astype(np.int64)
    return floored


def _places(
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    width: int,
    generator: np.random.Generator,
) -> NDArray[np.bool_]:
    """[B, width] bool: `counts` random ones of the first `lengths` positions of each row."""
    keys = generator.random((len(lengths), width))
    keys[np.arange(width) >= lengths[:, None]] = 2.0  # behind every drawn key
    ranks = np.argsort(np.argsort(keys, axis=1), axis=1)
    chosen: NDArray[np.bool_] = ranks < counts[:, None]
    return chosen


def _drawn_neighbours(
    rows: PaddedItems,
    chosen: NDArray[np.bool_],
    neighbours: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """[B, L]: a random neighbour of each chosen event's item; -1 elsewhere and where none is."""
    drawn = np.full(rows.items.shape, -1, np.int64)
    table = neighbours[rows.items[chosen]]  # [T, K]
    counts = (table >= 0).sum(1)
    columns = (generator.random(len(table)) * counts).astype(np.int64)
    drawn[chosen] = table[np.arange(len(table)), columns]
    return drawn
