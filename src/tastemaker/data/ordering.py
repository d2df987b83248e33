"""Sorting events by (user, time, source row) in linear passes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["event_order", "gather", "user_offsets"]

_BLOCK = 1 << 20  # rows; temporaries of a block stay in the cache
_THREADS = min(os.cpu_count() or 1, 8)  # more wait for the memory, and each holds a block's rows


def gather(values: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """values[rows] without a copy of `rows` as int64, which NumPy would make of the whole."""
    gathered = np.empty(len(rows), values.dtype)

    def fill(start: int) -> None:
        gathered[start : start + _BLOCK] = values[rows[start : start + _BLOCK]]

    if len(rows) <= _BLOCK:
        fill(0)
        return gathered
    with ThreadPoolExecutor(_THREADS) as pool:  # NumPy gathers without Python's lock
        list(pool.map(fill, range(0, len(rows), _BLOCK)))
    return gathered


def user_offsets(users: NDArray[Any], n_users: int) -> NDArray[np.int64]:
    """[n_users + 1] int64: the rows of user u in a sorted log are offsets[u]:offsets[u + 1]."""
    offsets = np.zeros(n_users + 1, np.int64)
    np.cumsum(np.bincount(users, minlength=n_users), out=offsets[1:])
    return offsets


def event_order(
    users: NDArray[np.int32], n_users: int, keys: NDArray[Any] | None
) -> NDArray[Any] | None:
    """The permutation that sorts events by (user, key, row), or None when they are sorted.

    A sort of the keys alone, then one counting sort by user: O(R) beside the former, and and
    about six times the bytes of `users` in temporary memory.

    Args:
        users: [R] int32 user codes.
        n_users: codes are below this.
        keys: [R] int64 or float64 times or positions; None keeps the source order of each user.

    Returns:
        [R] int32 row numbers (int64 from 2**31 rows on), or None.
    """
    by_key = None if keys is None else _stable_order(keys)
    if by_key is not None:
        users = gather(users, by_key)
    if _never_falls(users):
        return by_key
    return _counting_order(users, n_users, by_key)


def _never_falls(values: NDArray[Any]) -> bool:
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK + 1]
        if not np.all(block[1:] >= block[:-1]):
            return False
    return True


def _row_type(n_rows: int) -> type[np.int32] | type[np.int64]:
    return np.int32 if n_rows < 2**31 - 1 else np.int64


def _stable_order(keys: NDArray[Any]) -> NDArray[Any] | None:
    """The stable sorting permutation of the keys, or None when they never fall."""
    if _never_falls(keys):
        return None
    n_rows = len(keys)
    row_bits = n_rows.bit_length()
    if keys.dtype == np.int64:
        lowest = int(keys.min())
        if (int(keys.max()) - lowest).bit_length() + row_bits <= 64:
            # key and row share 64 bits: sorting plain integers is several times faster than
            # an argsort, and the row number makes it stable
            packed = (keys - lowest).view(np.uint64)
            packed <<= np.uint64(row_bits)
            for start in range(0, n_rows, _BLOCK):
                block = packed[start : start + _BLOCK]
                block |= np.arange(start, start + len(block), dtype=np.uint64)
            packed.sort()
            packed &= np.uint64((1 << row_bits) - 1)
            return packed.astype(_row_type(n_rows))
    return np.argsort(keys, kind="stable").astype(_row_type(n_rows), copy=False)


def _counting_order(
    users: NDArray[np.int32], n_users: int, rows: NDArray[Any] | None
) -> NDArray[Any]:
    """`rows` (or 0, 1, ...) stably sorted by user.

    Rows of events are the entries of a CSR matrix [events, users] with one entry a row; SciPy
    turns it into CSC by a counting sort, and the entries of a column are a user's events in order.
    """
    from scipy.sparse import csr_array

    starts = np.arange(len(users) + 1, dtype=_row_type(len(users)))
    entries = starts[:-1] if rows is None else rows
    matrix = csr_array((entries, users, starts), shape=(len(users), n_users))
    ordered: NDArray[Any] = matrix.tocsc().data
    return ordered
