"""A trie over tuples of codes, as arrays: which code may follow which prefix.

Nodes of a depth are numbered in the order of their prefixes, so the children of a node lie
together, and a trie is one array of offsets and one of codes per depth. It takes O(N H) numbers
and one sort to build; nothing in it loops over items. What follows B x W nodes is found in O(1)
gathers of B x W x C numbers, C the most children of those nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Children", "Closed", "Trie"]

_FEW = 8  # children of which no node has more need not be counted before they are looked up


@dataclass(frozen=True)
class Closed:
    """Nodes of a depth that some queries may not enter: all items behind them are excluded.

    They are few, so they are looked for on the CPU.

    Attributes:
        rows: [X] int64 query numbers.
        parents: [X] int64 parent nodes, one depth above.
        places: [X] int64, which child of its parent each is.
    """

    rows: NDArray[np.int64]
    parents: NDArray[np.int64]
    places: NDArray[np.int64]

    def among(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Row, beam and place, [Y] int64 each, where a node of [B, W] is their parent, if any."""
        if not len(self.rows):
            return None
        pair, beam = (nodes.cpu().numpy()[self.rows] == self.parents[:, None]).nonzero()
        if not len(pair):
            return None
        found = self.rows[pair], beam, self.places[pair]
        rows, beams, places = (torch.from_numpy(each).to(nodes.device) for each in found)
        return rows, beams, places


@dataclass(frozen=True)
class Children:
    """What may follow each of B x W nodes, padded to the most children, C, at least one.

    Attributes:
        parents: [B, W] int64, the nodes they follow; -1 is a place without a node.
        nodes: [B, W, C] int64 node numbers of the next depth; arbitrary where not valid.
        codes: [B, W, C] int64 the code that leads to each; any code where not valid.
        valid: [B, W, C] bool.
    """

    parents: Tensor
    nodes: Tensor
    codes: Tensor
    valid: Tensor

    def scored(self, log_probabilities: Tensor, closed: Closed | None = None) -> Tensor:
        """Those of the children, [B, W, C] float32, of all codes' [B, W, V] float.

        They are -inf where a child is not valid or closed to the query.
        """
        found = torch.where(self.valid, log_probabilities.gather(2, self.codes), -torch.inf)
        shut = None if closed is None else closed.among(self.parents)
        if shut is not None:
            found[shut] = -torch.inf
        return found.float()

    def chosen(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The nodes and codes, [B, K] int64 each, at places [B, K] int64 of W x C."""
        return self.nodes.flatten(1).gather(1, places), self.codes.flatten(1).gather(1, places)


@dataclass(frozen=True)
class _Table:
    """What `Trie.children` reads of a depth, without a look at bounds.

    Attributes:
        counts: the number of children of each node, and 0 for node -1, whose offset is the last.
        codes: those of the trie, with room behind them for the children of a node without any.
        places: the numbers of children, up to the most of a node.
        of_root: `nodes`, `codes` and `valid` of the children of node 0, [C] each.
    """

    counts: Tensor
    codes: Tensor
    places: Tensor
    of_root: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, offsets: Tensor, codes: Tensor) -> _Table:
        counts = offsets.diff(append=offsets[-1:])
        places = torch.arange(max(int(counts.max()), 1), device=codes.device)
        codes = torch.cat([codes, codes.new_zeros(len(places))])
        return cls(counts, codes, places, (places, codes[: len(places)], places < counts[0]))


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
        shape = (*nodes.shape, -1)
        if not depth:  # every place has the root
            return Children(nodes, *(each.expand(shape) for each in table.of_root))
        counts, places = table.counts.take(nodes)[:, :, None], table.places
        if len(places) > _FEW:
            places = places[: max(int(counts.max()), 1)]
        found = self.offsets[depth].take(nodes)[:, :, None] + places
        return Children(nodes, found, table.codes.take(found), places < counts)

    @cached_property
    def _tables(self) -> list[_Table]:
        return [_Table.of(*pair) for pair in zip(self.offsets, self.codes, strict=True)]

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
