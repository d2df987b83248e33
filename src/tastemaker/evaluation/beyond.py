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
from collections.abc import Callable, Mapping
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

__all__ = ["BEYOND_METRICS", "EXPOSURE_METRICS", "Exposure", "ItemFacts", "coverage", "gini"]

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
    group at a time. Memory: `JACKKNIFE_GROUPS * n_items` int32.
    """

    def __init__(self, n_items: int) -> None:
        self._counts = np.zeros((JACKKNIFE_GROUPS, n_items), np.int32)
        self._n_queries = 0

    def add(self, items: NDArray[np.int64]) -> None:
        """Count the lists [B, k]."""
        groups = (self._n_queries + np.arange(len(items))) % JACKKNIFE_GROUPS
        self._n_queries += len(items)
        shown = items >= 0
        places = (groups[:, None] * self._counts.shape[1] + items)[shown]
        np.add.at(self._counts.reshape(-1), places, 1)

    def estimate(self, kind: str) -> Estimate:
        """The metric of everything added so far, with a jackknife interval."""
        metric = EXPOSURE_METRICS[kind]
        total = self._counts.sum(0, dtype=np.int64)
        groups = self._counts[: self._n_queries]
        without = np.array([metric(total - group) for group in groups])
        found = jackknife(metric(total), without, self._n_queries)
        return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0), found.n)


def _indicator(rows: Ragged, n_items: int) -> Sparse:
    """[B, N] sparse: how often each item is in each row; -1 is no item."""
    from scipy.sparse import csr_array

    present = rows.values >= 0
    offsets = np.concatenate([[0], np.cumsum(present)])[rows.offsets]
    values = rows.values[present]
    return csr_array((np.ones(len(values)), values, offsets), shape=(len(rows), n_items))


def _scaled(categories: NDArray[np.float64] | Sparse, power: float) -> NDArray[np.float64] | Sparse:
    """Categories with each item's row divided by (number of its categories) ** power."""
    scale = np.maximum(np.asarray(categories.sum(1)).ravel(), 1.0) ** -power
    if isinstance(categories, np.ndarray):
        return categories * scale[:, None]
    from scipy.sparse import diags_array

    return (diags_array(scale) @ categories).tocsr()


def _dense(sums: NDArray[np.float64] | Sparse) -> NDArray[np.float64]:
    """[B, C] sums as a plain array."""
    return sums if isinstance(sums, np.ndarray) else np.asarray(sums.toarray())


class ListMetrics:
    """The per-list metrics of one model: facts about items, turned once into what each needs."""

    def __init__(self, facts: ItemFacts) -> None:
        self._counts = facts.counts
        shares = np.maximum(facts.counts, 1) / max(int(facts.counts.sum()), 1)
        self._surprise = -np.log2(shares)
        self._n_items = len(facts.counts)
        if facts.categories is not None:
            self._directions = _scaled(facts.categories, 0.5)  # unit length
            self._shares = _scaled(facts.categories, 1.0)  # sum 1
            self._has_category = np.asarray(facts.categories.sum(1)).ravel() > 0

    def measure(
        self, kind: str, items: NDArray[np.int64], histories: Ragged
    ) -> NDArray[np.float64]:
        """A metric of `BEYOND_METRICS` of lists [B, k], [B] float64.

        `"popularity_lift"` gives the lists' mean popularity, not yet compared with all histories'.
        """
        match kind:
            case "novelty":
                return _mean_over_list(self._surprise, items)
            case "popularity_lift":
                return _mean_over_list(self._counts.astype(np.float64), items)
            case "diversity":
                return self.diversity(items)
            case _:
                return self.calibration(items, histories)

    def diversity(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Diversity of lists [B, k], [B] float64.

        The cosines of all pairs sum to (|sum of vectors|^2 - sum of |vector|^2) / 2: no pair is
        ever looked at.
        """
        lists = Ragged.from_lengths(items.ravel(), np.full(len(items), items.shape[1]))
        sums = _dense(_indicator(lists, self._n_items) @ self._directions)
        shown = items >= 0
        own = (self._has_category[items] & shown).sum(1)
        n = shown.sum(1).astype(np.float64)
        pairs = np.where(n > 1, n * (n - 1), np.nan)
        return np.asarray(1.0 - (np.einsum("bc,bc->b", sums, sums) - own) / pairs)

    def calibration(self, items: NDArray[np.int64], histories: Ragged) -> NDArray[np.float64]:
        """Miscalibration of lists [B, k] against B histories, [B] float64 in nats."""
        lists = Ragged.from_lengths(items.ravel(), np.full(len(items), items.shape[1]))
        known, listed = (
            _dense(_indicator(rows, self._n_items) @ self._shares) for rows in (histories, lists)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            p = known / known.sum(1, keepdims=True)
            q = listed / listed.sum(1, keepdims=True)
            mixed = (1 - CALIBRATION_SMOOTHING) * q + CALIBRATION_SMOOTHING * p
            terms = np.where(p == 0, 0.0, p * np.log(p / mixed))
        return np.asarray(terms.sum(1), np.float64)


def _mean_over_list(facts: NDArray[np.float64], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of an item fact [N] over each list [B, k]; NaN for a list without items."""
    shown = items >= 0
    sums = np.where(shown, facts[items], 0.0).sum(1)
    n = shown.sum(1)
    return np.asarray(np.divide(sums, n, out=np.full(len(items), np.nan), where=n > 0))
