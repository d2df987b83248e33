"""How sure a number is: bootstrap and jackknife intervals, and paired tests of two models.

The unit is the query: queries are resampled, never single interactions. Above `MAX_GROUPS`
queries the units are random groups of queries of equal size (to one), whose sums are resampled
instead; the interval of a mean then rests on `MAX_GROUPS` units, which fixes its width to about
one percent, and its cost no longer grows with the resamples.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap (1993); Smucker, Allan & Carterette,
A comparison of statistical significance tests for information retrieval evaluation (CIKM 2007).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import ConfigError, DataError, nearest
from tastemaker.evaluation.results import Estimate, Evaluation

__all__ = [
    "JACKKNIFE_GROUPS",
    "MAX_GROUPS",
    "Comparison",
    "bootstrap",
    "compare",
    "jackknife",
    "match_users",
    "paired_test",
]

MAX_GROUPS = 10_000
JACKKNIFE_GROUPS = 20
RESAMPLES = 1_000
FLIPS = 10_000  # so that no p-value is below 1e-4
FLIP_GROUPS = 1_000
_BLOCK = 1 << 20  # random draws at once: 8 MB
_RESAMPLED = 1 << 17  # draws of resamples at once: 1 MB, and as much for their counts


def bootstrap(
    values: Sequence[NDArray[np.float64]], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Estimate]:
    """Means over queries with 95 % percentile bootstrap intervals.

    All metrics share the resamples, so that their intervals belong together.

    Args:
        values: M arrays [B]; NaN where a query has no value.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        M estimates. Takes O(B M + resamples * min(B, MAX_GROUPS) * M) time.
    """
    if not values or len(values[0]) == 0:
        return [Estimate(math.nan, math.nan, math.nan, 0)] * len(values)
    rng = np.random.default_rng(seed)
    sums, counts = _group_sums(values, rng, MAX_GROUPS)  # [G, M] each
    n = counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.sum(0) / n
        drawn = np.concatenate(
            [(w @ sums) / (w @ counts) for w in _resampling_weights(len(sums), resamples, rng)]
        )  # [resamples, M]
    return [
        Estimate(float(mean), *_percentiles(column), n=int(count))
        for mean, column, count in zip(means, drawn.T, n, strict=True)
    ]


def _percentiles(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of the resampled means that exist."""
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        return math.nan, math.nan
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _group_sums(
    values: Sequence[NDArray[np.float64]], rng: np.random.Generator, most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of each unit's values, and how many there are, [G, M] each; at most so many units."""
    n_queries = len(values[0])
    if n_queries <= most:
        stacked = np.stack(values, 1).astype(np.float64)
        present = ~np.isnan(stacked)
        return np.where(present, stacked, 0.0), present.astype(np.float64)
    groups = rng.permutation(np.arange(n_queries) % most)
    sums, counts = [], []
    for column in values:
        present = ~np.isnan(column)
        weights = np.where(present, column, 0.0)
        sums.append(np.bincount(groups, weights, minlength=most))
        counts.append(np.bincount(groups, present, minlength=most))
    return np.stack(sums, 1), np.stack(counts, 1)


def _resampling_weights(
    n: int, resamples: int, rng: np.random.Generator
) -> Iterable[NDArray[np.float64]]:
    """How often each of n units is drawn, in blocks [some resamples, n] of float64."""
    step = max(1, _RESAMPLED // max(n, 1))
    for start in range(0, resamples, step):
        draws = rng.integers(0, n, (min(step, resamples - start), n))
        weights = np.empty(draws.shape)
        for row, drawn in zip(weights, draws, strict=True):  # the counts of one stay in the cache
            row[:] = np.bincount(drawn, minlength=n)
        yield weights


def jackknife(value: float, without: NDArray[np.float64], n: int) -> Estimate:
    """A 95 % delete-a-group jackknife interval, for metrics that are not means over queries.

    Resampling with replacement would repeat lists and so lower coverage; leaving groups out does
    not. Its variance is never too small on average (Efron & Stein, Annals of Statistics 1981).

    Args:
        value: the metric of all queries.
        without: [G] the metric without each of G groups of queries; NaN where undefined.
        n: queries that have a value.
    """
    without = without[~np.isnan(without)]
    groups = len(without)
    if groups < 2 or math.isnan(value):
        return Estimate(value, math.nan, math.nan, n)
    from scipy.special import stdtrit

    variance = (groups - 1) / groups * np.sum((without - without.mean()) ** 2)
    reach = float(stdtrit(groups - 1, 0.975) * math.sqrt(variance))
    return Estimate(value, value - reach, value + reach, n)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same queries.

    Attributes:
        first: mean of the first model over the shared queries.
        second: mean of the second.
        difference: second minus first, with its paired bootstrap interval.
        p_value: of the two-sided sign-flip permutation test of "no difference".
        p_value_t: of the two-sided paired t test.
    """

    first: float
    second: float
    difference: Estimate
    p_value: float
    p_value_t: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        numbers = {
            "first": self.first,
            "second": self.second,
            "p_value": self.p_value,
            "p_value_t": self.p_value_t,
        }
        return {
            "difference": self.difference.to_json(),
            **{name: None if math.isnan(x) else x for name, x in numbers.items()},
        }


def paired_test(
    first: NDArray[np.float64], second: NDArray[np.float64], *, seed: int = 0
) -> Comparison:
    """Compare two models' values of one metric on the same queries.

    Queries where either has no value (NaN) are left out. With fewer than two queries left both
    p-values are NaN.

    Args:
        first: [B] values of the first model.
        second: [B] values of the second model on the same queries in the same order.
        seed: of the resampling.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    gap = second - first
    (difference,) = bootstrap([gap], seed=seed)
    if len(gap) == 0:
        return Comparison(math.nan, math.nan, difference, math.nan, math.nan)
    return Comparison(
        first=float(first.mean()),
        second=float(second.mean()),
        difference=difference,
        p_value=_sign_flip(gap, np.random.default_rng(seed)),
        p_value_t=_paired_t(gap),
    )


def _paired_t(gap: NDArray[np.float64]) -> float:
    if len(gap) < 2:
        return math.nan
    error = float(gap.std(ddof=1)) / math.sqrt(len(gap))
    if error == 0.0:
        return 1.0 if gap[0] == 0.0 else 0.0
    from scipy.special import stdtr

    return float(2 * stdtr(len(gap) - 1, -abs(float(gap.mean())) / error))


def _sign_flip(gap: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Share of random sign flips whose sum is as far from zero as the one seen.

    Above `FLIP_GROUPS` queries, groups of them flip together: a flip of groups is one of the flips
    that leave the null distribution as it is, so the test stays exact.
    """
    if len(gap) < 2:
        return math.nan
    sums, _ = _group_sums([gap], rng, FLIP_GROUPS)
    units = sums[:, 0]
    seen = abs(float(units.sum()))
    # Sums of the same numbers in another order differ by rounding; such ties count as reached.
    seen -= 1e-12 * float(np.abs(units).sum())
    reached = 0
    step = max(1, _BLOCK // len(units))
    for start in range(0, FLIPS, step):
        rows = min(step, FLIPS - start)
        kept = rng.integers(0, 2, (rows, len(units)), np.int8).astype(np.float64)
        flipped = 2.0 * (kept @ units) - units.sum()
        reached += int((np.abs(flipped) >= seen).sum())
    return (reached + 1) / (FLIPS + 1)


def match_users(
    first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the same users in both arrays, in the order of user codes.

    Raises:
        DataError: when a user has several queries and the two arrays are not the same.
    """
    if np.array_equal(first, second):
        everyone = np.arange(len(first), dtype=np.int64)
        return everyone, everyone
    for name, users in (("first", first), ("second", second)):
        unique, counts = np.unique(users, return_counts=True)
        if np.any(counts > 1):
            user = unique[counts > 1][0]
            raise DataError(
                f"the {name} evaluation has several queries of user {user}, so queries cannot be "
                "matched by user; compare evaluations of the same part"
            )
    _, left, right = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return left.astype(np.int64), right.astype(np.int64)


def compare(
    first: Evaluation,
    second: Evaluation,
    metrics: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Paired comparison of two evaluations, metric by metric, on the users both have.

    The p-values are for one metric each; with many metrics, expect some small ones by chance.

    Args:
        first: the baseline.
        second: what is compared with it.
        metrics: names; by default all metrics that both have per query.
        seed: of the resampling.

    Raises:
        ConfigError: for a metric that one of them has no values of.
        DataError: when they share no user.
    """
    shared = [name for name in first.per_query if name in second.per_query]
    for name in metrics or ():
        if name not in shared:
            raise ConfigError(
                f"metric {name!r} has no values per query in both evaluations"
                f"{nearest(name, shared)}; shared: {', '.join(shared) or 'none'}"
            )
    left, right = match_users(first.users, second.users)
    if len(left) == 0:
        raise DataError("the two evaluations share no user; compare runs on the same split")
    return {
        name: paired_test(first.per_query[name][left], second.per_query[name][right], seed=seed)
        for name in (shared if metrics is None else metrics)
    }
