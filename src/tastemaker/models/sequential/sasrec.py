"""SASRec: a causal Transformer over the history; the state after each event predicts the next.

Paper: "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781; code
kang205/SASRec. Losses: "Turning Dross Into Gold Loss", RecSys 2023, arXiv 2309.07602 (full and
sampled softmax); "gSASRec", RecSys 2023, arXiv 2308.07192 (gBCE).

What we changed: rows are right padded and positions count from the left, so padding needs no
mask; the default network is pre-norm with an output projection (`norm="original"`,
`output_projection=False` give the paper's); matrices inside the blocks start at the size of their
fan-in; the default loss is the full softmax in chunks, which in the RecSys 2023 study raises
NDCG@10 on MovieLens-1M from .1341 with the paper's one-negative BCE to .1821; a learned start
vector answers empty histories. Attention weights are not dropped by default, and with
`window_stride` events before the last `max_length` are trained on, too.

Cost of an epoch over T targets and rows of length L: O(T D (D + L)) for the network and O(T N D)
for the full softmax (O(T k D) with k negatives); memory O(B L (D + H L)) plus one chunk of logits.
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
from tastemaker.layers.dropout import Dropout
from tastemaker.layers.initialisation import initialise_normal
from tastemaker.layers.transformer import Activation, Norm, TransformerEncoder
from tastemaker.losses.binary import bce, gbce
from tastemaker.losses.softmax import (
    candidate_scores,
    chunked_softmax,
    full_softmax,
    sampled_softmax,
)
from tastemaker.models.base import GradientConfig, settings
from tastemaker.models.search import Choice, LogUniform, Uniform
from tastemaker.models.sequential.encoder import (
    CausalRecommender,
    Sequences,
    refuse_uneven_heads,
)
from tastemaker.training.batches import SequenceBatches
from tastemaker.training.samplers import NegativeSampler
from tastemaker.training.stages import Batch, Batches, GradientStage, Loss, Objective

__all__ = ["NegativeBatches", "SASRec"]

SequenceLoss = Literal["chunked", "full", "sampled", "bce", "gbce"]

# Negatives where the setting is None: RecSys'23 study, paper, gSASRec.
_NUM_NEGATIVES = {"sampled": 3000, "bce": 1, "gbce": 256}


class SASRec(CausalRecommender):
    """Self-attentive sequential recommendation."""

    @settings
    class Config(GradientConfig):
        """Settings of SASRec."""

        hidden_size: int = Field(default=64, ge=1)  # width (RecSys'23 study; paper: 50)
        num_layers: int = Field(default=2, ge=0)  # blocks (paper, sec. 4.1)
        num_heads: int = Field(default=1, ge=1)  # attention heads (paper, sec. 4.1)
        feedforward_size: int | None = Field(default=None, ge=1)  # inner width; None = D (paper)
        activation: Activation = "relu"  # of the feed-forward part (paper)
        norm: Norm = "pre"  # "pre", "post" or the paper's "original" (ours)
        output_projection: bool = True  # linear map after the heads (RecSys'23 study; paper: none)
        scale_embeddings: bool = True  # item vectors times sqrt(D) at the input (reference code)
        max_length: int = Field(default=200, ge=1)  # most recent events looked at (paper, ML-1M)
        window_stride: int | None = Field(default=None, ge=1)  # events; None: last window alone
        dropout: float = Field(default=0.2, ge=0, lt=1)  # paper, dense data; 0.5 on sparse data
        attention_dropout: float = Field(default=0.0, ge=0, lt=1)  # of attention weights (ours)
        loss: SequenceLoss = "chunked"  # softmax over all items ("full": same, plain) or sampled
        num_negatives: int | None = Field(default=None, ge=1)  # None: the loss's own, see above
        calibration: float = Field(default=0.75, ge=0, le=1)  # t of gbce (gSASRec, ML-1M)
        temperature: float = Field(default=1.0, gt=0)  # divides the training scores (ours)
        cosine: bool = False  # score by cosine instead of dot product (HSTU's baseline)
        learning_rate: float = Field(default=2e-3, gt=0)  # ours; paper: 1e-3
        batch_size: int = Field(default=16, ge=1)  # sequences; ours: many small steps; paper: 128

    config: Config
    search = {
        "hidden_size": Choice((32, 64, 128)),
        "num_layers": Choice((1, 2, 3)),
        "num_heads": Choice((1, 2)),
        "dropout": Uniform(0.1, 0.6),
        "learning_rate": LogUniform(3e-4, 3e-3),
        "batch_size": Choice((16, 32, 64, 128)),
    }
    presets = {
        # Chosen on the validation items of MovieLens-1M.
        "ml-1m": {
            "hidden_size": 128,
            "num_heads": 2,
            "dropout": 0.15,
            "window_stride": 200,
            "batch_size": 32,
            "learning_rate": 2e-3,
            "warmup_steps": 300,
            "decay": "cosine",
            "epochs": 25,
        },
        # Chosen on the validation items of Amazon Beauty: short histories, sparse data.
        "amazon-beauty": {
            "max_length": 50,
            "dropout": 0.5,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "epochs": 30,
            "patience": 3,
        },
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        width = config.hidden_size
        refuse_uneven_heads(width, config.num_heads)
        super().__init__(config, dataset, width=width, max_length=config.max_length)
        self.position_embeddings = nn.Embedding(config.max_length, width)
        self.input_scale = width**0.5 if config.scale_embeddings else 1.0
        self.dropout = Dropout(config.dropout)
        self.encoder = TransformerEncoder(
            width,
            config.num_layers,
            config.num_heads,
            feedforward_size=config.feedforward_size,
            activation=config.activation,
            norm=config.norm,
            output_projection=config.output_projection,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )
        # N(0, 0.02) is right for tables that softmax scores come from; inside the blocks it is too
        # small at such widths: attention stays uniform for epochs.
        initialise_normal(self)
        initialise_normal(self.encoder, width**-0.5)

    def encode(self, sequences: Sequences) -> Tensor:
        """States after each event, [B, L, D] float."""
        positions = self.position_embeddings.weight[: sequences.items.shape[1]]
        inputs = self.item_embeddings(sequences.items) * self.input_scale + positions
        states: Tensor = self.encoder(self.dropout(inputs), sequences.valid)
        return states

    def item_vectors(self) -> Tensor:
        """[N, D] float32, of length one with cosine scores."""
        table = super().item_vectors()
        return F.normalize(table, dim=1) if self.config.cosine else table

    def stages(self, data: TrainingSet) -> Sequence[GradientStage]:
        """One gradient stage over all positions of one sequence per user."""
        config = self.config
        sequences = SequenceBatches.of(
            data, config.max_length, config.batch_size, stride=config.window_stride
        )
        batches: Batches = sequences
        if config.loss in _NUM_NEGATIVES:
            known = None if config.loss == "gbce" else data.histories().items
            batches = NegativeBatches(
                sequences,
                NegativeSampler.build(data.n_items, known=known),
                config.num_negatives or _NUM_NEGATIVES[config.loss],
                per_position=config.loss == "bce",
            )
        objective = Objective("next-item", self.loss, batches, config.optimizer())
        return [GradientStage("fit", [objective], **config.schedule())]

    def loss(self, batch: Batch) -> Loss:
        """The mean of the chosen loss over all targets of a batch."""
        states, targets = self.next_item_states(batch)
        valid = targets != self.n_items  # [B, 1 + L]
        table, temperature = self.item_embeddings.weight, self.config.temperature
        cosine = self.config.cosine
        if self.config.loss in ("chunked", "full"):
            softmax = chunked_softmax if self.config.loss == "chunked" else full_softmax
            value = softmax(
                states[valid],
                table[: self.n_items],
                targets[valid],
                temperature=temperature,
                cosine=cosine,
            )
            return Loss(value, valid.sum())
        positive, negatives = (
            candidate_scores(states, table, items, temperature=temperature, cosine=cosine)[valid]
            for items in (targets[:, :, None], batch["negatives"])
        )  # [T, 1] and [T, k]
        positive = positive.squeeze(1)
        match self.config.loss:
            case "sampled":
                value = sampled_softmax(positive, negatives)
            case "bce":
                value = bce(positive, negatives)
            case _:
                value = gbce(positive, negatives, self.n_items, self.config.calibration)
        return Loss(value, valid.sum())


@dataclass(frozen=True)
class NegativeBatches:
    """Sequences with negatives: k a sequence, [B, k], or k a position, [B, 1 + L, k], int64.

    Sharing a sequence's negatives among its positions costs one product instead of a row look-up
    per position and negative; it is how the RecSys'23 study draws them.
    """

    sequences: SequenceBatches
    sampler: NegativeSampler  # its known items are those of each user
    num_negatives: int
    per_position: bool

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """As the sequences plan."""
        return self.sequences.plan(generator)

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """Sequences with a row `negatives`."""
        batch = self.sequences.gather(rows, generator)
        users = self.sequences.users[rows]
        shape = [len(users), self.num_negatives]
        if self.per_position:
            shape.insert(1, 1 + batch["items"].shape[1])
        drawn = self.sampler.draw_for(users, int(np.prod(shape[1:])), generator)
        return Batch({**batch.rows, "negatives": torch.from_numpy(drawn.reshape(shape))})
