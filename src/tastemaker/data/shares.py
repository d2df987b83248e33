"""Exact shares and random draws over whole columns: the arithmetic under the split rules."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw", "exact_share", "floor_share", "shuffled_within", "smallest"]

_UNIT = 10**9


def exact_share(share: float | None) -> Fraction:
    """The decimal fraction a share was written as, to nine places; None is 0."""
    return Fraction(round((share or 0) * _UNIT), _UNIT)


def floor_share(count: NDArray[np.int64] | int, share: Fraction) -> NDArray[np.int64]:
    """`floor(share * count)` without rounding errors, int64 of the shape of `count`.

    Exact for counts up to 2**33, as shares are whole numbers of billionths.
    """
    return np.asarray(count, np.int64) * share.numerator // share.denominator


def smallest(keys: NDArray[np.generic], count: int) -> NDArray[np.bool_]:
    """Where the `count` smallest keys are, [n]; of equal keys the first, in O(n)."""
    if count <= 0:
        return np.zeros(len(keys), np.bool_)
    threshold = np.partition(keys, count - 1)[count - 1]
    chosen: NDArray[np.bool_] = keys < threshold
    ties = np.flatnonzero(keys == threshold)
    chosen[ties[: count - int(np.count_nonzero(chosen))]] = True
    return chosen


def draw(
    among: NDArray[np.int64], shares: Sequence[float], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Disjoint random choices from `among`: `floor(share * len(among))` of it for each share."""
    counts = [int(floor_share(len(among), exact_share(share))) for share in shares]
    return np.split(rng.permutation(among), np.cumsum(counts))[:-1]


def shuffled_within(offsets: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Row numbers [n] int64, shuffled within each user's range.

    One sort of 64-bit keys (user, random bits, place within the user); the random bits are what
    the other two leave, at least 16 for up to 2**24 users with up to 2**24 events.
    """
    counts = np.diff(offsets)
    n = int(offsets[-1])
    place_bits = int(counts.max(initial=1)).bit_length()
    random_bits = 63 - place_bits - len(counts).bit_length()
    users = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    starts = np.repeat(offsets[:-1], counts)
    keys = (users << random_bits | rng.integers(0, 1 << random_bits, n)) << place_bits
    keys |= np.arange(n) - starts
    keys.sort()
    keys &= (1 << place_bits) - 1
    keys += starts
    return keys
