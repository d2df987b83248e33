"""Medians, spreads, ratios and growth of measurements taken in turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Spread", "exponent", "line", "ratio", "reach", "spread"]


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
    return _power(points)[1]


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """a and b of y = a + b x, by least squares: the fixed part, and that of each unit of x."""
    xs, ys = zip(*points, strict=True)
    middle_x, middle_y = (sum(values) / len(values) for values in (xs, ys))
    over = sum((x - middle_x) * (y - middle_y) for x, y in points)
    each = over / sum((x - middle_x) ** 2 for x in xs)
    return middle_y - each * middle_x, each


def reach(points: Sequence[tuple[float, float]], most: float) -> float | None:
    """The x at which y comes to `most`, by the line or by the power law, whichever is sooner.

    The line knows a fixed part and is sooner below an exponent of 1, the power law above. None
    where y rises by less than a quarter from the first point to the last: that may be noise.
    """
    if points[-1][1] < 1.25 * points[0][1]:
        return None
    fixed, each = line(points)
    scale, power = _power(points)
    found = [(most - fixed) / each] if each > 0 else []
    found += [(most / scale) ** (1 / power)] if power > 0 else []
    return min(found, default=None)


def _power(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """a and b of y = a x^b."""
    fixed, power = line([(math.log(x), math.log(y)) for x, y in points])
    return math.exp(fixed), power
