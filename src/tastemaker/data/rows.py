"""Walking over tens of millions of rows in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["blocks", "codes_at", "distinct"]

_BLOCK = 1 << 18  # rows at once: 2 MB of row numbers


def blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of consecutive values; gathering by one at a time takes no memory to speak of."""
    for start in range(0, len(values), _BLOCK):
        yield values[start : start + _BLOCK]


def codes_at(column: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """`column[rows]` as int64, without an int32 array of that length in between."""
    codes = np.empty(len(rows), np.int64)
    for target, block in zip(blocks(codes), blocks(rows), strict=True):
        target[:] = column[block]
    return codes


def distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct values in ascending order.

    `np.unique` hashes integers, which takes tens of times as long where they are nearly in order.
    """
    ordered = np.sort(values)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]
