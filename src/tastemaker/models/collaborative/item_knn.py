"""ItemKNN: recommend the items most similar to those of the history.

Item-based neighbourhoods in the form of "Item-Based Top-N Recommendation Algorithms" (TOIS 2004):
the similarity of two items comes from how many users took both, only the `num_neighbors` largest
similarities of each scored item are kept, and a score is the sum of the similarities between the
scored item and the items of the history.

What we changed: a shrinkage term in every denominator, which matters on sparse data, and a choice
of similarities.

Cost: sum over users of |history|^2 operations, plus one comparison per pair of items that a user
took both; memory 12 bytes x n_items x num_neighbors and one block of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tastemaker.console import Progress
from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.models.base import ModelConfig, settings
from tastemaker.models.collaborative.item_to_item import ItemToItem
from tastemaker.models.search import Choice, Integer, LogUniform
from tastemaker.training.stages import ComputeStage, Stage

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ItemKNN", "best_of_rows", "similarity"]

_BLOCK = 1 << 21  # pairs of items at most at once: 16 MB of float64

Measure = Literal["cosine", "dot", "pearson"]


class ItemKNN(ItemToItem):
    """Sums of item similarities, kept sparse."""

    @settings
    class Config(ModelConfig):
        """Settings of ItemKNN."""

        similarity: Measure = "cosine"  # of the items' columns of users (classic)
        num_neighbors: int = Field(default=200, ge=1)  # kept per scored item (ours)
        shrink: float = Field(default=10.0, ge=0)  # added to the denominator (ours)
        normalize: bool = False  # whether what a history item gives sums to 1 (classic)

    search = {
        "similarity": Choice(("cosine", "dot", "pearson")),
        "num_neighbors": Integer(5, 1000, log=True),
        "shrink": LogUniform(0.1, 1000.0),
        "normalize": Choice((False, True)),
    }

    presets = {"ml-100k": {"similarity": "pearson", "num_neighbors": 400, "shrink": 70.0}}

    config: Config
    offsets: (
        Tensor  # [N + 1] int64: item i of a history scores the places offsets[i]:offsets[i + 1]
    )
    scored: Tensor  # [M] int64 scored items, M <= N * num_neighbors
    weights: Tensor  # [M] float32 their similarities to i

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        self.register_buffer("offsets", torch.zeros(dataset.n_items + 1, dtype=torch.int64))
        self.register_buffer("scored", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(0))

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """One pass over blocks of items."""
        return [ComputeStage("similarities", lambda: self._fit(data), self._keep)]

    def _fit(self, data: TrainingSet) -> Mapping[str, Tensor]:
        users = data.matrix()  # [U, N]
        columns = users.T.tocsr()  # [N, U]
        counts = np.diff(columns.indptr).astype(np.float64)
        block = max(1, _BLOCK // self.n_items)
        found = []
        with Progress("item-knn", self.n_items, unit="items") as progress:
            for start in range(0, self.n_items, block):
                rows = slice(start, min(start + block, self.n_items))
                together = (columns[rows] @ users).tocsr()
                found.append(self._nearest(together, start, counts, data.n_users))
                progress.advance(rows.stop - rows.start)
        near, scored, weights = (np.concatenate(part) for part in zip(*found, strict=True))
        if self.config.normalize:
            weights = weights / np.bincount(near, weights, minlength=self.n_items)[near]
        order = np.argsort(near, kind="stable")  # by the item of the history
        lengths = np.bincount(near, minlength=self.n_items)
        return {
            "offsets": torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])),
            "scored": torch.from_numpy(scored[order]),
            "weights": torch.from_numpy(weights[order].astype(np.float32)),
            "counts": torch.from_numpy(data.item_counts().astype(np.float32)),
        }

    def _nearest(
        self, together: csr_array, first: int, counts: NDArray[np.float64], n_users: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """The positive neighbours of a block of scored items: neighbour, scored item, weight.

        Items that no user took together are no neighbours by any similarity, so only the entries
        of `together` [block, N], whose first row is item `first`, are looked at.
        """
        config = self.config
        scored = first + np.repeat(np.arange(together.shape[0]), np.diff(together.indptr))
        near = together.indices.astype(np.int64)
        values = similarity(
            together.data, counts[scored], counts[near], n_users, config.similarity, config.shrink
        )
        values[near == scored] = 0.0
        best = best_of_rows(values, together.indptr.astype(np.int64), config.num_neighbors)
        best = best[values[best] > 0]
        return near[best], scored[best], values[best]

    def _keep(self, product: Mapping[str, Tensor]) -> None:
        for name, value in product.items():
            setattr(self, name, value.to(self.device))

    def add_up(self, histories: Ragged) -> Tensor:
        """Sums of similarities, [B, N] float32."""
        items = torch.from_numpy(histories.values).to(self.device)
        rows = torch.from_numpy(histories.row_index()).to(self.device)
        starts, stops = self.offsets[items], self.offsets[items + 1]
        lengths = stops - starts
        ends = lengths.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        shifts = torch.repeat_interleave(starts - (ends - lengths), lengths)
        places = torch.arange(total, device=self.device) + shifts
        cells = torch.repeat_interleave(rows * self.n_items, lengths) + self.scored[places]
        scores = torch.zeros(len(histories) * self.n_items, device=self.device)
        scores.index_add_(0, cells, self.weights[places])
        return scores.view(len(histories), self.n_items)


def best_of_rows(
    values: NDArray[np.float64], offsets: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Where the k largest values of each row stand, rising; all of a row with no more than k.

    Rows are taken together with others of their length, to a power of two.

    Args:
        values: [E], row b at `offsets[b]:offsets[b + 1]`.
        offsets: [B + 1].
        k: how many.
    """
    lengths = np.diff(offsets)
    short = np.repeat(lengths <= k, lengths)
    found, width = [np.flatnonzero(short)], k
    while width < lengths.max(initial=0):
        rows = np.flatnonzero((lengths > width) & (lengths <= 2 * width))
        width *= 2
        if len(rows):
            places = offsets[rows, None] + np.arange(width)  # [rows, width]
            inside = places < offsets[rows + 1, None]
            padded = np.where(inside, values[np.minimum(places, len(values) - 1)], -np.inf)
            best = torch.topk(torch.from_numpy(padded), k, dim=1, sorted=False).indices.numpy()
            found.append(np.take_along_axis(places, best, 1).ravel())
    return np.sort(np.concatenate(found))


def similarity(
    together: NDArray[np.float32],
    row_counts: NDArray[np.float64],
    column_counts: NDArray[np.float64],
    n_users: int,
    measure: Measure,
    shrink: float,
) -> NDArray[np.float64]:
    """Similarities of pairs of items from counts of users.

    Args:
        together: [E] how many users took both items.
        row_counts: [E] how many took the one.
        column_counts: [E] how many took the other.
        n_users: how many there are.
        measure: `"cosine"` c / (sqrt(n_i n_j) + shrink), `"dot"` c, or `"pearson"`, the
            correlation of the two 0/1 columns, shrunk like the cosine.
        shrink: added to the denominator, in users; `"dot"` has none.

    Returns:
        [E] float64; 0 where an item has no users.
    """
    if measure == "dot":
        return together.astype(np.float64)
    product = row_counts * column_counts
    if measure == "cosine":
        np.sqrt(product, out=product)
        product += shrink
        np.maximum(product, 1e-12, out=product)
        return np.divide(together, product, out=product)
    spread = row_counts * (n_users - row_counts) * column_counts
    spread *= n_users - column_counts
    np.sqrt(spread, out=spread)
    spread /= n_users
    spread += shrink
    np.maximum(spread, 1e-12, out=spread)
    product /= n_users
    np.subtract(together, product, out=product)
    product /= spread
    return product
