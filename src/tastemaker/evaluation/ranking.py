"""Ranking metrics with binary relevance, computed from the ranks at which targets were found.

A list is reduced to its hits, and every metric is a sum over hits: the cost after that is linear
in the number of hits, whatever the list length.

Definitions, with R the number of distinct targets of a query and ranks counted from 1 (trec_eval's,
against which the tests check them):

    recall@k     hits in the first k / R
    hr@k         1 if there is a hit in the first k, else 0   (trec_eval: success)
    precision@k  hits in the first k / k, also when the list is shorter
    mrr@k        1 / rank of the first hit, 0 if there is none in the first k
    map@k        sum over hits in the first k of (hits up to there / rank) / R
    ndcg@k       sum over hits in the first k of 1 / log2(1 + rank), over the same sum for a list
                 that begins with min(k, R) hits

For a query without targets every metric is 0; `evaluate` leaves such queries out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.queries import Ragged

__all__ = ["RANKING_METRICS", "Hits", "target_ranks"]

_BLOCK = 1 << 17  # comparisons at once: the block stays in the cache


def target_ranks(items: NDArray[np.int64], targets: Ragged) -> NDArray[np.int32]:
    """The rank (from 1) at which each target stands in its query's list, 0 where it does not.

    Args:
        items: [B, K] item codes, best first, each at most once in a row; -1 where the list ends.
        targets: B rows of item codes.

    Returns:
        [number of targets] int32. Takes K comparisons a target.
    """
    ranks = np.zeros(len(targets.values), np.int32)
    rows = targets.row_index()
    # Codes stay below 2**31, and half the bytes are compared in half the time.
    lists, values = items.astype(np.int32), targets.values.astype(np.int32)
    step = max(1, _BLOCK // max(items.shape[1], 1))
    for start in range(0, len(ranks), step):
        block = slice(start, start + step)
        found = lists[rows[block]] == values[block, None]  # [step, K]
        first = found.argmax(1)
        hit = found[np.arange(len(first)), first]
        ranks[block] = np.where(hit, first + 1, 0)
    return ranks


@dataclass(frozen=True)
class Hits:
    """The targets that were found, in the order of (query, rank).

    Attributes:
        rows: [H] int64, which query.
        ranks: [H] int64, at which rank, from 1.
        ordinals: [H] int64, the how manieth hit of its query, from 1.
        n_relevant: [B] int64, distinct targets of each query.
    """

    rows: NDArray[np.int64]
    ranks: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    n_relevant: NDArray[np.int64]

    @classmethod
    def from_ranks(
        cls,
        ranks: NDArray[np.int32],
        targets: Ragged,
        relevant: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """From `target_ranks`.

        Args:
            ranks: [T] rank of each target, 0 = not found.
            targets: B rows with T values in all, distinct within a row.
            relevant: [T], which targets count; the others are as good as any other item.
        """
        rows = targets.row_index()
        counted = np.ones(len(ranks), bool) if relevant is None else relevant
        n_relevant = np.bincount(rows[counted], minlength=len(targets)).astype(np.int64)
        hit = np.flatnonzero(counted & (ranks > 0))
        # One key to sort by is several times faster than two, and no two hits share a place.
        hit = hit[np.argsort(rows[hit] * (int(ranks.max(initial=0)) + 1) + ranks[hit])]
        rows = rows[hit]
        n_hits = np.bincount(rows, minlength=len(targets))
        before = (np.cumsum(n_hits) - n_hits)[rows]  # hits of earlier queries
        ordinals = np.arange(1, len(hit) + 1, dtype=np.int64) - before
        return cls(rows, ranks[hit].astype(np.int64), ordinals, n_relevant)

    @classmethod
    def of(cls, items: NDArray[np.int64], targets: Ragged) -> Hits:
        """From lists [B, K] (see `target_ranks`) and B rows of distinct targets."""
        return cls.from_ranks(target_ranks(items, targets), targets)

    def total(self, k: int, gains: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Sum of the gains (1 when left out) of each query's hits in the first k, [B] float64."""
        within = self.ranks <= k
        weights = None if gains is None else gains[within]
        counts = np.bincount(self.rows[within], weights, minlength=len(self.n_relevant))
        return counts.astype(np.float64)

    def per_relevant(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """`sums` divided by the number of targets; 0 for queries without."""
        return sums / np.maximum(self.n_relevant, 1)


def recall(hits: Hits, k: int) -> NDArray[np.float64]:
    """Recall@k of each query, [B] float64."""
    return hits.per_relevant(hits.total(k))


def hit_rate(hits: Hits, k: int) -> NDArray[np.float64]:
    """HR@k of each query, [B] float64 of 0 and 1."""
    return np.minimum(hits.total(k), 1.0)


def precision(hits: Hits, k: int) -> NDArray[np.float64]:
    """Precision@k of each query, [B] float64."""
    return hits.total(k) / k


def reciprocal_rank(hits: Hits, k: int) -> NDArray[np.float64]:
    """MRR@k of each query, [B] float64."""
    return hits.total(k, (hits.ordinals == 1) / hits.ranks)


def average_precision(hits: Hits, k: int) -> NDArray[np.float64]:
    """MAP@k of each query, [B] float64."""
    return hits.per_relevant(hits.total(k, hits.ordinals / hits.ranks))


def ndcg(hits: Hits, k: int) -> NDArray[np.float64]:
    """NDCG@k of each query, [B] float64."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[1.0], np.cumsum(discounts)])  # index 0: no targets, no gain
    gained = hits.total(k, 1.0 / np.log2(hits.ranks + 1.0))
    return np.asarray(gained / ideal[np.minimum(hits.n_relevant, k)])


#: name -> function of (hits, k)
RANKING_METRICS: Mapping[str, Callable[[Hits, int], NDArray[np.float64]]] = {
    "ndcg": ndcg,
    "recall": recall,
    "hr": hit_rate,
    "mrr": reciprocal_rank,
    "map": average_precision,
    "precision": precision,
}
