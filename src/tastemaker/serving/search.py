"""Approximate search for catalogs too large to score in whole, with the filters of exact search.

For methods whose score is a dot product of two vectors (`QueryVectors`), item vectors go into an
inverted file of faiss: near items share a cell, and a query looks into the cells nearest to it.
How many items it must see for a list of some length is measured when the index is made: as few as
find the share of the true best that was asked for. Under a filter, cells are passed, nearest first,
until as many allowed items are seen, and those without an allowed item are not looked into; so a
filter that leaves out what is near costs time, not recall. Where that comes near all that is
allowed, the allowed items are scored exactly.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.data import Queries, Ragged
from tastemaker.errors import ConfigError
from tastemaker.extras import require
from tastemaker.layers.selection import top_k
from tastemaker.models.base import QueryVectors, Recommender, TopK

__all__ = ["VectorSearch", "can_search"]

_PER_CELL = 39  # vectors that faiss wants to see for each cell
_ROUNDS = 10  # of k-means
_LENGTHS = (10, 1_000)  # of the lists that are measured
_GROWTH = 1.5  # of the number of cells between two measurements
_EXACT_ITEMS = 0.05  # share of the catalog; where fewer are allowed, all of them are scored
_EXACT_SEEN = 0.25  # share of the allowed items; where more would be seen, all of them are scored
_ROWS = 16  # queries scored with the whole catalog at once: 64 MB for a million items
_FLOATS = np.float32


def can_search(model: Recommender) -> TypeGuard[QueryVectors]:
    """Whether a model scores by a product of two vectors and nothing else."""
    return isinstance(model, QueryVectors) and getattr(model, "item_bias", None) is None


class VectorSearch:
    """An index over the item vectors of a model.

    Args:
        model: a method with query and item vectors and no bias beside them.
        sample: queries such as will be asked; what must be seen is measured on them.
        recall: share of the true best items that the search must find.

    Raises:
        ConfigError: when the method has no such vectors.
        MissingExtraError: without the extra `ann`.

    Attributes:
        seen: [2] float64 items that must be seen for lists of ten and of a thousand.
    """

    def __init__(self, model: Recommender, sample: Queries, *, recall: float = 0.98) -> None:
        if not can_search(model):
            raise ConfigError(
                f"{type(model).__name__} does not score by a product of two vectors, so it has no "
                "approximate search; set ann_above = 0"
            )
        self._faiss: Any = require("faiss", extra="ann", purpose="approximate search")
        self._model: QueryVectors = model
        with torch.inference_mode():
            self._table = np.ascontiguousarray(
                self._model.item_vectors().float().cpu().numpy(), _FLOATS
            )
            queries = self._vectors(sample)
        n_items, width = self._table.shape
        n_cells = max(1, min(round(4 * n_items**0.5), n_items // _PER_CELL))
        self._index = self._faiss.IndexIVFFlat(
            self._faiss.IndexFlatIP(width), width, n_cells, self._faiss.METRIC_INNER_PRODUCT
        )
        self._index.cp.niter, self._index.cp.max_points_per_centroid = _ROUNDS, _PER_CELL
        self._index.train(self._table)
        self._cell_of = self._index.quantizer.search(self._table, 1)[1][:, 0]  # [N]
        self._index.add_core(
            n_items,
            self._faiss.swig_ptr(self._table),
            None,
            self._faiss.swig_ptr(self._cell_of),
        )
        self._centres = self._index.quantizer.reconstruct_n(0, n_cells)  # [cells, D]
        self._sizes = np.bincount(self._cell_of, minlength=n_cells)  # [cells]
        self.seen = self._calibrated(queries, recall)

    def _vectors(self, queries: Queries) -> NDArray[np.float32]:
        vectors = self._model.query_vectors(queries).float().cpu().numpy()
        return np.ascontiguousarray(vectors, _FLOATS)

    def _calibrated(self, queries: NDArray[np.float32], wanted: float) -> NDArray[np.float64]:
        """The fewest items that must be seen, on average, to find enough of lists of `_LENGTHS`."""
        n_items, n_cells = self._table.shape[0], len(self._centres)
        lengths = [min(length, n_items) for length in _LENGTHS]
        blocks = [queries[start : start + _ROWS] for start in range(0, len(queries), _ROWS)]
        true = np.concatenate(
            [
                top_k(
                    torch.from_numpy(block @ self._table.T), lengths[-1], torch.arange(len(block))
                )[0]
                for block in blocks
            ]
        )
        cells, seen = 1, [float(n_items) for _ in lengths]
        while cells < n_cells and seen[-1] == n_items:
            _, found = self._index.search(queries, lengths[-1], params=self._parameters(cells))
            for place, length in enumerate(lengths):
                pairs = zip(true[:, :length], found[:, :length], strict=True)
                share = np.mean([np.isin(best, got).mean() for best, got in pairs])
                if share >= wanted:
                    seen[place] = min(seen[place], cells / n_cells * n_items)
            cells = max(cells + 1, int(cells * _GROWTH))
        return np.array(seen)

    def _cells_for(
        self, vectors: NDArray[np.float32], length: int, held: NDArray[np.int64]
    ) -> tuple[int, float]:
        """How many cells with allowed items each query must look into, and what it sees there.

        Args:
            vectors: [B, D] of queries.
            length: of the lists.
            held: [cells] how many allowed items each cell holds.

        Returns:
            Cells, and the mean number of allowed items in them.
        """
        order = np.argsort(-(vectors @ self._centres.T), axis=1)  # [B, cells]
        allowed = held[order].cumsum(1)
        (short, long), (few, many) = np.log(_LENGTHS), np.log(self.seen)
        growth = max(many - few, 0) / (long - short)
        needed = np.exp(few + growth * (np.log(max(length, _LENGTHS[0])) - short))
        places = np.minimum((allowed < needed).sum(1), len(self._centres) - 1)  # [B]
        full = (held[order] > 0).cumsum(1)
        rows = np.arange(len(vectors))
        return int(full[rows, places].max(initial=1)), float(allowed[rows, places].mean())

    def recommend(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Ragged | None = None,
        allow: NDArray[np.int64] | None = None,
    ) -> TopK:
        """As `Recommender.recommend`, nearly."""
        vectors = self._vectors(queries)
        n_items = len(self._table)
        if allow is not None and (np.diff(allow) <= 0).any():
            allow = np.unique(allow)
        if allow is not None and len(allow) <= _EXACT_ITEMS * n_items:
            return self._exact(queries, vectors, k, exclude, allow)
        longest = 0 if exclude is None else int(exclude.lengths.max(initial=0))
        length = min(k + longest, n_items)
        held = self._sizes
        if allow is not None:
            held = np.bincount(self._cell_of[allow], minlength=len(held))
        cells, seen = self._cells_for(vectors, length, held)
        if allow is not None and seen > _EXACT_SEEN * len(allow):
            return self._exact(queries, vectors, k, exclude, allow)
        only = {} if allow is None else self._only(allow, held)
        parameters = self._parameters(cells, **only)
        scores, items = self._index.search(vectors, length, params=parameters)
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

    def _only(self, allow: NDArray[np.int64], held: NDArray[np.int64]) -> dict[str, Any]:
        """Search parameters that pass over other items, and over cells without allowed ones."""
        items, cells = np.zeros(len(self._table), np.bool_), held > 0
        items[allow] = True
        selectors = [
            self._faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            for mask in (items, cells)
        ]
        inner = self._faiss.SearchParameters(sel=selectors[1])
        return {"sel": selectors[0], "quantizer_params": inner}

    def _parameters(self, cells: int, **more: Any) -> Any:
        return self._faiss.SearchParametersIVF(nprobe=cells, **more)


def _padded(items: torch.Tensor, scores: torch.Tensor, k: int) -> TopK:
    """Lists of exactly k places, -1 behind the last item."""
    missing = k - items.shape[1]
    items = torch.nn.functional.pad(items, (0, missing), value=-1)
    return TopK(items, torch.nn.functional.pad(scores, (0, missing), value=-torch.inf))
