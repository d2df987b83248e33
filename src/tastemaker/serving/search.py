"""Approximate search for catalogs too large to score in whole, with the filters of exact search.

For methods whose score is a dot product of two vectors (`QueryVectors`), item vectors go into an
inverted file of faiss: near items share a cell, and a query looks into the cells nearest to it.
How many is measured when the index is made: as few as find the share of the true best items that
was asked for. Where few items are allowed they are scored exactly, which is both faster and right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.data import Queries, Ragged
from tastemaker.errors import ConfigError
from tastemaker.extras import require
from tastemaker.layers.selection import top_k
from tastemaker.models.base import QueryVectors, Recommender, TopK

__all__ = ["VectorSearch"]

_SAMPLE = 256  # queries that the number of cells looked into is measured on
_PER_CELL = 39  # vectors that faiss wants to see for each cell
_EXACT_SHARE = 0.05  # of the catalog; where fewer items are allowed, all of them are scored
_FLOATS = np.float32


class VectorSearch:
    """An index over the item vectors of a model.

    Args:
        model: a method with query and item vectors and no bias beside them.
        recall: share of the true ten best that the unfiltered search must find.

    Raises:
        ConfigError: when the method has no such vectors.
        MissingExtraError: without the extra `ann`.

    Attributes:
        cells: cells a query looks into.
        recall: share of the true ten best found where that was measured.
    """

    def __init__(self, model: Recommender, *, recall: float = 0.98) -> None:
        if not isinstance(model, QueryVectors) or getattr(model, "item_bias", None) is not None:
            raise ConfigError(
                f"{type(model).__name__} does not score by a product of two vectors, so it has no "
                "approximate search; set ann_above = 0"
            )
        self._faiss: Any = require("faiss", extra="ann", purpose="approximate search")
        self._model: Any = model
        with torch.inference_mode():
            self._table = np.ascontiguousarray(model.item_vectors().float().cpu().numpy(), _FLOATS)
        n_items, width = self._table.shape
        n_cells = max(1, min(round(4 * n_items**0.5), n_items // _PER_CELL))
        coarse = self._faiss.IndexFlatIP(width)
        self._index = self._faiss.IndexIVFFlat(
            coarse, width, n_cells, self._faiss.METRIC_INNER_PRODUCT
        )
        self._index.train(self._table)
        self._index.add(self._table)
        self.cells, self.recall = self._calibrated(n_cells, recall)

    def _calibrated(self, n_cells: int, wanted: float) -> tuple[int, float]:
        """The fewest cells (a power of two, or all) that find enough, and what they find."""
        rows = np.random.default_rng(0).integers(0, len(self._table), _SAMPLE)
        noise = np.random.default_rng(1).normal(size=(_SAMPLE, self._table.shape[1]))
        scale = self._table.std() + 1e-12
        queries = (self._table[rows] + 0.5 * scale * noise).astype(_FLOATS)
        k = min(10, len(self._table))
        true = np.argpartition(-(queries @ self._table.T), k - 1, axis=1)[:, :k]
        cells = 1
        while True:
            _, found = self._index.search(queries, k, params=self._parameters(cells, None))
            share = float(np.mean([np.isin(t, f).mean() for t, f in zip(true, found, strict=True)]))
            if share >= wanted or cells >= n_cells:
                return cells, share
            cells = min(2 * cells, n_cells)

    def recommend(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Ragged | None = None,
        allow: NDArray[np.int64] | None = None,
    ) -> TopK:
        """As `Recommender.recommend`, nearly."""
        vectors = self._model.query_vectors(queries).float().cpu().numpy().astype(_FLOATS)
        n_items = len(self._table)
        if allow is not None and len(allow) <= _EXACT_SHARE * n_items:
            return self._exact(queries, vectors, k, exclude, np.unique(allow))
        longest = 0 if exclude is None else int(exclude.lengths.max(initial=0))
        length = min(k + longest, n_items)
        selector = None
        if allow is not None:
            mask = np.zeros(n_items, np.bool_)
            mask[allow] = True
            bits = np.packbits(mask, bitorder="little")
            selector = self._faiss.IDSelectorBitmap(bits)
        scores, items = self._index.search(
            vectors, length, params=self._parameters(self.cells, selector)
        )
        if exclude is not None:
            keys = np.sort(exclude.row_index() * n_items + exclude.values)
            asked = np.arange(len(items))[:, None] * n_items + items
            places = np.minimum(np.searchsorted(keys, asked), max(len(keys) - 1, 0))
            banned = (items >= 0) & (keys[places] == asked) if len(keys) else items < -1
            items, scores = np.where(banned, -1, items), np.where(banned, -np.inf, scores)
        scores = np.where(items < 0, -np.inf, scores)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        items, scores = (np.take_along_axis(part, order, 1) for part in (items, scores))
        return _padded(torch.from_numpy(items), torch.from_numpy(scores.astype(_FLOATS)), k)

    def _exact(
        self,
        queries: Queries,
        vectors: NDArray[np.float32],
        k: int,
        exclude: Ragged | None,
        allow: NDArray[np.int64],
    ) -> TopK:
        scores = torch.from_numpy(vectors @ self._table[allow].T)  # [B, A]
        if exclude is not None and len(allow):
            columns = np.minimum(np.searchsorted(allow, exclude.values), len(allow) - 1)
            hit = allow[columns] == exclude.values
            scores[exclude.row_index()[hit], columns[hit]] = -torch.inf
        length = min(k, len(allow))
        if not length:
            none = torch.empty(len(queries), 0)
            return _padded(none.long(), none, k)
        places, values = top_k(scores, length, torch.from_numpy(queries.tie_keys()))
        items = torch.from_numpy(allow)[places.clamp(min=0)]
        return _padded(torch.where(places < 0, -1, items), values, k)

    def _parameters(self, cells: int, selector: Any) -> Any:
        if selector is None:
            return self._faiss.SearchParametersIVF(nprobe=cells)
        return self._faiss.SearchParametersIVF(nprobe=cells, sel=selector)


def _padded(items: torch.Tensor, scores: torch.Tensor, k: int) -> TopK:
    """Lists of exactly k places, -1 behind the last item."""
    missing = k - items.shape[1]
    items = torch.nn.functional.pad(items, (0, missing), value=-1)
    return TopK(items, torch.nn.functional.pad(scores, (0, missing), value=-torch.inf))
