"""How many users took both of two items, for all pairs of items, by blocks of one of the two.

Where histories are long for the number of items, a block is a sum over the users of each item of
dense rows, on all threads; else a sparse product, block by block on a thread each.

Cost: interactions x n_items additions when dense, else the sum over users of |history|^2, which
are some thirty times as dear.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Cooccurrence"]

_DENSE = 30  # additions of dense rows that take as long as one of a sparse product
_WIDTH = 64  # items of a dense block: 256 bytes a user
_PAIRS = 1 << 19  # pairs of a sparse block at most: 2 MB of float32


class Cooccurrence:
    """Counts of pairs of items.

    Attributes:
        n_users: U.
        n_items: N.
        counts: [N] float32 how many users took each item.
        is_dense: how blocks are counted.
    """

    def __init__(self, matrix: csr_array) -> None:
        """`matrix` is [U, N] of ones."""
        self.n_users, self.n_items = matrix.shape
        self._matrix = matrix
        self._columns = matrix.T.tocsr()  # [N, U]
        self.counts = torch.from_numpy(np.diff(self._columns.indptr)).float()
        self._lengths = np.diff(matrix.indptr).astype(np.float64)  # [U] of the histories
        sparse, dense = np.square(self._lengths).sum(), float(matrix.nnz) * self.n_items
        self.is_dense = bool(_DENSE * sparse >= dense)  # by how many additions either takes

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """Items, some at a time: all in order if dense, else those with pairs, the most first."""
        if self.is_dense:
            for start in range(0, self.n_items, _WIDTH):
                yield np.arange(start, min(start + _WIDTH, self.n_items))
            return
        pairs = np.minimum(self._columns @ self._lengths, self.n_items)  # at most
        order = np.argsort(-pairs, kind="stable")[: np.count_nonzero(pairs)]
        first = 0
        while first < len(order):
            size = max(1, _PAIRS // int(pairs[order[first]]))
            yield order[first : first + size]
            first += size

    def together(self, items: NDArray[np.int64]) -> tuple[Tensor | None, Tensor]:
        """The counts of a block of items with others.

        Args:
            items: [b] one of `blocks()`.

        Returns:
            The others [b, W] int32 and the counts [b, W] float32. Rows that have fewer others are
            filled up with the item itself, and zeros. The others are `None` when they are all N
            items in order.
        """
        return (None, self._dense(items)) if self.is_dense else self._sparse(items)

    def matrix(self) -> Tensor:
        """All counts, [N, N] float32."""
        if self.is_dense:
            counts = torch.empty(self.n_items, self.n_items)
            for items in self.blocks():
                block = slice(items[0], items[-1] + 1)
                found = self._dense(items, first=items[0])
                counts[block, items[0] :], counts[items[0] :, block] = found, found.T
            return counts
        counts = torch.zeros(self.n_items, self.n_items)

        def fill(items: NDArray[np.int64]) -> None:
            counts.numpy()[items] = (self._columns[items] @ self._matrix).toarray()

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(fill, self.blocks()))
        return counts

    def _dense(self, items: NDArray[np.int64], *, first: int = 0) -> Tensor:
        """Counts [b, N - first] of items that follow one another, with item `first` and on."""
        offsets, users = self._columns.indptr, torch.from_numpy(self._columns.indices)
        ends = offsets[items[0] : items[-1] + 2]
        columns = np.repeat(items - items[0], np.diff(ends))
        taken = torch.zeros(self.n_users, len(items))
        taken[users[ends[0] : ends[-1]], torch.from_numpy(columns)] = 1.0
        starts = torch.from_numpy(offsets[first:-1] - offsets[first])
        found = F.embedding_bag(users[offsets[first] :], taken, starts, mode="sum")
        return found.T.contiguous()

    def _sparse(self, items: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        found = self._columns[items] @ self._matrix
        lengths = np.diff(found.indptr)[:, None]
        inside = np.arange(lengths.max(initial=1)) < lengths  # [b, W]
        others = np.repeat(items.astype(np.int32)[:, None], inside.shape[1], 1)
        counts = np.zeros(inside.shape, np.float32)
        others[inside], counts[inside] = found.indices, found.data
        return torch.from_numpy(others), torch.from_numpy(counts)
