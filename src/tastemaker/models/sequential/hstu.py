"""HSTU: gated, softmax-free attention that knows when things happened and when it is asked.

The state after each event predicts the next one, as in SASRec, but layers weigh earlier events by
SiLU instead of a softmax and by how long ago they were at the moment of the event to be predicted.

Paper: "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", ICML 2024, arXiv 2402.17152; code meta-recsys/generative-recommenders. Loss:
"Revisiting Neural Retrieval on Accelerators", KDD 2023, arXiv 2306.04039 (cosine, sampled softmax).

What we changed: the negatives of a sequence are shared by its positions and are nothing its user
has (one product instead of a row look-up per position and negative), as in our SASRec, so that the
two differ by their network alone; the full softmax is a setting; a learned start vector answers
empty histories; with `window_stride` events before the last `max_length` are trained on, too. Data
without timestamps leave the time weights out. A history that comes without times counts as one
moment, and a query without a time as asked at its last event. Stochastic length keeps with every
event the target and the time it had, so thinning changes what is known of the past and not what is
learned from it.

Cost of an epoch over T targets and rows of length L: O(T D (D + L)) for the network, half of the
pairs saved by the causal order, and O(T k D) for the loss with k negatives (O(T N D) in full);
memory O(B L (D + k)) and four bytes a pair of events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, Histories, Ragged, TrainingSet
from tastemaker.layers.dropout import Dropout
from tastemaker.layers.hstu import HSTUEncoder
from tastemaker.layers.pointwise_attention import TimeGaps
from tastemaker.losses.softmax import candidate_scores, chunked_softmax, sampled_softmax
from tastemaker.models.base import GradientConfig, settings
from tastemaker.models.search import Choice, LogUniform, Uniform
from tastemaker.models.sequential.encoder import (
    CausalRecommender,
    Sequences,
    refuse_uneven_heads,
)
from tastemaker.models.sequential.sasrec import NegativeBatches
from tastemaker.training.batches import SequenceBatches
from tastemaker.training.samplers import NegativeSampler
from tastemaker.training.stages import Batch, Batches, GradientStage, Loss, Objective

__all__ = ["HSTU", "ThinnedBatches"]


class HSTU(CausalRecommender):
    """Sequential recommendation by hierarchical sequential transduction units."""

    @settings
    class Config(GradientConfig):
        """Settings of HSTU."""

        hidden_size: int = Field(default=64, ge=1)  # width (ours; paper: 50, large data 256)
        num_layers: int = Field(default=2, ge=0)  # layers (paper, ML-1M)
        num_heads: int = Field(default=1, ge=1)  # attention heads (paper, ML-1M)
        query_size: int | None = Field(default=None, ge=1)  # of a head; None: D / heads (paper)
        value_size: int | None = Field(default=None, ge=1)  # of a head; None: D / heads (paper)
        time_bias: bool = True  # weights for gaps in time, where there are timestamps (paper)
        max_length: int = Field(default=200, ge=1)  # most recent events looked at (paper, ML-1M)
        window_stride: int | None = Field(default=None, ge=1)  # events; None: last window alone
        length_alpha: float = Field(default=2.0, gt=1, le=2)  # stochastic length; 2 = off (paper)
        dropout: float = Field(default=0.2, ge=0, lt=1)  # paper, dense data; 0.5 on sparse data
        loss: Literal["sampled", "chunked"] = "sampled"  # softmax over negatives (paper) or all
        num_negatives: int = Field(default=128, ge=1)  # of a sequence; sampled (paper: a position)
        temperature: float = Field(default=0.05, gt=0)  # divides the cosines (paper)
        learning_rate: float = Field(default=1e-3, gt=0)  # paper
        batch_size: int = Field(default=32, ge=1)  # sequences; ours; paper: 128

    config: Config
    search = {
        "hidden_size": Choice((32, 64, 128)),
        "num_layers": Choice((1, 2, 4)),
        "num_heads": Choice((1, 2)),
        "dropout": Uniform(0.1, 0.6),
        "learning_rate": LogUniform(3e-4, 3e-3),
        "temperature": LogUniform(0.03, 0.2),
    }

    presets = {
        # Chosen on the validation items of MovieLens-1M.
        "ml-1m": {
            "learning_rate": 2e-3,
            "warmup_steps": 200,
            "decay": "cosine",
            "epochs": 30,
            "validate_every": 5,
        },
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        width, heads = config.hidden_size, config.num_heads
        if config.query_size is None or config.value_size is None:
            refuse_uneven_heads(width, heads)
        super().__init__(config, dataset, width=width, max_length=config.max_length)
        timed = config.time_bias and "timestamp" in dataset.interactions.column_names
        self.columns = ("timestamp",) if timed else ()  # type: ignore[misc]
        self.position_embeddings = nn.Embedding(config.max_length, width)
        self.dropout = Dropout(config.dropout)
        self.encoder = HSTUEncoder(
            width,
            config.num_layers,
            heads,
            query_size=config.query_size or width // heads,
            value_size=config.value_size or width // heads,
            max_length=config.max_length,
            timed=timed,
            dropout=config.dropout,
        )
        with torch.no_grad():
            nn.init.trunc_normal_(self.item_embeddings.weight, std=0.02, a=-0.04, b=0.04)
            self.item_embeddings.weight[self.n_items].zero_()
            nn.init.xavier_normal_(self.position_embeddings.weight)
            nn.init.normal_(self.start, std=0.02)  # a zero vector has no direction to learn from

    def encode(self, sequences: Sequences) -> Tensor:
        """States after each event, [B, L, D] float.

        The state after an event knows the time of the next one: `"next_timestamp"`, [B] after the
        last event alone, or [B, L] after each.
        """
        items = sequences.items
        positions = self.position_embeddings.weight[: items.shape[1]]
        inputs = self.item_embeddings(items) * self.item_embeddings.embedding_dim**0.5 + positions
        gaps = None
        if self.columns:
            gaps = TimeGaps(_next_times(sequences), sequences.columns["timestamp"])
        states: Tensor = self.encoder(self.dropout(inputs), gaps, valid=sequences.valid)[0]
        return states

    def next_item_states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As in the base, but each state is told its own next time: thinned rows skip events."""
        items = batch["items"]
        lengths = (items != self.n_items).sum(1)
        states = self.encode(
            Sequences(items, lengths, {name: batch[name] for name in _carried(self.columns)})
        )
        start = self.start.to(states.dtype).expand(len(items), 1, -1)
        return torch.cat([start, states], 1), torch.cat([items[:, :1], batch["targets"]], 1)

    def item_vectors(self) -> Tensor:
        """[N, D] float32, of length one."""
        return F.normalize(super().item_vectors(), dim=1)

    def stages(self, data: TrainingSet) -> Sequence[GradientStage]:
        """One gradient stage over all positions of one sequence per user."""
        config = self.config
        sequences = SequenceBatches.of(
            data,
            config.max_length,
            config.batch_size,
            stride=config.window_stride,
            columns=self.columns,
        )
        batches: Batches = sequences
        if config.loss == "sampled":
            sampler = NegativeSampler.build(data.n_items, known=data.histories().items)
            batches = NegativeBatches(sequences, sampler, config.num_negatives, per_position=False)
        if config.length_alpha < 2:
            batches = ThinnedBatches(batches, sequences, config.length_alpha)
        objective = Objective("next-item", self.loss, batches, config.optimizer())
        return [GradientStage("fit", [objective], **config.schedule())]

    def loss(self, batch: Batch) -> Loss:
        """The mean of the chosen softmax over all targets of a batch."""
        states, targets = self.next_item_states(batch)
        valid = targets != self.n_items  # [B, 1 + L]
        if self.config.loss == "chunked":
            return Loss(self.last_item_loss(states[valid], targets[valid]), valid.sum())
        table, temperature = self.item_embeddings.weight, self.config.temperature
        positive, negatives = (
            candidate_scores(states, table, items, temperature=temperature, cosine=True)[valid]
            for items in (targets[:, :, None], batch["negatives"])
        )  # [T, 1] and [T, k]
        return Loss(sampled_softmax(positive.squeeze(1), negatives), valid.sum())

    def last_item_loss(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """Full softmax over the cosines with the catalog: [B, D] against [B], a mean."""
        return chunked_softmax(
            vectors,
            self.item_embeddings.weight[: self.n_items],
            targets,
            temperature=self.config.temperature,
            cosine=True,
        )


@dataclass(frozen=True)
class ThinnedBatches:
    """Stochastic length: long sequences are mostly reduced to a random part of their events.

    With N the longest length, a sequence of n > N^(alpha / 2) inputs is kept whole with probability
    N^alpha / n^2, else a random N^(alpha / 2) of its inputs stay, in order, each with the target
    that it has. Attention then costs O(N^alpha) instead of O(N^2) a sequence. Whole and thinned
    sequences meet others of their length. With alpha 2 nothing is thinned.

    Attributes:
        batches: the batches of `sequences`, negatives included.
        sequences: what the row numbers of a plan count.
        alpha: in (1, 2].
    """

    batches: Batches
    sequences: SequenceBatches
    alpha: float

    @property
    def thinned_length(self) -> int:
        """Inputs of a thinned sequence."""
        return max(1, round(math.pow(self.sequences.max_length, self.alpha / 2)))

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Batches of row numbers; S is added to those of sequences to thin."""
        lengths = self.sequences.histories.items.lengths - 1
        whole = self.sequences.max_length**self.alpha / np.maximum(lengths, 1) ** 2.0
        long = lengths > self.thinned_length
        thinned = long & (generator.random(len(lengths)) >= whole)
        # The plan of sequences looks at their lengths alone.
        kept = Ragged.from_lengths(
            self.sequences.histories.items.values,
            np.where(thinned, self.thinned_length, lengths) + 1,
        )
        planned = replace(self.sequences, histories=Histories(kept)).plan(generator)
        return [rows + len(lengths) * thinned[rows] for rows in planned]

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Sequences of these rows, some of them thinned."""
        thinned, rows = np.divmod(rows, len(self.sequences.users))
        batch = self.batches.gather(rows, generator)
        if not thinned.any():
            return batch
        valid = (batch["items"] != self.sequences.padding).numpy()  # [B, L]
        keys = generator.random(valid.shape) + ~valid
        chosen = keys.argsort(1).argsort(1) < self.thinned_length
        chosen = valid & (chosen | (thinned == 0)[:, None])
        width = int(chosen.sum(1).max())
        order = torch.from_numpy(np.argsort(~chosen, axis=1, kind="stable")[:, :width])
        padding = torch.from_numpy(np.arange(width) >= chosen.sum(1)[:, None])
        parts = dict(batch.rows)
        for name in ("items", "targets", *_carried(self.sequences.columns)):
            parts[name] = parts[name].gather(1, order)
        for name in ("items", "targets"):
            parts[name] = parts[name].masked_fill(padding, self.sequences.padding)
        return Batch(parts, batch.shared)


def _carried(columns: Sequence[str]) -> list[str]:
    """The names under which batches carry these columns."""
    return [name for column in columns for name in (column, f"next_{column}")]


def _next_times(sequences: Sequences) -> Tensor:
    """[B, L]: when the event after each one happens, the predicted one's time for the last."""
    times, following = sequences.columns["timestamp"], sequences.columns["next_timestamp"]
    if following.ndim == 2:
        return following
    last = (sequences.lengths - 1).clamp(min=0)[:, None]
    return times.roll(-1, 1).scatter(1, last, following[:, None].to(times.dtype))
