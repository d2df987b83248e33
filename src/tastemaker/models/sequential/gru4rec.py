"""GRU4Rec: a recurrent network over the session; the state after each event predicts the next.

Papers: "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016, arXiv
1511.06939; "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", CIKM
2018, arXiv 1706.03847; code hidasib/GRU4Rec_PyTorch_Official.

Two ways to train it. `batching="histories"` (default) is the baseline of the RecSys 2023 study
(arXiv 2309.07602): whole user histories, gradients through all steps, softmax over all items,
Adam. It is GRU plus cross-entropy, not the authors' method. `batching="sessions"` is theirs:
session-parallel batches whose slots are refilled when a session ends, gradients through one step,
the batch's targets plus popularity^alpha samples as candidates, cross-entropy with logQ or
BPR-max, Adagrad. A user's history is one session there; for session logs let the session id be
the user.

What we changed: rows of the item table start at N(0, 0.02); Adagrad has no momentum and its
epsilon stands outside the root; the one-hot input mode (a table of gate projections) is left out;
a learned start vector answers empty histories (trained with histories only).

Cost of an epoch over T targets: O(T D^2) for the network, in steps that wait for each other, and
O(T N D) for the full softmax, O(T (B + S) D) with candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.queries import Ragged
from tastemaker.errors import ConfigError, DataError
from tastemaker.layers.dropout import Dropout
from tastemaker.layers.initialisation import initialise_normal
from tastemaker.layers.recurrent import GRUEncoder
from tastemaker.losses.softmax import candidate_scores, chunked_softmax, sampled_softmax
from tastemaker.models.base import GradientConfig, settings
from tastemaker.models.search import Choice, LogUniform, Uniform
from tastemaker.models.sequential.encoder import CausalRecommender, Sequences
from tastemaker.training.batches import SequenceBatches
from tastemaker.training.samplers import NegativeSampler
from tastemaker.training.stages import (
    Batch,
    Batches,
    GradientStage,
    Loss,
    Objective,
    Optimizer,
)

__all__ = ["CandidateBatches", "GRU4Rec", "SessionBatches", "bpr_max"]


class GRU4Rec(CausalRecommender):
    """Recurrent next-item recommendation."""

    @settings
    class Config(GradientConfig):
        """Settings of GRU4Rec."""

        hidden_size: int = Field(default=128, ge=1)  # of states and items (ours; RecSys'23: 64)
        num_layers: int = Field(default=1, ge=1)  # GRU layers (paper)
        constrained: bool = True  # one item table for input and output (authors' code), else two
        item_bias: bool = False  # a learned score per item (authors' code: always)
        embedding_dropout: float = Field(default=0.2, ge=0, lt=1)  # of inputs (p_embed; ours)
        dropout: float = Field(default=0.2, ge=0, lt=1)  # of layer outputs (p_hidden; ours)
        max_length: int = Field(default=200, ge=1)  # most recent events looked at (RecSys'23)
        batching: Literal["histories", "sessions"] = "histories"  # whole rows, or in parallel
        loss: Literal["chunked", "sampled", "bpr-max"] = "chunked"  # over all items, or samples
        num_negatives: int = Field(default=2048, ge=1)  # shared samples a batch (authors' code)
        alpha: float = Field(default=0.5, ge=0)  # samples by popularity^alpha (authors' code)
        logq: float = Field(default=1.0, ge=0)  # strength of the logQ correction of "sampled"
        elu: float = Field(default=0.5, ge=0)  # ELU on scores in bpr-max; 0 = none (authors' code)
        score_decay: float = Field(default=1.0, ge=0)  # bpr-max: weight of squared scores (bpreg)
        learning_rate: float = Field(default=5e-3, gt=0)  # of Adam, ours; RecSys'23: 1e-3
        batch_size: int = Field(default=16, ge=1)  # histories or slots (ours; RecSys'23: 128)

        def optimizer(self) -> Optimizer:
            """Adam for histories, Adagrad for sessions."""
            if self.batching == "histories":
                return GradientConfig.optimizer(self)
            return Optimizer("adagrad", self.learning_rate, self.weight_decay)

    config: Config
    search = {
        "hidden_size": Choice((64, 100, 128, 256)),
        "embedding_dropout": Uniform(0.0, 0.5),
        "dropout": Uniform(0.0, 0.5),
        "learning_rate": LogUniform(3e-4, 1e-2),
        "batch_size": Choice((16, 32, 64, 128)),
    }
    presets = {
        # Chosen on the validation items of MovieLens-1M.
        "ml-1m": {"warmup_steps": 300, "decay": "cosine", "epochs": 20},
        # Authors' read-me, RSC15.
        "sessions": {
            "batching": "sessions",
            "loss": "sampled",
            "hidden_size": 100,
            "item_bias": True,
            "embedding_dropout": 0.1,
            "dropout": 0.0,
            "learning_rate": 0.1,
            "alpha": 0.75,
            "batch_size": 32,
            "epochs": 10,
        },
        # Authors' tuned values for RetailRocket, without momentum.
        "sessions-bpr-max": {
            "batching": "sessions",
            "loss": "bpr-max",
            "hidden_size": 224,
            "item_bias": True,
            "embedding_dropout": 0.5,
            "dropout": 0.05,
            "learning_rate": 0.05,
            "alpha": 0.4,
            "score_decay": 1.95,
            "batch_size": 80,
            "epochs": 10,
        },
    }

    carried: Tensor  # [num_layers, slots, D] states of the session slots, while training

    def __init__(self, config: Config, dataset: Dataset) -> None:
        if config.batching == "sessions" and config.loss == "chunked":
            raise ConfigError(
                "setting 'loss': 'chunked' scores the whole catalog, but batching 'sessions' "
                "scores candidates; choose 'sampled' or 'bpr-max', or batching 'histories'"
            )
        width = config.hidden_size
        super().__init__(config, dataset, width=width, max_length=config.max_length)
        self.input_embeddings = (
            None
            if config.constrained
            else nn.Embedding(self.n_items + 1, width, padding_idx=self.n_items)
        )
        if config.item_bias:
            self.item_bias = nn.Parameter(torch.zeros(self.n_items))
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.encoder = GRUEncoder(
            width,
            width,
            config.num_layers,
            dropout=config.dropout,
            carry_dropped=config.batching == "sessions",
        )
        self.register_buffer("carried", self.encoder.initial(0))
        initialise_normal(self)
        _initialise_gates(self.encoder)

    def encode(self, sequences: Sequences) -> Tensor:
        """States after each event, [B, L, D] float; a hole is an event without a vector."""
        states: Tensor = self.encoder(self._inputs(sequences.items))
        return states

    def step(self, items: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One event more for each of B sessions: cheaper than encoding them anew.

        Args:
            items: [B] int64.
            state: [num_layers, B, D], `encoder.initial(B)` before the first event.

        Returns:
            User vectors [B, D] and the next state.
        """
        return self.encoder.step(self._inputs(items), state)

    def _inputs(self, items: Tensor) -> Tensor:
        table = self.item_embeddings if self.input_embeddings is None else self.input_embeddings
        vectors: Tensor = self.embedding_dropout(table(items))
        return vectors

    def stages(self, data: TrainingSet) -> Sequence[GradientStage]:
        """One gradient stage, over whole histories or over parallel sessions."""
        config = self.config
        counts = data.item_counts()
        sampler = NegativeSampler.build(data.n_items, counts=counts, alpha=config.alpha)
        with np.errstate(divide="ignore"):
            log_counts = np.log(counts.astype(np.float32))  # -inf where nobody can draw the item
        batches: Batches
        if config.batching == "sessions":
            self.carried = self.encoder.initial(config.batch_size)
            batches = SessionBatches.of(
                data, config.batch_size, sampler, config.num_negatives, log_counts, config.alpha
            )
            loss = self.session_loss
        else:
            batches = SequenceBatches.of(data, config.max_length, config.batch_size)
            if config.loss != "chunked":
                batches = CandidateBatches(
                    batches, sampler, config.num_negatives, log_counts, config.alpha
                )
            loss = self.history_loss
        objective = Objective("next-item", loss, batches, config.optimizer())
        return [GradientStage("fit", [objective], **config.schedule())]

    def history_loss(self, batch: Batch) -> Loss:
        """The mean loss over all targets of whole histories."""
        states, targets = self.next_item_states(batch)
        valid = targets != self.n_items
        if self.config.loss == "chunked":
            value = chunked_softmax(
                states[valid], self.item_vectors(), targets[valid], bias=self.item_bias
            )
            return Loss(value, valid.sum())
        table, drawn = self.item_vectors(), batch["candidates"]
        real = targets.clamp(max=self.n_items - 1)[:, :, None]  # padding is selected away
        positive = candidate_scores(states, table, real, bias=self.item_bias)[valid].squeeze(1)
        negatives = candidate_scores(states, table, drawn, bias=self.item_bias)[valid]
        hits = drawn == targets[valid][:, None]
        value = self._ranking_loss(positive, negatives, hits, None, batch["log_q"])
        return Loss(value, valid.sum())

    def session_loss(self, batch: Batch) -> Loss:
        """The loss of one event of every session slot, whose states move on.

        The sum over active slots is divided by the number of all slots, as the authors do.
        """
        slots, active = batch["slots"], batch["active"]
        before = self.carried[:, slots] * ~batch["resets"][None, :, None]
        outputs, after = self.step(batch["items"], before)
        self.carried[:, slots] = after.detach()
        scores = candidate_scores(
            outputs[None], self.item_vectors(), batch["candidates"], bias=self.item_bias
        )[0][active]  # [T, M]
        own = batch["columns"][active][:, None]
        hits = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, own, True)
        log_q = batch["log_q"]
        value = self._ranking_loss(
            scores.gather(1, own).squeeze(1), scores, hits, log_q[own.squeeze(1)], log_q
        )
        return Loss(value * (active.sum() / len(active)), len(active))

    def _ranking_loss(
        self,
        positive: Tensor,
        negatives: Tensor,
        hits: Tensor,
        positive_log_q: Tensor | None,
        negative_log_q: Tensor,
    ) -> Tensor:
        """The chosen loss of T targets against candidates, `hits` left out."""
        config = self.config
        if config.loss == "bpr-max":
            return bpr_max(positive, negatives, hits, elu=config.elu, decay=config.score_decay)
        return sampled_softmax(
            positive,
            negatives,
            hits=hits,
            positive_log_q=None if positive_log_q is None else config.logq * positive_log_q,
            negative_log_q=config.logq * negative_log_q,
        )


def _initialise_gates(encoder: nn.Module) -> None:
    """Uniform Glorot weights with the three gates of a GRU counted apart, biases 0."""
    for name, weight in encoder.named_parameters():
        if "bias" in name:
            nn.init.zeros_(weight)
        else:
            for gate in weight.detach().chunk(3):
                nn.init.xavier_uniform_(gate)


def bpr_max(
    positive: Tensor, negatives: Tensor, hits: Tensor, *, elu: float, decay: float
) -> Tensor:
    """BPR against a soft maximum of the negatives, with their scores kept small.

    With w the softmax of a row's negatives, the mean over rows of
    -log sum_j w_j sigmoid(s+ - s_j) + decay * sum_j w_j s_j^2.

    Args:
        positive: [T] float scores of the targets.
        negatives: [T, S] float scores.
        hits: [T, S] bool, negatives to leave out.
        elu: parameter of the ELU all scores pass first; 0 = linear.
        decay: weight of the squared scores.

    Returns:
        Scalar.
    """
    if elu:
        positive, negatives = F.elu(positive, elu), F.elu(negatives, elu)
    log_weights = F.log_softmax(negatives.masked_fill(hits, -torch.inf), dim=1)
    won = (log_weights + F.logsigmoid(positive[:, None] - negatives)).logsumexp(1)
    squared = (log_weights.exp() * negatives.square()).sum(1)
    return (decay * squared - won).mean()


@dataclass(frozen=True)
class CandidateBatches:
    """Sequences with popularity^alpha samples that a batch shares.

    Shared are `candidates` [S] int64 and `log_q` [S] float32, the log of how often each was
    expected among the S samples.
    """

    sequences: SequenceBatches
    sampler: NegativeSampler
    num_negatives: int
    log_counts: NDArray[np.float32]
    alpha: float

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """As the sequences plan."""
        return self.sequences.plan(generator)

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Sequences with their shared candidates."""
        drawn = self.sampler.draw((self.num_negatives,), generator)
        law = self.alpha * self.log_counts if self.alpha else np.zeros_like(self.log_counts)
        log_q = law - np.logaddexp.reduce(law) + np.log(self.num_negatives)
        log_q = log_q.astype(np.float32)[drawn]
        shared = {"candidates": torch.from_numpy(drawn), "log_q": torch.from_numpy(log_q)}
        return Batch(self.sequences.gather(rows, generator).rows, shared)


@dataclass(frozen=True)
class SessionBatches:
    """Session-parallel batches: one event of each slot a step, sessions in order of their start.

    Row numbers are positions in `sessions.values`, -1 for a slot that has run dry. A batch has,
    for B slots, `items` and `targets` (the event after) [B] int64, `resets` [B] bool where a
    session begins, `active` [B] bool, `slots` and `columns` [B] int64, the place of the slot's
    target among the candidates. Shared are `candidates` [M] int64, the targets of active slots and
    then the samples, and `log_q` [M] float32, the log of the unnormalised weight by which each
    source offers it: support for targets, support^alpha for samples.

    Attributes:
        sessions: in order of their start, of two or more events each.
        num_slots: B.
        sampler: draws the samples.
        num_negatives: samples a batch.
        log_counts: [N] float32, log support.
        alpha: the sampler's exponent.
    """

    sessions: Ragged
    num_slots: int
    sampler: NegativeSampler
    num_negatives: int
    log_counts: NDArray[np.float32]
    alpha: float

    @classmethod
    def of(
        cls,
        data: TrainingSet,
        num_slots: int,
        sampler: NegativeSampler,
        num_negatives: int,
        log_counts: NDArray[np.float32],
        alpha: float,
    ) -> SessionBatches:
        """Every history of two or more events as one session."""
        clocked = data.dataset.has_clock
        histories = data.histories(columns=("timestamp",) if clocked else ())
        rows = np.flatnonzero(histories.items.lengths >= 2)
        if not len(rows):
            raise DataError(
                "no session has two or more training events, so there is no next item to learn "
                "from; check that the user column holds session ids"
            )
        if clocked:
            starts = histories.columns["timestamp"][histories.items.offsets[rows]]
            rows = rows[np.argsort(starts, kind="stable")]
        return cls(histories.items.take(rows), num_slots, sampler, num_negatives, log_counts, alpha)

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """One array of B positions a step; nothing is shuffled."""
        del generator
        offsets, n_sessions = self.sessions.offsets, len(self.sessions)
        session = np.arange(self.num_slots)  # of each slot
        waiting = self.num_slots
        position = offsets[np.minimum(session, n_sessions - 1)].copy()
        steps = []
        while (alive := session < n_sessions).any():
            steps.append(np.where(alive, position, -1))
            position += 1
            ended = alive & (position + 1 >= offsets[np.minimum(session, n_sessions - 1) + 1])
            count = int(ended.sum())
            session[ended] = np.arange(waiting, waiting + count)
            waiting += count
            position[ended] = offsets[np.minimum(session[ended], n_sessions - 1)]
        return steps

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """The event of each slot, the one after it, and the candidates of all slots."""
        active = rows >= 0
        values, position = self.sessions.values, np.maximum(rows, 0)
        targets = values[position + 1]
        drawn = self.sampler.draw((self.num_negatives,), generator)
        offered = targets[active]
        support = self.log_counts
        log_q = np.concatenate([support[offered], self.alpha * support[drawn]])
        starts = np.searchsorted(self.sessions.offsets, position)
        arrays = {
            "items": values[position],
            "targets": targets,
            "resets": self.sessions.offsets[starts] == position,
            "active": active,
            "slots": np.arange(len(rows)),
            "columns": np.cumsum(active) - active,
        }
        return Batch(
            {name: torch.from_numpy(array) for name, array in arrays.items()},
            {
                "candidates": torch.from_numpy(np.concatenate([offered, drawn])),
                "log_q": torch.from_numpy(log_q),
            },
        )
