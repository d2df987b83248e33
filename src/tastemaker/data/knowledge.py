"""The knowledge graph around the items: triples of entity, relation, entity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.vocabulary import Vocabulary

__all__ = ["KnowledgeGraph"]


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
