"""Slices: the same metrics for a part of the targets, to see whom a model serves.

A slice is a choice among the targets of a part. In it only the chosen targets are relevant, a
query without a chosen one is left out, and the lists are those of the whole evaluation. Other
targets that are listed count like any irrelevant item.

By target item, from the training interactions:

    head   the most popular items that together hold at least 20 % of the interactions
    tail   the least popular items, with at least one, that together hold at least 20 %
    body   the items between
    cold   items without any

By query:

    low-activity, medium-activity, high-activity   terciles of the history length
    new-users                                      users the model was not trained on

Items of equal counts, and queries of equal history length, always share a slice; a slice may
therefore be larger than its share, and the next one smaller or empty. Empty slices are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tastemaker.data import Part

__all__ = ["item_slices", "query_slices", "standard_slices"]

SHARE = 0.2  # of the interactions, for head and for tail


def item_slices(counts: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Which items are head, body, tail and cold, [N] each; disjoint, and together all items.

    Args:
        counts: [N] training interactions of each item.
    """
    levels, inverse = np.unique(counts, return_inverse=True)
    held = np.bincount(inverse, counts)  # interactions held by items of each level
    below = np.cumsum(held)  # up to and including a level
    total = below[-1]
    # The level at which each share is first reached, from above and from below.
    head_from = levels[total - below + held >= SHARE * total].max(initial=0)
    tail_upto = levels[below >= SHARE * total].min(initial=levels[-1])
    cold = counts == 0
    head = ~cold & (counts >= head_from)
    tail = ~cold & ~head & (counts <= tail_upto)
    return {"head": head, "body": ~(head | tail | cold), "tail": tail, "cold": cold}


def query_slices(
    lengths: NDArray[np.int64], known: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    """Which queries are in each slice by query, [B] each.

    Args:
        lengths: [B] history lengths.
        known: [B], whether the model was trained on the user.
    """
    low, high = np.quantile(lengths, [1 / 3, 2 / 3], method="inverted_cdf")
    return {
        "low-activity": lengths <= low,
        "medium-activity": (lengths > low) & (lengths <= high),
        "high-activity": lengths > high,
        "new-users": ~known,
    }


def standard_slices(part: Part, counts: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """The slices of this module that are not empty, as choices among `part.targets.values`, [T].

    Args:
        part: queries and targets; terciles are those of the queries that have targets.
        counts: [N] training interactions of each item.
    """
    targets = part.targets
    rows = targets.row_index()
    if len(rows) == 0:
        return {}
    asked = targets.lengths > 0
    lengths = part.queries.histories.items.lengths
    by_query = query_slices(lengths[asked], part.queries.users[asked] >= 0)
    place = np.cumsum(asked) - 1  # position among the queries with targets
    slices = {name: items[targets.values] for name, items in item_slices(counts).items()}
    slices |= {name: queries[place[rows]] for name, queries in by_query.items()}
    return {name: chosen for name, chosen in slices.items() if chosen.any()}
