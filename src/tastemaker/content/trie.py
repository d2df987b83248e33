"""A trie over tuples of codes, as arrays: which code may follow which prefix.

Nodes of a depth are numbered in the order of their prefixes, so the children of a node lie
together, and a trie is one array of offsets and one of codes per depth. It takes O(N H) numbers
and one sort to build; nothing in it loops over items.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

__all__ = ["Children", "Closed", "Trie"]


@dataclass(frozen=True)
class Children:
    """What may follow each of B x W nodes, padded to the most children, C, at least one.

    Attributes:
        nodes: [B, W, C] int64 node numbers of the next depth; arbitrary where not valid.
        codes: [B, W, C] int64 the code that leads to each; 0 where not valid.
        valid: [B, W, C] bool.
    """

    nodes: Tensor
    codes: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Closed:
    """Nodes of a depth that some queries may not enter: all items behind them are excluded.

    Attributes:
        rows: [X] int64 query numbers.
        parents: [X] int64 parent nodes, one depth above.
        places: [X] int64, which child of its parent each is.
    """

    rows: Tensor
    parents: Tensor
    places: Tensor


@dataclass(frozen=True, eq=False)
class Trie:
    """Tuples of H codes, each of one item. Shorter sequences are padded with a code of their own.

    Attributes:
        offsets: H arrays; the children of node n at depth h are the nodes
            `offsets[h][n]:offsets[h][n + 1]` at depth h + 1. The root is the only node at depth 0.
        codes: H arrays; the code that leads to each node at depth h + 1.
        items: [N] int64, the item of each leaf.
    """

    offsets: tuple[Tensor, ...]
    codes: tuple[Tensor, ...]
    items: Tensor

    @classmethod
    def of(cls, tuples: Tensor, items: Tensor | None = None) -> Trie:
        """Build from tuples.

        Args:
            tuples: [N, H] int64, all rows different.
            items: [N] int64, the item of each tuple; by default its row number.

        Raises:
            ValueError: when two tuples are equal.
        """
        rows = tuples.cpu().numpy()
        order = np.lexsort(rows.T[::-1])
        rows = rows[order]
        n_rows, n_levels = rows.shape
        starts = np.zeros(n_rows, bool)  # where a prefix of the depth begins
        starts[:1] = True
        firsts = np.flatnonzero(starts)
        offsets, codes = [], []
        for level in range(n_levels):
            starts[1:] |= rows[1:, level] != rows[:-1, level]
            here = np.flatnonzero(starts)
            offsets.append(np.append(np.searchsorted(here, firsts), len(here)))
            codes.append(np.ascontiguousarray(rows[here, level]))
            firsts = here
        if len(firsts) < n_rows:
            raise ValueError("two items have the same tuple, so a tuple does not name an item")
        leaves = torch.from_numpy(order).to(tuples.device)
        return cls(
            tuple(torch.from_numpy(array).to(tuples.device) for array in offsets),
            tuple(torch.from_numpy(array).to(tuples.device) for array in codes),
            leaves if items is None else items[leaves],
        )

    def __len__(self) -> int:
        return len(self.items)

    @property
    def num_levels(self) -> int:
        """H."""
        return len(self.codes)

    def children(self, depth: int, nodes: Tensor) -> Children:
        """What may follow nodes [B, W] int64 of a depth; -1 is a place without a node."""
        offsets = self.offsets[depth]
        safe = nodes.clamp(min=0)
        first = offsets[safe]
        counts = (offsets[safe + 1] - first).masked_fill_(nodes < 0, 0)
        places = torch.arange(max(int(counts.max()), 1), device=nodes.device)
        valid = places < counts[:, :, None]
        found = (first[:, :, None] + places).clamp_(max=len(self.codes[depth]) - 1)
        return Children(found, self.codes[depth][found].masked_fill_(~valid, 0), valid)

    @cached_property
    def paths(self) -> Tensor:
        """[H, N] int64: the node at depth 1, 2, ..., H above each leaf."""
        nodes = torch.arange(len(self), device=self.items.device)
        paths = [nodes]
        for depth in range(self.num_levels - 1, 0, -1):
            nodes = self.parents[depth][nodes]
            paths.append(nodes)
        return torch.stack(paths[::-1])

    @cached_property
    def parents(self) -> tuple[Tensor, ...]:
        """H arrays: the parent, at depth h, of each node at depth h + 1."""
        return tuple(
            torch.repeat_interleave(
                torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff()
            )
            for offsets in self.offsets
        )

    def leaves_of(self, items: Tensor) -> Tensor:
        """The leaf of each item, or -1 where it has none; int64, shaped as `items`."""
        if not len(self):
            return torch.full_like(items, -1)
        order = self.items.argsort()
        sorted_items = self.items[order]
        place = torch.searchsorted(sorted_items, items).clamp(max=len(self) - 1)
        return order[place].masked_fill(sorted_items[place] != items, -1)

    def closed_to(self, rows: Tensor, items: Tensor) -> list[Closed]:
        """What queries may not enter when they must not get some items, one entry a depth.

        Args:
            rows: [X] int64 query numbers.
            items: [X] int64, the item excluded from the query of that row; others are ignored.
        """
        leaves = self.leaves_of(items)
        rows, leaves = rows[leaves >= 0], leaves[leaves >= 0]
        pairs = torch.unique(rows * len(self) + leaves)
        rows, leaves = (
            pairs.div(max(len(self), 1), rounding_mode="floor"),
            pairs % max(len(self), 1),
        )
        closed = []
        for depth, (path, sizes) in enumerate(zip(self.paths, self._sizes, strict=True)):
            n_nodes = len(sizes)
            keys, counts = torch.unique(rows * n_nodes + path[leaves], return_counts=True)
            nodes = keys % max(n_nodes, 1)
            full = counts == sizes[nodes]
            nodes, keys = nodes[full], keys[full]
            parents = self.parents[depth][nodes]
            where = keys.div(max(n_nodes, 1), rounding_mode="floor")
            closed.append(Closed(where, parents, nodes - self.offsets[depth][parents]))
        return closed

    @cached_property
    def _sizes(self) -> list[Tensor]:
        """Leaves behind each node at depth 1, ..., H."""
        return [
            torch.bincount(path, minlength=len(codes))
            for path, codes in zip(self.paths, self.codes, strict=True)
        ]
