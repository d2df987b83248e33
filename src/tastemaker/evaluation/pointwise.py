"""Pointwise metrics: how well scores of given (query, item) rows agree with their labels.

Of all rows together; labels are 0 and 1 for the first four, any number for the last two:

    auc                area under the ROC curve; rows with equal scores count half
    gauc               mean of each query's own AUC, weighted by its rows; queries whose labels are
                       all alike have none and are left out (Zhou et al., KDD 2018)
    log_loss           mean of -log of the probability given to the label, in nats; probabilities
                       are kept 2.2e-16 away from 0 and 1
    calibration_error  mean distance between probability and label, averaged over ten bins of equal
                       width before the distance is taken, weighted by rows (Guo et al., ICML 2017)
    rmse               root of the mean squared difference of score and label
    mae                mean absolute difference

A metric that is not defined (no rows, one class only) is NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BINARY_METRICS",
    "LOWER_IS_BETTER",
    "POINTWISE_METRICS",
    "auc",
    "calibration_error",
    "gauc",
    "grouped_auc",
    "log_loss",
    "log_losses",
    "mae",
    "rmse",
]

BINS = 10  # of the calibration error (Guo et al. use 15, scikit-learn 5; ten is our choice)

#: metrics whose labels are 0 and 1
BINARY_METRICS = ("auc", "gauc", "log_loss", "calibration_error")
POINTWISE_METRICS = (*BINARY_METRICS, "rmse", "mae")
#: metrics that are losses or errors; of every other metric that is watched, more is better
LOWER_IS_BETTER = frozenset({"log_loss", "calibration_error", "rmse", "mae"})

Floats = NDArray[np.float64]


def auc(scores: Floats, labels: Floats) -> float:
    """AUC of scores [R] and labels [R] of 0 and 1; NaN with one class only. O(R log R)."""
    return float(grouped_auc(scores, labels, np.zeros(len(scores), np.int64), 1)[0])


def grouped_auc(scores: Floats, labels: Floats, groups: NDArray[np.int64], n_groups: int) -> Floats:
    """The AUC of each group's rows, [n_groups] float64; NaN with one class only.

    By rank sums: AUC = (sum of the positives' ranks - P (P + 1) / 2) / (P * (rows - P)), where
    equal scores share their mean rank.

    Args:
        scores: [R].
        labels: [R] of 0 and 1.
        groups: [R], which group each row is in.
        n_groups: more than any of `groups`.
    """
    order = np.lexsort((scores, groups))
    scores, labels, groups = scores[order], labels[order], groups[order]
    n_rows = np.bincount(groups, minlength=n_groups)
    n_positive = np.bincount(groups, labels, minlength=n_groups)
    new = np.ones(len(scores), bool)
    new[1:] = (groups[1:] != groups[:-1]) | (scores[1:] != scores[:-1])
    starts = np.flatnonzero(new)
    sizes = np.diff(starts, append=len(scores))
    firsts = (np.cumsum(n_rows) - n_rows)[groups[starts]]  # where the group begins
    ranks = np.repeat(starts - firsts + (sizes + 1) / 2, sizes)  # mean rank of equal scores
    rank_sums = np.bincount(groups, ranks * labels, minlength=n_groups)
    pairs = n_positive * (n_rows - n_positive)
    won = rank_sums - n_positive * (n_positive + 1) / 2
    return np.asarray(np.divide(won, pairs, out=np.full(n_groups, np.nan), where=pairs > 0))


def gauc(scores: Floats, labels: Floats, groups: NDArray[np.int64]) -> float:
    """GAUC of scores [R] and labels [R] of 0 and 1 in groups [R]; NaN when no group has both."""
    if len(groups) == 0:
        return math.nan
    _, groups, n_rows = np.unique(groups, return_inverse=True, return_counts=True)
    each = grouped_auc(scores, labels, groups.astype(np.int64), len(n_rows))
    has = ~np.isnan(each)
    return float(np.average(each[has], weights=n_rows[has])) if has.any() else math.nan


def log_loss(probabilities: Floats, labels: Floats) -> float:
    """Log loss of probabilities [R] and labels [R] of 0 and 1."""
    return _mean(log_losses(probabilities, labels))


def log_losses(probabilities: Floats, labels: Floats) -> Floats:
    """The log loss of each row, [R]."""
    edge = np.finfo(np.float64).eps
    given = np.clip(probabilities, edge, 1.0 - edge)
    return np.asarray(-(labels * np.log(given) + (1.0 - labels) * np.log1p(-given)))


def calibration_error(probabilities: Floats, labels: Floats) -> float:
    """Expected calibration error of probabilities [R] and labels [R] of 0 and 1.

    A bin holds its upper edge, the first also 0.
    """
    if len(labels) == 0:
        return math.nan
    inner = np.linspace(0.0, 1.0, BINS + 1)[1:-1]
    bins = np.searchsorted(inner, probabilities)
    gaps = np.bincount(bins, probabilities - labels, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def rmse(scores: Floats, labels: Floats) -> float:
    """Root mean squared error of scores [R] and labels [R]."""
    return math.sqrt(_mean((scores - labels) ** 2))


def mae(scores: Floats, labels: Floats) -> float:
    """Mean absolute error of scores [R] and labels [R]."""
    return _mean(np.abs(scores - labels))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan
