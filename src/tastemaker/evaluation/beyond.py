"""Beyond accuracy: who gets exposed, how unexpected, varied and fitting the lists are.

Of all lists together (`Exposure`):

    coverage@k         share of the catalog that appears in at least one list
    gini@k             Gini coefficient of how often each catalog item appears: 0 all alike, towards
                       1 when few items get everything

Of each list, as means over queries:

    novelty@k          mean of -log2 p(i), p(i) = the item's share of the training interactions
                       (an item without any counts as one); Zhou et al., PNAS 2010
    popularity_lift@k  mean popularity of the list, over the mean popularity of all histories,
                       minus 1: 0 is neither; Abdollahpouri et al., RecSys 2020
    diversity@k        1 - mean cosine of the categories over the pairs of the list; Ziegler et
                       al., WWW 2005
    calibration@k      KL(p || 0.99 q + 0.01 p) in nats of the category shares p of the history and
                       q of the list, 0 is perfect; Steck, RecSys 2018

Padding (-1) is not an item. A list without items has none of the last four (NaN), nor has a
history without categorised items a calibration, nor a list of one item a diversity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.queries import Ragged
from tastemaker.data.schema import Kind
from tastemaker.evaluation.intervals import JACKKNIFE_GROUPS, jackknife
from tastemaker.evaluation.results import Estimate

if TYPE_CHECKING:
    from tastemaker.data import Dataset, TrainingSet

__all__ = [
    "BEYOND_METRICS",
    "CATEGORY_METRICS",
    "EXPOSURE_METRICS",
    "Exposure",
    "ItemFacts",
    "ListMetrics",
    "coverage",
    "gini",
]

CALIBRATION_SMOOTHING = 0.01  # share of p mixed into q, so that KL is finite (Steck, eq. 7)
_DENSE_CATEGORIES = 256  # up to here a dense [N, categories] is small and fast

# scipy ships no types, so its sparse arrays are Any here.
Sparse = Any


@dataclass(frozen=True, eq=False)
class ItemFacts:
    """What the metrics beyond accuracy know about items.

    Attributes:
        counts: [N] int64, training interactions of each item.
        categories: [N, C] of 0.0 and 1.0, which categories an item has; dense or `csr_array`.
            `None` when the items have none.
    """

    counts: NDArray[np.int64]
    categories: NDArray[np.float64] | Sparse | None = None

    @classmethod
    def of(cls, train: TrainingSet) -> ItemFacts:
        """Counts of the training rows, categories of the first `categories` column of the items."""
        return cls(train.item_counts(), _categories(train.dataset))


def _categories(dataset: Dataset) -> NDArray[np.float64] | Sparse | None:
    """[N, C] indicators of the first `categories` column; lists may be null, empty or repeat."""
    names = [name for name, kind in dataset.schema.items.items() if kind is Kind.CATEGORIES]
    if dataset.items is None or not names:
        return None
    import pyarrow.compute as pc
    from scipy.sparse import csr_array

    column = dataset.items[names[0]].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    words = pc.list_flatten(column).dictionary_encode(null_encoding="encode")
    codes = words.indices.to_numpy(zero_copy_only=False)
    if len(codes) == 0:
        return None
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shape = (dataset.n_items, len(words.dictionary))
    found = csr_array((np.ones(len(codes)), codes, offsets), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1.0
    return found.toarray() if shape[1] <= _DENSE_CATEGORIES else found


def coverage(counts: NDArray[np.int64]) -> float:
    """Share of items with a count above zero; counts [N]."""
    return float((counts > 0).mean())


def gini(counts: NDArray[np.int64]) -> float:
    """Gini coefficient of counts [N]; NaN when all are zero."""
    n, total = len(counts), int(counts.sum())
    if total == 0:
        return math.nan
    ranks = 2.0 * np.arange(1, n + 1) - n - 1
    return float(ranks @ np.sort(counts) / (n * total))


#: name -> function of how often each item was recommended, [N]
EXPOSURE_METRICS: Mapping[str, Callable[[NDArray[np.int64]], float]] = {
    "coverage": coverage,
    "gini": gini,
}


#: metrics of each list; the last two compare categories
BEYOND_METRICS = ("novelty", "popularity_lift", "diversity", "calibration")
CATEGORY_METRICS = ("diversity", "calibration")


class Exposure:
    """Counts how often each item is recommended, batch by batch.

    Queries are dealt into a few groups, so that the interval can be found by leaving out one
    group at a time. Memory: `JACKKNIFE_GROUPS * n_items` int64 for each list length.

    Args:
        n_items: N.
        lengths: list lengths to count for.
    """

    def __init__(self, n_items: int, lengths: Iterable[int]) -> None:
        self._lengths = sorted(set(lengths))
        # Counts of the places between one list length and the next; item -1 is column 0.
        shape = (len(self._lengths), JACKKNIFE_GROUPS, n_items + 1)
        self._counts = np.zeros(shape, np.int64)
        self._waiting: list[NDArray[np.int64]] = []
        self._n_waiting = 0
        self._n_queries = 0

    def add(self, items: NDArray[np.int64]) -> None:
        """Count the lists [B, K], K at least the longest list length."""
        if not self._lengths:
            return
        _, n_groups, width = self._counts.shape
        bands = np.searchsorted(self._lengths, np.arange(self._lengths[-1]), side="right")
        groups = (self._n_queries + np.arange(len(items))) % n_groups
        places = items[:, : self._lengths[-1]] + (bands * (n_groups * width) + 1)
        places += groups[:, None] * width  # [B, K]
        self._waiting.append(places.ravel())
        self._n_waiting += self._waiting[-1].size
        self._n_queries += len(items)
        # Counting passes over all counts, so it waits until there is as much to count.
        if self._n_waiting > self._counts.size:
            self._count()

    def _count(self) -> None:
        if self._waiting:
            places = np.concatenate(self._waiting)
            found = np.bincount(places, minlength=self._counts.size)
            self._counts += found.reshape(self._counts.shape)
        self._waiting, self._n_waiting = [], 0

    def estimate(self, kind: str, length: int) -> Estimate:
        """The metric of the lists added so far, cut at `length`, with a jackknife interval."""
        self._count()
        metric = EXPOSURE_METRICS[kind]
        bands = self._counts[: self._lengths.index(length) + 1, :, 1:]
        groups = bands.sum(0)[: self._n_queries]  # [G, N]
        total = groups.sum(0)
        without = np.array([metric(total - group) for group in groups])
        found = jackknife(metric(total), without, self._n_queries)
        return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0), found.n)


def _indicator(items: NDArray[np.int64], offsets: NDArray[np.int64], n_items: int) -> Sparse:
    """[B, N] sparse: how often each item is in each row of a ragged array; -1 is no item."""
    from scipy.sparse import csr_array

    if items.min(initial=0) < 0:
        present = items >= 0
        offsets = np.concatenate([[0], np.cumsum(present)])[offsets]
        items = items[present]
    # 32-bit indices are half the memory traffic of the product.
    columns, rows = items.astype(np.int32), offsets.astype(np.int32)
    ones = np.ones(len(columns), np.float32)
    return csr_array((ones, columns, rows), shape=(len(rows) - 1, n_items))


def _scaled(categories: NDArray[np.float64] | Sparse, power: float) -> NDArray[np.float64] | Sparse:
    """Categories with each item's row divided by (number of its categories) ** power."""
    scale = np.maximum(np.asarray(categories.sum(1)).ravel(), 1.0) ** -power
    if isinstance(categories, np.ndarray):
        return categories * scale[:, None]
    from scipy.sparse import diags_array

    return (diags_array(scale) @ categories).tocsr()


class ListMetrics:
    """The per-list metrics of one model: facts about items, turned once into what each needs."""

    def __init__(self, facts: ItemFacts) -> None:
        shares = np.maximum(facts.counts, 1) / max(int(facts.counts.sum()), 1)
        self._popularity = np.append(facts.counts.astype(np.float64), 0.0)  # [N + 1]
        self._surprise = np.append(-np.log2(shares), 0.0)
        self._n_items = len(facts.counts)
        if facts.categories is not None:
            # In float32 the sums over lists take half the time, and are right to six digits.
            self._directions = _scaled(facts.categories, 0.5).astype(np.float32)  # unit length
            self._shares = _scaled(facts.categories, 1.0).astype(np.float32)  # sum 1
            self._has_category = np.asarray(facts.categories.sum(1)).ravel() > 0

    def measure(
        self, kind: str, items: NDArray[np.int64], known: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """A metric of `BEYOND_METRICS` of lists [B, k], [B] float64.

        `"popularity_lift"` gives the lists' mean popularity, not yet compared with all histories'.

        Args:
            kind: which metric.
            items: [B, k], -1 where a list ends.
            known: `category_shares` of the histories, for `"calibration"`.
        """
        match kind:
            case "novelty":
                return _mean_over_list(self._surprise, items)
            case "popularity_lift":
                return _mean_over_list(self._popularity, items)
            case "diversity":
                return self.diversity(items)
            case _:
                assert known is not None
                return self.calibration(items, known)

    def diversity(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Diversity of lists [B, k], [B] float64.

        The cosines of all pairs sum to (|sum of vectors|^2 - sum of |vector|^2) / 2: no pair is
        ever looked at.
        """
        sums = self._sums(_rows_of(items), self._directions)
        shown = items >= 0
        own = (self._has_category[items] & shown).sum(1)
        n = shown.sum(1).astype(np.float64)
        pairs = np.where(n > 1, n * (n - 1), np.nan)
        return np.asarray(1.0 - (np.einsum("bc,bc->b", sums, sums) - own) / pairs)

    def calibration(
        self, items: NDArray[np.int64], known: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Miscalibration of lists [B, k] against `category_shares` [B, C], [B] float64 in nats."""
        q = self.category_shares(_rows_of(items))
        with np.errstate(invalid="ignore", divide="ignore"):
            mixed = (1 - CALIBRATION_SMOOTHING) * q + CALIBRATION_SMOOTHING * known
            terms = np.where(known == 0, 0.0, known * np.log(known / mixed))
        return np.asarray(terms.sum(1), np.float64)

    def category_shares(self, rows: Ragged) -> NDArray[np.float64]:
        """Shares of the categories in each row of items, [B, C], rows summing to 1 or all NaN.

        Every item weighs the same, and shares its weight among its categories.
        """
        sums = self._sums(rows, self._shares)
        with np.errstate(invalid="ignore"):
            return np.asarray(sums / sums.sum(1, keepdims=True))

    def _sums(self, rows: Ragged, vectors: NDArray[np.float32] | Sparse) -> NDArray[np.float64]:
        """Sum of the vectors [N, C] of each row's items, [B, C]."""
        sums = _indicator(rows.values, rows.offsets, self._n_items) @ vectors
        dense = sums if isinstance(sums, np.ndarray) else sums.toarray()
        return np.asarray(dense, np.float64)


def _rows_of(items: NDArray[np.int64]) -> Ragged:
    """Lists [B, k] as B rows, padding included."""
    return Ragged.from_lengths(items.ravel(), np.full(len(items), items.shape[1]))


def _mean_over_list(facts: NDArray[np.float64], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of an item fact over each list [B, k]; NaN for a list without items.

    Facts are [N + 1], the last one 0, which padding -1 picks.
    """
    n = (items >= 0).sum(1)
    means = np.full(len(items), np.nan)
    return np.asarray(np.divide(facts[items].sum(1), n, out=means, where=n > 0))
