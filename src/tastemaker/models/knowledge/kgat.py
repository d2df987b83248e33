"""KGAT: attentive propagation over users, items and the entities around them.

"KGAT: Knowledge Graph Attention Network for Recommendation" (KDD 2019, arXiv 1905.07854; reference
code xiangwang1223/knowledge_graph_attention_network). Interactions and triples form one directed
graph with typed edges. Node vectors are trained in turns, an epoch each: as entities of TransR,
where e_h W_r + r should meet e_t W_r, and as users and items of BPR after propagation over the
graph. An edge passes on a share a = softmax over the edges of h of (e_t W_r) . tanh(e_h W_r + r),
computed anew before every epoch and fixed within it, so attention learns from TransR alone. With
n = A e, a layer is LeakyReLU((e + n) W1) + LeakyReLU((e * n) W2), and the readout is e with the
normalised vectors of every layer behind it.

What we changed: the attention is used - in the reference code a constant hides it, and the
published figures are those of `attention="fixed_rw"`, the random walk within each relation. For
answers it is that of the current vectors. Initial vectors are normal instead of Xavier-uniform;
those of a factor model, which the paper starts from, come from `pretrain_epochs` of BPR-MF. Several
negatives are possible, and drawing interactions instead of users. The aggregators `gcn` and
`graphsage` are the paper's, not the code's. A user not seen in training is answered as in BPR-MF,
from the propagated item vectors.

Cost: with E edges, inverses among them, a batch of pairs propagates the whole graph, 2 E D
operations a layer and as many back; a knowledge batch is three products of B D K, and forward and
back again; memory 48 E bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, KnowledgeGraph, Ragged, TrainingSet
from tastemaker.data.knowledge import CollaborativeGraph
from tastemaker.errors import ConfigError
from tastemaker.layers.dropout import dropout
from tastemaker.layers.propagation import (
    edge_softmax,
    product,
    relation_walk,
    sparse_matrix,
    transposed,
)
from tastemaker.losses.knowledge import project, transr_distance, transr_loss
from tastemaker.losses.pairwise import batch_l2, bpr
from tastemaker.models.base import Need, settings
from tastemaker.models.collaborative.factors import GraphFactors, PairwiseConfig
from tastemaker.models.search import Choice, LogUniform, Uniform
from tastemaker.training.batches import PairBatches
from tastemaker.training.samplers import NegativeSampler
from tastemaker.training.stages import Batch, GradientStage, Loss, Objective, Progressing, Stage

__all__ = ["KGAT"]

_EDGE_BLOCK = 1 << 15  # edges whose attention is computed at once: 8 MB a table at width 64


class KGAT(GraphFactors):
    """Vectors of users, items and entities, propagated over their typed graph."""

    @settings
    class Config(PairwiseConfig):
        """Settings of KGAT."""

        relation_size: int = Field(default=64, ge=1)  # width K of relation spaces (paper, 4.2.3)
        layer_sizes: tuple[int, ...] = (64, 32, 16)  # widths of the layers (paper, sec. 4.2.3)
        aggregator: Literal["bi", "gcn", "graphsage"] = "bi"  # what a layer computes (paper, 3.2)
        attention: Literal["transr_softmax", "fixed_rw"] = "transr_softmax"  # weights of edges
        translate: bool = True  # whether TransR is trained (False: ablation of the paper, 4.4.3)
        use_triples: bool = True  # whether the graph has more than the interactions (ablation)
        min_triples: int = Field(default=1, ge=1)  # rarer entities are left out, items never (ours)
        dropout: float = Field(default=0.1, ge=0, lt=1)  # share of a layer's entries (paper)
        sampling: Literal["users", "interactions"] = "users"  # what BPR draws evenly (paper: users)
        regularization: float = Field(default=1e-5, ge=0)  # L2 weight of a triple (reference code)
        knowledge_regularization: float = Field(default=1e-5, ge=0)  # of TransR (reference code)
        pretrain_epochs: int = Field(default=0, ge=0)  # of BPR-MF before, for a start (paper: yes)
        pretrain_learning_rate: float = Field(default=5e-3, gt=0)  # step size of these (ours)
        pretrain_regularization: float = Field(default=1e-2, ge=0)  # L2 weight in these (ours)
        batch_size: int = Field(default=1024, ge=1)  # positives (paper, sec. 4.2.3)
        epochs: int = Field(default=1000, ge=1)  # at most (paper, sec. 4.2.3)

    needs = frozenset({Need.KNOWLEDGE})

    search = {
        "learning_rate": LogUniform(1e-4, 1e-2),
        "regularization": LogUniform(1e-6, 1e-2),
        "dropout": Uniform(0.0, 0.5),
        "num_negatives": Choice((1, 4)),
        "aggregator": Choice(("bi", "gcn", "graphsage")),
    }

    presets = {
        "kg-lastfm-music": {
            "layer_sizes": (64,),
            "aggregator": "gcn",
            "dropout": 0.7,
            "num_negatives": 4,
            "regularization": 3e-2,
            "learning_rate": 3e-3,
            "batch_size": 2048,
            "pretrain_epochs": 300,
            "pretrain_learning_rate": 5e-3,
            "pretrain_regularization": 3e-2,
            "epochs": 40,
        },
    }

    config: Config
    attention: Tensor  # [E] float32 weights of the edges in this epoch; [0] but in training

    def __init__(self, config: Config, dataset: Dataset) -> None:
        super().__init__(config, dataset, config.hidden_size + sum(config.layer_sizes))
        if config.attention == "transr_softmax" and not config.translate:
            raise ConfigError(
                "setting 'translate': attention transr_softmax learns from TransR alone; "
                "set attention=fixed_rw, too"
            )
        assert dataset.knowledge is not None, "the needs were checked"
        knowledge = dataset.knowledge.without_rare(config.min_triples)
        self._knowledge = knowledge if config.use_triples else None
        n_others = len(knowledge.others) if config.use_triples else 0
        n_relations = 2 * (knowledge.n_relations + 1) if config.use_triples else 2
        self.entity_embedding = nn.Embedding(n_others, config.hidden_size)
        nn.init.normal_(self.entity_embedding.weight, std=config.init_std)
        widths = (config.hidden_size, *config.layer_sizes)
        self.layers = nn.ModuleList(_Layer(config.aggregator, *pair) for pair in pairwise(widths))
        if config.translate:
            self.relation_embedding = nn.Embedding(n_relations, config.relation_size)
            self.projections = nn.Parameter(
                torch.empty(n_relations, config.hidden_size, config.relation_size)
            )
            nn.init.xavier_uniform_(self.relation_embedding.weight)
            for matrix in self.projections.detach():
                nn.init.xavier_uniform_(matrix)
        self.register_buffer("attention", torch.zeros(0))
        self._graph: _Edges | None = None
        self._matrices: tuple[Tensor, Tensor] | None = None  # of `attention`

    # The graph

    def prepare(self, data: TrainingSet) -> None:
        """The joint graph of interactions and triples, with the weights it begins with."""
        graph = self.joint_graph(data)
        self._graph = _Edges(graph, self.device)
        self._weigh(relation_walk(self._graph.heads, self._graph.relations, graph.n_nodes))

    def joint_graph(self, data: TrainingSet) -> CollaborativeGraph:
        """The graph of these interactions and the triples."""
        return CollaborativeGraph.build(
            data.users, data.items, self.n_users, self.n_items, self._knowledge
        )

    def knowledge_used(self) -> KnowledgeGraph | None:
        """The triples, without rare entities; `None` without the use of any."""
        return self._knowledge

    def release(self) -> None:
        """Drop the graph."""
        self._graph = None
        self._weigh(self.attention[:0])

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take over a stored state, the weights of the edges included."""
        self._matrices = None
        return super().load_state(state)

    def _weigh(self, weights: Tensor) -> None:
        self.attention, self._matrices = weights, None

    def _attend(self, progress: Progressing) -> None:
        """Hook: the first epoch walks at random within relations, later ones attend."""
        if progress.epoch and self.config.attention == "transr_softmax":
            self._weigh(self.edge_weights())

    @torch.no_grad()
    def edge_weights(self) -> Tensor:
        """Attention [E] of every edge by the current vectors; sums to 1 over the edges of a head.

        With `attention="fixed_rw"`, 1 / out-degree of the head in the edge's relation instead.
        """
        edges = self._edges()
        return self._attention(edges.heads, edges.relations, edges.tails)

    @torch.no_grad()
    def attention_of(self, graph: CollaborativeGraph, edges: NDArray[np.int64]) -> Tensor:
        """Attention [n] of some edges by the current vectors, every edge of a head among them."""
        heads, relations, tails = (
            torch.from_numpy(part[edges]).to(self.device)
            for part in (graph.heads, graph.relations, graph.tails)
        )
        return self._attention(heads, relations, tails)

    def _attention(self, heads: Tensor, relations: Tensor, tails: Tensor) -> Tensor:
        nodes = self._nodes()
        if self.config.attention == "fixed_rw":
            return relation_walk(heads, relations, len(nodes))
        logits = []
        for start in range(0, len(heads), _EDGE_BLOCK):
            some = slice(start, start + _EDGE_BLOCK)
            kinds = relations[some]
            ends = project(nodes[tails[some]], kinds, self.projections)
            own = project(nodes[heads[some]], kinds, self.projections)
            logits.append((ends * torch.tanh(own + self.relation_embedding(kinds))).sum(1))
        return edge_softmax(torch.cat(logits), heads, len(nodes))

    def _edges(self) -> _Edges:
        assert self._graph is not None, "prepare() makes the graph"
        return self._graph

    def _propagation(self) -> tuple[Tensor, Tensor]:
        """The matrix of edge weights [M, M] and its transpose: of the epoch, or as of now."""
        if not self.training:
            made: tuple[Tensor, Tensor] = self.cached(
                "matrices", lambda: self._edges().matrices(self.edge_weights())
            )
            return made
        if self._matrices is None:
            self._matrices = self._edges().matrices(self.attention)
        return self._matrices

    # The network

    def _nodes(self) -> Tensor:
        """Vectors of users, items and other entities, [M, D]."""
        tables = (self.user_embedding, self.item_embedding, self.entity_embedding)
        return torch.cat([table.weight for table in tables])

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Users [n_users, W] and items [N, W]: the vectors and every layer's, normalised."""
        nodes = self._nodes()
        parts = [nodes]
        if len(self.layers):
            matrix, transpose = self._propagation()
        for layer in self.layers:
            nodes = layer(nodes, product(matrix, nodes, transpose))  # [M, D_l]
            nodes = dropout(nodes, self.config.dropout, training=self.training)
            parts.append(F.normalize(nodes, dim=1))
        readout = torch.cat([part[: self.n_users + self.n_items] for part in parts], dim=1)
        return readout[: self.n_users], readout[self.n_users :]

    # Training

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """BPR-MF for a start, BPR and TransR in turns, then the propagated vectors."""
        fit, keep = super().stages(data)
        assert isinstance(fit, GradientStage), "the first stage trains"
        trained: list[Stage] = [replace(fit, alternate="epoch", before_epoch=[self._attend]), keep]
        return [self._pretraining(data), *trained] if self.config.pretrain_epochs else trained

    def _pretraining(self, data: TrainingSet) -> GradientStage:
        """BPR-MF of the tables that users and items begin with."""
        config = self.config
        batches = PairBatches.of(data, config.batch_size, num_negatives=config.num_negatives)
        tables = _parameters(self.user_embedding, self.item_embedding)
        optimizer = replace(config.optimizer(), learning_rate=config.pretrain_learning_rate)
        objective = Objective("mf", self._table_loss, batches, optimizer, lambda: tables)
        epochs = config.pretrain_epochs
        return GradientStage(
            "pretrain",
            [objective],
            epochs,
            monitor=None,
            validate_every=epochs,
            precision=config.precision,
        )

    def _table_loss(self, batch: Batch) -> Loss:
        users = self.user_embedding(batch["users"])  # [B, D]
        positives = self.item_embedding(batch["positives"])  # [B, D]
        negatives = self.item_embedding(batch["negatives"])  # [B, K, D]
        ranking = bpr((users * positives).sum(-1), (users[:, None] * negatives).sum(-1))
        penalty = batch_l2(users, positives, negatives)
        return Loss(ranking + self.config.pretrain_regularization * penalty, len(users))

    def objectives(self, data: TrainingSet) -> list[Objective]:
        """BPR over pairs of distinct users, and TransR over the edges of distinct heads."""
        config = self.config
        kind = _UserBatches if config.sampling == "users" else PairBatches
        pairs = kind.of(data, config.batch_size, num_negatives=config.num_negatives)
        tables = (self.user_embedding, self.item_embedding, self.entity_embedding)
        parameters = _parameters(*tables, self.layers)
        ranking = Objective("bpr", self.loss, pairs, config.optimizer(), lambda: parameters)
        if not config.translate:
            return [ranking]
        triples = _HeadBatches.of(self._edges().graph, len(pairs.users), config.batch_size)
        moved = [*_parameters(*tables, self.relation_embedding), self.projections]
        knowledge = Objective(
            "knowledge", self.knowledge_loss, triples, config.optimizer(), lambda: moved
        )
        return [ranking, knowledge]

    def penalty(self, users: Tensor, positives: Tensor, negatives: Tensor, batch: Batch) -> Tensor:
        """The L2 penalty of a batch: that of the propagated vectors."""
        del batch
        return batch_l2(users, positives, negatives)

    def knowledge_loss(self, batch: Batch) -> Loss:
        """TransR on the edges of a batch (`heads`, `relations`, `tails`, `corrupted`, all [B])."""
        relations = batch["relations"]
        ends = torch.cat([batch[name] for name in ("heads", "tails", "corrupted")])
        nodes = F.embedding(ends, self._nodes())
        projected = project(nodes, relations.repeat(3), self.projections)
        heads, tails, corrupted = projected.chunk(3)  # [B, K] each
        steps = self.relation_embedding(relations)
        ranking = transr_loss(
            transr_distance(heads, steps, tails), transr_distance(heads, steps, corrupted)
        )
        weight = self.config.knowledge_regularization
        penalty = weight * batch_l2(heads, steps, tails, corrupted)
        return Loss(ranking + penalty, len(heads), {"transr": ranking.detach()})

    @torch.no_grad()
    def triple_distances(self, heads: Tensor, relations: Tensor, tails: Tensor) -> Tensor:
        """TransR distance of edges between nodes, [B] each int64 -> [B]; small is plausible."""
        nodes = self._nodes()
        ends = [project(nodes[end], relations, self.projections) for end in (heads, tails)]
        return transr_distance(ends[0], self.relation_embedding(relations), ends[1])


def _parameters(*modules: nn.Module) -> list[nn.Parameter]:
    return [value for module in modules for value in module.parameters()]


class _Edges:
    """The edges of the joint graph as tensors."""

    def __init__(self, graph: CollaborativeGraph, device: torch.device) -> None:
        self.graph, self.n_nodes = graph, graph.n_nodes
        self.heads, self.relations, self.tails = (
            torch.from_numpy(part).to(device)
            for part in (graph.heads, graph.relations, graph.tails)
        )

    def matrices(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix [M, M] of edge weights, parallel edges added, and its transpose."""
        shape = (self.n_nodes, self.n_nodes)
        matrix = sparse_matrix(self.heads, self.tails, weights, shape)
        return matrix, transposed(matrix)


class _Layer(nn.Module):
    """One layer: node vectors and the weighted sums of their neighbours become new vectors."""

    def __init__(
        self, aggregator: Literal["bi", "gcn", "graphsage"], n_inputs: int, n_outputs: int
    ) -> None:
        super().__init__()
        self.aggregator = aggregator
        width = 2 * n_inputs if aggregator == "graphsage" else n_inputs
        self.linear = nn.Linear(width, n_outputs)
        self.interaction = nn.Linear(n_inputs, n_outputs) if aggregator == "bi" else None
        for part in filter(None, (self.linear, self.interaction)):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, nodes: Tensor, neighbours: Tensor) -> Tensor:
        """[M, D] and [M, D] -> [M, D'] float."""
        if self.aggregator == "graphsage":
            return F.leaky_relu(self.linear(torch.cat([nodes, neighbours], dim=1)), 0.2)
        found = F.leaky_relu(self.linear(nodes + neighbours), 0.2)
        if self.interaction is not None:
            found = found + F.leaky_relu(self.interaction(nodes * neighbours), 0.2)
        return found


@dataclass(frozen=True)
class _UserBatches(PairBatches):
    """Pairs of users drawn uniformly, distinct within a batch where there are enough."""

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """As many pairs as there are interactions, and a batch more."""
        starts = np.flatnonzero(np.diff(self.users, prepend=-1))
        counts = np.diff(starts, append=len(self.users))
        size = min(self.batch_size, len(self.users))
        batches = []
        for _ in range(len(self.users) // size + 1):
            chosen = generator.choice(len(starts), size, replace=size > len(starts))
            places = generator.random(size) * counts[chosen]
            batches.append(starts[chosen] + places.astype(np.int64))
        return batches


@dataclass(frozen=True)
class _HeadBatches:
    """Edges of heads drawn uniformly, each with a tail that makes it wrong.

    A batch has rows `heads`, `relations`, `tails` and `corrupted`, [B] int64 each.
    """

    graph: CollaborativeGraph
    batch_size: int

    @classmethod
    def of(cls, graph: CollaborativeGraph, n_pairs: int, batch_size: int) -> Self:
        """Batches of which the triples fill as many as `n_pairs` fill of `batch_size`.

        So the reference code; where there are fewer triples than pairs, `batch_size` (ours).
        """
        half = graph.n_relations // 2
        n_triples = int(np.count_nonzero((graph.relations > 0) & (graph.relations < half)))
        return cls(graph, max(batch_size, n_triples // max(1, n_pairs // batch_size)))

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """[M + 1] int64: the edges of node h are `offsets[h]:offsets[h + 1]`."""
        return np.searchsorted(self.graph.heads, np.arange(self.graph.n_nodes + 1))

    @cached_property
    def questions(self) -> NDArray[np.int64]:
        """[E] int64: edges of the same head and relation, which lie together, share a number."""
        keys = self.graph.heads * self.graph.n_relations + self.graph.relations
        return np.cumsum(np.diff(keys, prepend=keys[:1]) > 0)

    @cached_property
    def sampler(self) -> NegativeSampler:
        """Draws nodes that answer no such question."""
        answers = Ragged.from_lengths(self.graph.tails, np.bincount(self.questions))
        return NegativeSampler.build(self.graph.n_nodes, known=answers)

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Heads of each batch: as many as there are edges, and a batch more."""
        heads = np.flatnonzero(np.diff(self.offsets))
        return [
            generator.choice(heads, self.batch_size, replace=self.batch_size > len(heads))
            for _ in range(len(self.graph) // self.batch_size + 1)
        ]

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """One edge of each head, and a node its relation does not lead to."""
        starts, stops = self.offsets[rows], self.offsets[rows + 1]
        edges = starts + (generator.random(len(rows)) * (stops - starts)).astype(np.int64)
        corrupted = self.sampler.draw_for(self.questions[edges], 1, generator)[:, 0]
        return Batch(
            {
                "heads": torch.from_numpy(rows),
                "relations": torch.from_numpy(self.graph.relations[edges]),
                "tails": torch.from_numpy(self.graph.tails[edges]),
                "corrupted": torch.from_numpy(corrupted),
            }
        )
