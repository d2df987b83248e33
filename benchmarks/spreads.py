"""Medians, spreads, ratios and exponents of measurements taken in turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Spread", "exponent", "ratio", "spread"]


@dataclass(frozen=True)
class Spread:
    """The middle of some measurements, and the least and the greatest of them."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one measurement."""
    return Spread(median(values), min(values), max(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs, round by round; a side with fewer rounds stands for its last one."""
    rounds = max(len(ours), len(theirs))
    pairs = [
        (ours[min(at, len(ours) - 1)], theirs[min(at, len(theirs) - 1)]) for at in range(rounds)
    ]
    return spread([one / other for one, other in pairs])


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """b of y = a x^b through points (x, y) above zero, by least squares of the logarithms."""
    xs, ys = ([math.log(pair[at]) for pair in points] for at in (0, 1))
    middle_x, middle_y = (sum(values) / len(values) for values in (xs, ys))
    over = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - middle_x) ** 2 for x in xs)
