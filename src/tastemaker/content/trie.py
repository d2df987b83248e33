"""A trie over tuples of codes, as arrays: which code may follow which prefix.

Nodes of a depth are numbered in the order of their prefixes, so the children of a node lie
together, and a trie is one array of offsets and one of codes per depth. It takes O(N H) numbers
and one sort to build; nothing in it loops over items. What follows B x W nodes is read in two
gathers of B x W x C numbers, C the most children of a node; where few nodes have so many, it is
put together from the offsets, and C is the most of the nodes asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Children", "Closed", "Trie"]

_PADDING = 8  # places a depth may have for each of its codes when padded to the most children


@dataclass(frozen=True)
class Closed:
    """Nodes of a depth that some queries may not enter: all items behind them are excluded.

    They are few, and few beams come by any.

    Attributes:
        rows: [X] int64 query numbers.
        parents: [X] int64 parent nodes, one depth above.
        places: [X] int64, which child of its parent each is.
    """

    rows: NDArray[np.int64]
    parents: NDArray[np.int64]
    places: NDArray[np.int64]

    def shut(self, nodes: Tensor, candidates: Tensor) -> None:
        """Make those of the candidates [B, W, C] float behind nodes [B, W] that are closed -inf."""
        if self._parents.isdisjoint(nodes.flatten().tolist()):
            return
        given = (self.rows, self.parents, self.places)
        rows, parents, places = (torch.from_numpy(each).to(nodes.device) for each in given)
        pair, beam = (nodes[rows] == parents[:, None]).nonzero(as_tuple=True)
        candidates[rows[pair], beam, places[pair]] = -torch.inf

    @cached_property
    def _parents(self) -> frozenset[int]:
        return frozenset(self.parents.tolist())


@dataclass(frozen=True)
class Children:
    """What may follow each of B x W nodes, padded to C children, at least one.

    Attributes:
        parents: [B, W] int64, the nodes they follow; -1 is a place without a node.
        firsts: [B, W] int64, the first child of each, a node of the next depth; the others follow.
        codes: [B, W, C] int64 the code that leads to each; any code where there is no child.
        bias: [B, W, C] float32, 0 where there is a child and -inf elsewhere.
    """

    parents: Tensor
    firsts: Tensor
    codes: Tensor
    bias: Tensor

    def scored(self, log_probabilities: Tensor, closed: Closed | None = None) -> Tensor:
        """Their log-probabilities, [B, W, C] float32, out of those of all codes, [B, W, V] float.

        They are -inf where there is no child or it is closed to the query.
        """
        found = log_probabilities.gather(2, self.codes) + self.bias
        if closed is not None and len(closed.rows):
            closed.shut(self.parents, found)
        return found

    def chosen(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Number of the parent among W, node and code, [B, K] int64 each, at places of W x C."""
        size = self.codes.shape[2]
        parents = places.div(size, rounding_mode="floor")
        nodes = self.firsts.gather(1, parents) + places.remainder(size)
        return parents, nodes, self.codes.flatten(1).gather(1, places)


@dataclass(frozen=True)
class _Table:
    """The children of every node of a depth, padded to the most; row 0 is that of no node.

    Attributes:
        codes: [nodes + 1, C] int64, any code where there is no child.
        bias: [nodes + 1, C] float32, 0 where there is a child and -inf elsewhere.
    """

    codes: Tensor
    bias: Tensor


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
        table = self._tables[depth]
        if not depth and table is not None:  # every place has the root
            codes, bias = (each[1].expand(*nodes.shape, -1) for each in (table.codes, table.bias))
            return Children(nodes, nodes, codes, bias)
        firsts = self.offsets[depth].take(nodes)
        if table is not None:
            rows = nodes + 1
            codes, bias = F.embedding(rows, table.codes), F.embedding(rows, table.bias)
        else:
            codes, bias = self._following(depth, firsts, self._counts[depth].take(nodes))
        return Children(nodes, firsts, codes, bias)

    def _following(self, depth: int, firsts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and bias as of `Children`, from the first child and the number of children."""
        places = torch.arange(max(int(counts.max()), 1), device=firsts.device)
        found = (firsts[..., None] + places).clamp_(max=len(self.codes[depth]) - 1)
        bias = torch.zeros(found.shape, device=firsts.device)
        bias.masked_fill_(places >= counts[..., None], -torch.inf)
        return self.codes[depth].take(found), bias

    @cached_property
    def _counts(self) -> list[Tensor]:
        """The number of children of each node, a depth each; 0 for node -1."""
        return [offsets.diff(append=offsets[-1:]) for offsets in self.offsets]

    @cached_property
    def _tables(self) -> list[_Table | None]:
        """The children of each depth, `None` where a table would be mostly padding."""
        tables: list[_Table | None] = []
        for depth, (firsts, counts) in enumerate(zip(self.offsets, self._counts, strict=True)):
            small = len(counts) * int(counts.max()) <= _PADDING * len(self.codes[depth]) + len(self)
            rows = self._following(depth, firsts.roll(1), counts.roll(1)) if small else None
            tables.append(None if rows is None else _Table(*rows))
        return tables

    @cached_property
    def parents(self) -> tuple[Tensor, ...]:
        """H arrays: the parent, at depth h, of each node at depth h + 1."""
        return tuple(
            torch.repeat_interleave(
                torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff()
            )
            for offsets in self.offsets
        )

    def leaves_of(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """The leaf of each item, or -1 where it has none; shaped as `items`."""
        if not len(self):
            return np.full_like(items, -1)
        owned, order = self._by_item
        place = np.minimum(owned.searchsorted(items), len(owned) - 1)
        return np.where(owned[place] == items, order[place], -1)

    @cached_property
    def _by_item(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The items in rising order and the leaf of each, [N] int64 each."""
        items = self.items.cpu().numpy()
        order = items.argsort()
        return items[order], order

    def closed_to(self, rows: NDArray[np.int64], items: NDArray[np.int64]) -> list[Closed]:
        """What queries may not enter when they must not get some items, one entry a depth.

        From the leaves upwards: a node is closed when all its children are, so that few remain.
        It takes O(X log X) at the leaves.

        Args:
            rows: [X] int64 query numbers.
            items: [X] int64, the item excluded from the query of that row; others are ignored.
        """
        leaves, size = self.leaves_of(items), max(len(self), 1)
        known = leaves >= 0
        where, nodes = np.divmod(np.unique(rows[known] * size + leaves[known]), size)
        closed: list[Closed] = []
        for offsets, above in reversed(self._on_host):
            if not len(nodes):
                closed.append(Closed(nodes, nodes, nodes))
                continue
            parents = above[nodes]
            firsts = offsets[parents]
            closed.append(Closed(where, parents, nodes - firsts))
            counts = offsets[parents + 1] - firsts
            few = counts <= len(nodes)  # the others have a child that is open
            where, nodes = _full(where[few], parents[few], counts[few])
        return closed[::-1]

    @cached_property
    def _on_host(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The offsets and the parents of each depth."""
        pairs = zip(self.offsets, self.parents, strict=True)
        return [(offsets.cpu().numpy(), parents.cpu().numpy()) for offsets, parents in pairs]


def _full(
    rows: NDArray[np.int64], nodes: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of row and node, in order, that occur as often as the node's size."""
    if not len(nodes):
        return rows, nodes
    new = np.ones(len(nodes) + 1, bool)  # where another pair begins, and the end
    new[1:-1] = (nodes[1:] != nodes[:-1]) | (rows[1:] != rows[:-1])
    starts = new.nonzero()[0]
    first = starts[:-1]
    first = first[starts[1:] - first == sizes[first]]
    return rows[first], nodes[first]
