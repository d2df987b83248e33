"""ItemKNN: recommend the items most similar to those of the history.

Item-based neighbourhoods in the form of "Item-Based Top-N Recommendation Algorithms" (TOIS 2004):
the similarity of two items comes from how many users took both, only the `num_neighbors` largest
similarities of each scored item are kept, and a score is the sum of the similarities between the
scored item and the items of the history.

What we changed: a shrinkage term in every denominator, which matters on sparse data, and a choice
of similarities.

Cost: counting pairs (`cooccurrence`), plus one comparison per pair of items that a user took both;
memory 12 bytes x n_items x num_neighbors and a block of pairs on each thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tastemaker.console import Progress
from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.models.base import ModelConfig, settings
from tastemaker.models.collaborative.cooccurrence import Cooccurrence
from tastemaker.models.collaborative.item_to_item import ItemToItem
from tastemaker.models.search import Choice, Integer, LogUniform
from tastemaker.training.stages import ComputeStage, Stage

__all__ = ["ItemKNN", "similarity"]

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
        from scipy.sparse import csr_array

        log = Cooccurrence(data.matrix())
        threads = 1 if log.is_dense else torch.get_num_threads()
        found = []
        with (
            ThreadPoolExecutor(threads) as pool,
            Progress("item-knn", self.n_items, unit="items") as progress,
        ):
            for some in pool.map(lambda items: self._nearest(log, items), log.blocks()):
                found.append(some)
                progress.advance(len(some[0]))
        scored, lengths, near, weights = (np.concatenate(part) for part in zip(*found, strict=True))
        if self.config.normalize:
            weights = weights / np.bincount(near, weights, minlength=self.n_items)[near]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(near.dtype)
        by_scored = csr_array((weights, near, offsets), shape=(len(scored), self.n_items))
        by_near = by_scored.tocsc()  # by the item of the history
        rows = torch.from_numpy(by_near.indices)
        return {
            "offsets": torch.from_numpy(by_near.indptr.astype(np.int64)),
            "scored": torch.from_numpy(scored).index_select(0, rows),
            "weights": torch.from_numpy(by_near.data.astype(np.float32)),
            "counts": torch.from_numpy(data.item_counts().astype(np.float32)),
        }

    def _nearest(self, log: Cooccurrence, items: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """The positive neighbours of a block of scored items.

        Items that no user took together are no neighbours by any similarity.

        Args:
            log: the counts.
            items: [b] a block of it.

        Returns:
            `items`, how many neighbours each has [b], and the neighbours and similarities.
        """
        config, own, counts = self.config, torch.from_numpy(items)[:, None], log.counts
        near, together = log.together(items)
        others = counts if near is None else counts.index_select(0, near.flatten()).view_as(near)
        values = similarity(
            together, counts[own], others, log.n_users, config.similarity, config.shrink
        )
        if near is None:
            values.scatter_(1, own, 0.0)
        else:
            values.masked_fill_(near == own.int(), 0.0)
        values, best = torch.topk(values, min(config.num_neighbors, values.shape[1]), sorted=False)
        kept = values > 0
        chosen = best if near is None else near.gather(1, best)
        return items, kept.sum(1).numpy(), chosen[kept].numpy(), values[kept].numpy()

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


def similarity(
    together: Tensor,
    row_counts: Tensor,
    column_counts: Tensor,
    n_users: int,
    measure: Measure,
    shrink: float,
) -> Tensor:
    """Similarities of pairs of items from counts of users.

    Args:
        together: float, how many users took both items.
        row_counts: float, how many took the one; any shape that goes with `together`.
        column_counts: float, how many took the other, likewise.
        n_users: how many there are.
        measure: `"cosine"` c / (sqrt(n_i n_j) + shrink), `"dot"` c, or `"pearson"`, the
            correlation of the two 0/1 columns, shrunk like the cosine.
        shrink: added to the denominator, in users; `"dot"` has none.

    Returns:
        Of the shape and dtype of `together`; 0 where an item has no users.
    """
    if measure == "dot":
        return together.clone()
    if measure == "cosine":
        size = row_counts.sqrt() * column_counts.sqrt()
        return together / size.add_(shrink).clamp_(min=1e-12)
    row_share, column_share = row_counts / n_users, column_counts / n_users
    spread = (row_counts * (1 - row_share)).sqrt() * (column_counts * (1 - column_share)).sqrt()
    return (together - row_share * column_counts) / spread.add_(shrink).clamp_(min=1e-12)
