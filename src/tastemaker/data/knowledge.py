"""The knowledge graph around the items, alone and joined with the users' interactions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.rows import distinct
from tastemaker.data.vocabulary import Vocabulary

__all__ = ["CollaborativeGraph", "KnowledgeGraph"]


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """T triples (head, relation, tail) in codes, and the entity that stands for each item.

    Attributes:
        entities: vocabulary of the entities, heads before tails in order of first appearance.
        relations: vocabulary of the relations.
        heads: [T] int64 entity codes.
        relations_: [T] int64 relation codes, aligned with `heads`.
        tails: [T] int64 entity codes.
        item_entities: [n_items] int64 entity code of each item, -1 for an item without one.
    """

    entities: Vocabulary
    relations: Vocabulary
    heads: NDArray[np.int64]
    relations_: NDArray[np.int64]
    tails: NDArray[np.int64]
    item_entities: NDArray[np.int64]

    @classmethod
    def build(cls, heads: Any, relations: Any, tails: Any, item_entities: Any) -> KnowledgeGraph:
        """From raw ids: Arrow arrays of T heads, relations and tails, and n_items entity ids.

        An item whose entity id is null or in no triple gets -1.
        """
        import pyarrow as pa

        if heads.type != tails.type:
            heads, tails = heads.cast(pa.large_string()), tails.cast(pa.large_string())
        entities = Vocabulary.build(pa.concat_arrays([heads, tails]))
        relation_ids = Vocabulary.build(relations)
        return cls(
            entities,
            relation_ids,
            entities.encode(heads),
            relation_ids.encode(relations),
            entities.encode(tails),
            entities.encode(item_entities),
        )

    @property
    def n_entities(self) -> int:
        """Number of entities."""
        return len(self.entities)

    @property
    def n_relations(self) -> int:
        """Number of relations."""
        return len(self.relations)

    @property
    def n_triples(self) -> int:
        """Number of triples T."""
        return len(self.heads)

    def take_items(self, items: NDArray[np.int64]) -> KnowledgeGraph:
        """The same graph for the chosen items, renumbered 0.. in the given order."""
        return KnowledgeGraph(
            self.entities,
            self.relations,
            self.heads,
            self.relations_,
            self.tails,
            self.item_entities[items],
        )

    def without_rare(self, min_triples: int) -> KnowledgeGraph:
        """The same graph without entities of fewer than `min_triples` triples, and their triples.

        Triples are counted once, before any goes; entities of items stay as long as they have one.
        """
        ends = np.concatenate([self.heads, self.tails])
        kept = np.bincount(ends, minlength=self.n_entities) >= min_triples
        kept[self.item_entities[self.item_entities >= 0]] = True
        triples = kept[self.heads] & kept[self.tails]
        kept[:] = False
        kept[self.heads[triples]] = kept[self.tails[triples]] = True
        codes = np.where(kept, np.cumsum(kept) - 1, -1)
        return KnowledgeGraph(
            self.entities.take(np.flatnonzero(kept)),
            self.relations,
            codes[self.heads[triples]],
            self.relations_[triples],
            codes[self.tails[triples]],
            np.where(self.item_entities >= 0, codes[self.item_entities], -1),
        )

    @cached_property
    def others(self) -> NDArray[np.int64]:
        """Codes of the entities that stand for no item, rising."""
        return np.setdiff1d(np.arange(self.n_entities), self.item_entities)

    def item_triples(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The triples between nodes: item i is node i, entity `others[j]` is node n_items + j.

        An entity that stands for several items gives each of them all of its triples.

        Returns:
            Heads, relations and tails, T int64 each, or more.
        """
        linked = np.flatnonzero(self.item_entities >= 0)
        owners = np.concatenate([self.item_entities[linked], self.others])
        nodes = np.concatenate([linked, len(self.item_entities) + np.arange(len(self.others))])
        nodes = nodes[np.argsort(owners, kind="stable")]  # those of entity 0, of entity 1, ...
        counts = np.bincount(owners, minlength=self.n_entities)
        rows, heads = _places(self.heads, counts)
        again, tails = _places(self.tails[rows], counts)
        return nodes[heads[again]], self.relations_[rows[again]], nodes[tails]


def _places(
    groups: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each row once for each member of its group: row numbers, and places of the members.

    Args:
        groups: [n] group of each row.
        sizes: [G] members of each group; members lie one group behind the other.
    """
    lengths = sizes[groups]
    rows = np.repeat(np.arange(len(groups)), lengths)
    firsts = (np.cumsum(sizes) - sizes)[groups] - (np.cumsum(lengths) - lengths)
    return rows, firsts[rows] + np.arange(len(rows))


@dataclass(frozen=True, eq=False)
class CollaborativeGraph:
    """Interactions and triples as one directed graph with typed edges, each with its inverse.

    Nodes are users, then items, then the entities that stand for no item. With R relations of the
    knowledge graph, relation 0 is "user interacts with item", 1 to R are those of the graph, and
    R + 1 + r is the inverse of r. Edges are distinct and sorted by head, relation and tail.

    The joint graph of KGAT (KDD 2019, arXiv 1905.07854, sec. 2).

    Attributes:
        n_users: number of users.
        n_items: number of items, with or without an entity.
        n_nodes: users, items and other entities.
        n_relations: 2 (R + 1).
        heads: [E] int64 nodes.
        relations: [E] int64.
        tails: [E] int64 nodes.
    """

    n_users: int
    n_items: int
    n_nodes: int
    n_relations: int
    heads: NDArray[np.int64]
    relations: NDArray[np.int64]
    tails: NDArray[np.int64]

    @classmethod
    def build(
        cls,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        n_users: int,
        n_items: int,
        knowledge: KnowledgeGraph | None,
    ) -> CollaborativeGraph:
        """From interactions and a knowledge graph about the same items.

        Args:
            users: [I] user codes of interactions; repeated pairs count once.
            items: [I] item codes.
            n_users: number of users.
            n_items: number of items.
            knowledge: the triples; `None` leaves the interactions alone.
        """
        heads, relations, tails = users, np.zeros(len(users), np.int64), n_users + items
        n_nodes, n_relations = n_users + n_items, 2
        if knowledge is not None:
            own, kinds, other = knowledge.item_triples()
            heads = np.concatenate([heads, n_users + own])
            relations = np.concatenate([relations, 1 + kinds])
            tails = np.concatenate([tails, n_users + other])
            n_nodes += len(knowledge.others)
            n_relations += 2 * knowledge.n_relations
        both = np.concatenate([relations, relations + n_relations // 2])
        keys = np.concatenate([heads, tails]) * n_relations + both
        keys = distinct(keys * n_nodes + np.concatenate([tails, heads]))
        pairs, ends = np.divmod(keys, n_nodes)
        starts, kinds = np.divmod(pairs, n_relations)
        return cls(n_users, n_items, n_nodes, n_relations, starts, kinds, ends)

    def __len__(self) -> int:
        return len(self.heads)
