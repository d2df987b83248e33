"""Capabilities by which a method says more of why an item scores as it does than its scores do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.data import KnowledgeGraph, TrainingSet
from tastemaker.data.knowledge import CollaborativeGraph
from tastemaker.data.queries import Queries

__all__ = ["ContentCodes", "EdgeAttention", "FieldEffects", "TitleWriter"]


@runtime_checkable
class TitleWriter(Protocol):
    """Capability: the method writes a text, and items score by how near their titles are to it."""

    def write(self, queries: Queries) -> list[str]:
        """The text written for each query, [B]."""
        ...

    def ground(self, texts: Sequence[str]) -> Tensor:
        """Distances of texts to the titles of all items, [B, N] float32."""
        ...

    def fuse(self, distances: Tensor) -> Tensor:
        """Scores of the items by these distances, [B, N] float32."""
        ...

    def item_vectors(self) -> Tensor:
        """The vectors of the titles, [N, D] float32."""
        ...


@runtime_checkable
class ContentCodes(Protocol):
    """Capability: the method knows items by codes made from their content, from coarse to fine."""

    def content_codes(self) -> Tensor:
        """[N, L] int64; items that agree in the first of them are alike."""
        ...


@runtime_checkable
class EdgeAttention(Protocol):
    """Capability: the method weighs the edges of a graph of users, items and entities."""

    def knowledge_used(self) -> KnowledgeGraph | None:
        """The entities and relations of the graph; `None` where it has none."""
        ...

    def joint_graph(self, data: TrainingSet) -> CollaborativeGraph:
        """The graph of the training data."""
        ...

    def attention_of(self, graph: CollaborativeGraph, edges: NDArray[np.int64]) -> Tensor:
        """Weights [n] of edges, every edge of a head among them; 1 in sum for each head."""
        ...


@runtime_checkable
class FieldEffects(Protocol):
    """Capability: the method scores fields of users, items and contexts."""

    def field_effects(self, queries: Queries, items: Tensor) -> Mapping[str, Tensor]:
        """What scores owe to each field: field -> [B], for one item [B] int64 of each query."""
        ...
