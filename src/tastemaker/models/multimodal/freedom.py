"""FREEDOM: LightGCN on a thinned graph, plus item vectors smoothed over a frozen feature graph.

"A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal Recommendation" (ACM
MM 2023, arXiv 2211.06924; reference code enoche/FREEDOM). Each item is joined to the items whose
features are nearest, once, before training; item vectors are those of LightGCN plus the item table
averaged over that graph. Every epoch trains on a part of the interactions, drawn so that edges
between popular users and items are left out more often; answers are given on all of them. Beside
BPR on these vectors there is BPR on mapped features.

What we changed: the stored graph is keyed by the content of the features, not by its settings
alone; items without features of their own have no neighbours, where the reference code joins them
to each other; negatives may be items without interactions; an item of several modalities weighs
them as `feature_weights` says, evenly by default (paper: .1 for images, .9 for texts). Initial
vectors are normal, as in LightGCN, instead of Xavier-uniform.

Cost: the graph once: N^2 F multiply-adds a modality and 12 k N bytes; a batch as LightGCN on a
share 1 - `pruning` of the edges, and 4 k N D operations; trainable features 16 N F bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tastemaker.content.features import features_fingerprint, item_features
from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.rows import distinct
from tastemaker.errors import ConfigError
from tastemaker.layers.item_graph import mixed_graph, neighbour_graph
from tastemaker.layers.propagation import (
    draw_edges,
    normalised_adjacency,
    propagate,
    sparse_rows,
    symmetric_weights,
    transposed,
)
from tastemaker.losses.pairwise import bpr
from tastemaker.models.base import settings
from tastemaker.models.multimodal.modalities import (
    MultimodalConfig,
    MultimodalFactors,
    rows_with_features,
)
from tastemaker.models.search import Choice, LogUniform
from tastemaker.training.stages import (
    Batch,
    ComputeStage,
    GradientStage,
    Loss,
    Progressing,
    Stage,
)

__all__ = ["FREEDOM"]


class FREEDOM(MultimodalFactors):
    """One vector per user and item over two graphs: of interactions, and of like items."""

    @settings
    class Config(MultimodalConfig):
        """Settings of FREEDOM."""

        num_item_layers: int = Field(default=1, ge=0)  # products with the item graph; 0 = without
        num_neighbours: int = Field(default=10, ge=1)  # of an item, itself included (paper)
        feature_weights: tuple[float, ...] = ()  # of the sources in the item graph; () = even
        pruning: float = Field(default=0.8, ge=0, lt=1)  # share of edges left out (paper, 4.1.4)
        modality_weight: float = Field(default=1e-3, ge=0)  # of BPR on features (paper, 4.1.4)

    search = {
        "learning_rate": LogUniform(1e-4, 1e-2),
        "pruning": Choice((0.0, 0.5, 0.8, 0.9)),
        "modality_weight": Choice((0.0, 1e-5, 1e-4, 1e-3)),
        "num_layers": Choice((1, 2, 3)),
        "num_neighbours": Choice((5, 10, 20)),
    }

    config: Config
    kept: Tensor  # [E'] int64 interactions of this epoch, rising; [0] but in training
    item_offsets: Tensor  # [N + 1] int32 rows of the item graph; [0] but in training
    item_columns: Tensor  # [edges] int32, likewise
    item_values: Tensor  # [edges] float32, likewise
    _pairs: tuple[Tensor, Tensor] | None  # users and items of the distinct interactions
    _weights: NDArray[np.float32]  # of the interactions, when some are drawn
    _full: Tensor | None  # the graph of all interactions
    _pruned: Tensor | None  # that of `kept`
    _item_graph: tuple[Tensor, Tensor] | None  # of the buffers, and its transpose

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset)
        if config.feature_weights and len(config.feature_weights) != len(config.sources):
            raise ConfigError(
                f"setting 'feature_weights': {len(config.feature_weights)} weights for "
                f"{len(config.sources)} features; give each source one, or none at all"
            )
        self.register_buffer("kept", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("item_offsets", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("item_columns", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("item_values", torch.zeros(0))
        self._forget()

    @property
    def uses_features(self) -> bool:
        """Whether there is BPR on features."""
        return self.config.modality_weight > 0

    # The graphs

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """The item graph, the features, epochs on thinned graphs, then the propagated vectors."""
        config, dataset = self.config, data.dataset
        *features, fit, keep = super().stages(data)
        assert isinstance(fit, GradientStage), "the stage before the last trains"
        if config.pruning:
            fit = replace(fit, before_epoch=[self._prune])
        if not (config.num_item_layers and config.sources):
            return [*features, fit, keep]
        key = {
            "features": [features_fingerprint(dataset, source) for source in config.sources],
            "weights": self._feature_weights(),
            "num_neighbours": config.num_neighbours,
        }
        graph = ComputeStage("item-graph", lambda: self._join(dataset), self._freeze, key)
        return [graph, *features, fit, keep]

    def prepare(self, data: TrainingSet) -> None:
        """The graph of users and items, and how likely each interaction is kept."""
        pairs = distinct(data.users * self.n_items + data.items)
        users, items = (torch.from_numpy(part) for part in np.divmod(pairs, self.n_items))
        self._forget()
        self._weights = symmetric_weights(users, items, self.n_users, self.n_items).numpy()
        self._pairs = users.to(self.device), items.to(self.device)
        self.kept = torch.arange(len(pairs), device=self.device)

    def release(self) -> None:
        """Drop graphs and features."""
        super().release()
        self._forget()
        for name in ("kept", "item_offsets", "item_columns", "item_values"):
            setattr(self, name, getattr(self, name)[:0])

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take over a stored state, the graphs included."""
        self._pruned = self._item_graph = None
        return super().load_state(state)

    def _forget(self) -> None:
        """Drop what is made from buffers and data."""
        self._pairs = self._full = self._pruned = self._item_graph = None
        self._weights = np.zeros(0, np.float32)

    def _prune(self, progress: Progressing) -> None:
        """Hook: draw the interactions of this epoch."""
        count = int(len(self._weights) * (1 - self.config.pruning))
        kept = draw_edges(self._weights, count, progress.generator)
        self.kept, self._pruned = torch.from_numpy(kept).to(self.device), None

    def _feature_weights(self) -> list[float]:
        n_sources = len(self.config.sources)
        return list(self.config.feature_weights or [1 / n_sources] * n_sources)

    def _join(self, dataset: Dataset) -> Mapping[str, Tensor]:
        """The mixed graph of nearest items, as the arrays of a CSR matrix."""
        graphs = []
        for source in self.config.sources:
            features = torch.from_numpy(item_features(dataset, source)).to(self.device)
            present = rows_with_features(features)
            graphs.append(neighbour_graph(features, self.config.num_neighbours, present=present))
        graph = mixed_graph(graphs, self._feature_weights())
        return {
            "item_offsets": graph.crow_indices(),
            "item_columns": graph.col_indices(),
            "item_values": graph.values(),
        }

    def _freeze(self, product: Mapping[str, Tensor]) -> None:
        for name, value in product.items():
            setattr(self, name, value)
        self._item_graph = None

    def _adjacency(self) -> Tensor:
        """The graph of users and items: that of the epoch in training, all of it for answers."""
        assert self._pairs is not None, "prepare() makes the graph"
        users, items = self._pairs
        if self.training and self.config.pruning:
            if self._pruned is None:
                users, items = users[self.kept], items[self.kept]
                self._pruned = normalised_adjacency(users, items, self.n_users, self.n_items)
            return self._pruned
        if self._full is None:
            self._full = normalised_adjacency(users, items, self.n_users, self.n_items)
        return self._full

    def item_graph(self) -> tuple[Tensor, Tensor]:
        """The frozen graph of like items, [N, N] sparse CSR, and its transpose."""
        if self._item_graph is None:
            graph = sparse_rows(
                self.item_offsets, self.item_columns, self.item_values, (self.n_items,) * 2
            )
            self._item_graph = graph, transposed(graph)
        return self._item_graph

    # The network and its loss

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Users [n_users, D] and items [N, D]: LightGCN's, items with their neighbours' average."""
        nodes = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        layers = propagate(self._adjacency(), nodes, self.config.num_layers)
        mean = torch.stack(layers).mean(0) if len(layers) > 1 else nodes
        users, items = mean[: self.n_users], mean[self.n_users :]
        if len(self.item_offsets):
            graph, transpose = self.item_graph()
            table = self.item_embedding.weight
            items = items + propagate(graph, table, self.config.num_item_layers, transpose)[-1]
        return users, items

    def triple_loss(
        self, users: Tensor, positives: Tensor, negatives: Tensor, batch: Batch
    ) -> Loss:
        """BPR on propagated vectors and, with their weight, BPR on the features of the items."""
        ranking = super().triple_loss(users, positives, negatives, batch)
        if not (self.uses_features and len(self.modalities)):
            return ranking
        features = users.new_zeros(())
        for modality in self.each_modality():
            own, other = modality(batch["positives"]), modality(batch["negatives"])
            features = features + bpr((users * own).sum(-1), (users[:, None] * other).sum(-1))
        value = ranking.value + self.config.modality_weight * features
        return Loss(value, ranking.weight, {**ranking.parts, "features": features.detach()})
