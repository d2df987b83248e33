"""TiM4Rec: state-space layers whose step sizes are scaled by the time between interactions.

A history runs through Mamba-2 blocks (see `layers.state_space`); how much an event overwrites the
state and how fast the state fades is the projected step size times a scale that a small network
computes from the gaps between events. The state at the last event predicts what comes next.

Paper: "TiM4Rec: An Efficient Sequential Recommendation Model Based on Time-Aware Structured State
Space Duality Model", Neurocomputing 654 (2025), arXiv 2409.16182; code AlwaysFHao/TiM4Rec.

Gaps are normalised over the whole row and mixed by maps over positions, so the scale of an event's
step depends on later gaps, too: only the last state may be trained on, and every training event is
a sample of its own with the events before it. The time of the target itself is never read. With
`time_aware=False` the layers are causal (a plain Mamba-2 recommender), so `targets="positions"` may
train on every position of one row per user instead, several times as fast.

What we changed: padding takes no part in the time network (`mask_pad_gaps=False` gives the
authors' rows: `max_length` positions padded with time 0, so that the first padded gap is minus the
last event's time and dominates the norm); gaps are differences of whole seconds, not of float32
times, which are multiples of 128 s; convolutions are Hardswish's, as in all released settings, also
where the number of heads is a multiple of eight, and start as torch's; time dropout of the first
layer is one draw for all heads; the last layer has no gate for a next one and computes the last
state alone; the padding row is zero and no target; a learned start vector answers empty histories.

Cost of an epoch over S samples of length L: O(S L D (D + L + N)) for the network with state size
N, linear in L but for the maps over positions (2 L^2 a head), and O(S N_items D) for the full
softmax; memory O(B L D) plus one chunk of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tastemaker.data import Dataset, TrainingSet
from tastemaker.errors import ConfigError
from tastemaker.layers.dropout import Dropout
from tastemaker.layers.initialisation import initialise_normal
from tastemaker.layers.state_space import CausalConvolution, StateSpaceBlock
from tastemaker.models.base import GradientConfig, Need, settings
from tastemaker.models.search import Choice, LogUniform, Uniform
from tastemaker.models.sequential.encoder import Sequences, SequentialRecommender
from tastemaker.training.batches import PrefixBatches, SequenceBatches
from tastemaker.training.stages import Batch, Batches, GradientStage, Loss, Objective

__all__ = ["TiM4Rec"]

Targets = Literal["prefixes", "positions"]


class TiM4Rec(SequentialRecommender):
    """Time-aware state-space recommendation."""

    @settings
    class Config(GradientConfig):
        """Settings of TiM4Rec."""

        hidden_size: int = Field(default=64, ge=1)  # width (paper)
        num_layers: int = Field(default=2, ge=1)  # layers; one has no residual (paper)
        state_size: int = Field(default=32, ge=1)  # N of the state space (paper)
        head_size: int = Field(default=32, ge=1)  # P, divides expand * hidden_size (paper)
        expand: int = Field(default=2, ge=1)  # inner width over hidden_size (paper)
        kernel_size: int = Field(default=4, ge=1)  # events a convolution sees (paper)
        chunk_size: int = Field(default=32, ge=1)  # positions computed as one product (paper)
        time_aware: bool = True  # False: steps do not depend on times (the paper's ablation)
        targets: Targets = "prefixes"  # "positions": all of a row at once, without times only
        mask_pad_gaps: bool = True  # ours; False: padding counts as events of time 0 (paper's code)
        gate_per_position: bool = False  # the gate between time scales (paper's code: on Beauty)
        max_length: int = Field(default=50, ge=1)  # most recent events looked at (paper; ML-1M 200)
        dropout: float = Field(default=0.2, ge=0, lt=1)  # paper, ML-1M; 0.4 on Beauty
        time_dropout: float = Field(default=0.2, ge=0, lt=1)  # of normed gaps; Beauty 0 (paper)
        norm_epsilon: float = Field(default=1e-12, gt=0)  # of all norms but the last (paper)
        batch_size: int = Field(default=2048, ge=1)  # prefixes, or rows of positions (paper)
        epochs: int = Field(default=300, ge=1)  # paper
        patience: int = Field(default=20, ge=0)  # epochs (paper)

    config: Config
    needs = frozenset({Need.TIME})
    columns = ("timestamp",)
    search = {
        "hidden_size": Choice((32, 64, 128)),
        "num_layers": Choice((1, 2, 3)),
        "dropout": Uniform(0.1, 0.6),
        "time_dropout": Uniform(0.0, 0.4),
        "learning_rate": LogUniform(3e-4, 3e-3),
        "batch_size": Choice((256, 512, 1024, 2048)),
    }
    presets = {
        # The authors' settings, with steps that suit ten epochs: chosen on the validation items of
        # Amazon Beauty.
        "amazon-beauty": {
            "dropout": 0.4,
            "time_dropout": 0.0,
            "gate_per_position": True,
            "norm_epsilon": 1e-5,
            "batch_size": 512,
            "learning_rate": 3e-3,
            "warmup_steps": 200,
            "decay": "cosine",
            "epochs": 10,
            "patience": 3,
        },
    }

    def __init__(self, config: Config, dataset: Dataset) -> None:
        width, inner = config.hidden_size, config.expand * config.hidden_size
        if inner % config.head_size:
            raise ConfigError(
                f"setting 'head_size': {config.head_size} does not divide expand * hidden_size, "
                f"{inner}; choose a divisor"
            )
        if config.time_aware and config.targets == "positions":
            raise ConfigError(
                "setting 'targets': with 'positions', steps that are scaled by later gaps would "
                "show the past its future; choose 'prefixes', or time_aware=false"
            )
        super().__init__(config, dataset, width=width, max_length=config.max_length)
        self.start = nn.Parameter(torch.zeros(width))
        self.input_norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(StateSpaceLayer(config) for _ in range(config.num_layers))
        self.times = TimeScales(config, inner // config.head_size) if config.time_aware else None
        initialise_normal(self)

    def encode_last(self, sequences: Sequences) -> Tensor:
        """The state at the last event, or `start` where there is none; [B, D] float.

        The last layer computes that state alone.
        """
        states = self._inputs(sequences.items)
        lengths, scales = sequences.lengths, self._scales(sequences)
        for layer, scale in zip(self.layers[:-1], scales, strict=False):
            states = layer(states, scale)
        found = self.layers[-1](states, scales[-1], (lengths - 1).clamp(min=0))
        return torch.where((lengths > 0)[:, None], found, self.start.to(found.dtype))

    def encode(self, items: Tensor) -> Tensor:
        """States after each event, times left out: [B, L] int64 right padded to [B, L, D] float."""
        states = self._inputs(items)
        for layer in self.layers:
            states = layer(states, None)
        return states

    def _inputs(self, items: Tensor) -> Tensor:
        normed: Tensor = self.input_norm(self.dropout(self.item_embeddings(items)))
        return normed

    def _scales(self, sequences: Sequences) -> Sequence[Tensor | None]:
        if self.times is None:
            return [None] * len(self.layers)
        scales: list[Tensor] = self.times(sequences.columns["timestamp"], sequences.lengths)
        return scales

    def stages(self, data: TrainingSet) -> Sequence[GradientStage]:
        """One gradient stage, over all prefixes or over all positions of one row per user."""
        config = self.config
        batches: Batches
        if config.targets == "positions":
            batches = SequenceBatches.of(data, config.max_length, config.batch_size)
            loss = self.position_loss
        else:
            batches = PrefixBatches.of(
                data, config.max_length, config.batch_size, min_history=0, columns=self.columns
            )
            loss = self.prefix_loss
        objective = Objective("next-item", loss, batches, config.optimizer())
        return [GradientStage("fit", [objective], **config.schedule())]

    def prefix_loss(self, batch: Batch) -> Loss:
        """The mean softmax loss of what follows each prefix."""
        vectors = self.encode_prefixes(Sequences.of(batch, self.columns))
        return Loss(self.last_item_loss(vectors, batch["targets"]), len(vectors))

    def position_loss(self, batch: Batch) -> Loss:
        """The mean softmax loss over all targets of whole rows, first events included."""
        items = batch["items"]
        states = self.encode(items)
        start = self.start.to(states.dtype).expand(len(items), 1, -1)
        states = torch.cat([start, states], 1)  # [B, 1 + L, D]
        targets = torch.cat([items[:, :1], batch["targets"]], 1)
        valid = targets != self.n_items
        return Loss(self.last_item_loss(states[valid], targets[valid]), valid.sum())


class StateSpaceLayer(nn.Module):
    """A state-space block and a feed-forward part, each with dropout, residual and norm."""

    def __init__(self, config: TiM4Rec.Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.residual = config.num_layers > 1
        self.block = StateSpaceBlock(
            width,
            state_size=config.state_size,
            head_size=config.head_size,
            expand=config.expand,
            kernel_size=config.kernel_size,
            chunk_size=config.chunk_size,
            activation="hardswish",
            norm_epsilon=config.norm_epsilon,
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.feedforward_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, inputs: Tensor, scale: Tensor | None, positions: Tensor | None = None
    ) -> Tensor:
        """States after the layer.

        Args:
            inputs: [B, L, D] float.
            scale: of the steps, [B, L, H] float.
            positions: [B] int64, to compute one position of each row alone.

        Returns:
            [B, L, D], or [B, D] at the positions.
        """
        if positions is None:
            mixed = self.block(inputs, scale)
        else:
            mixed = self.block.at(inputs, positions, scale)
            inputs = inputs[torch.arange(len(inputs), device=inputs.device), positions]
        mixed = self.dropout(mixed)
        states = self.norm(mixed + inputs if self.residual else mixed)
        inner = self.dropout(F.hardswish(self.widen(states)))
        result: Tensor = self.feedforward_norm(self.dropout(self.narrow(inner)) + states)
        return result


class TimeScales(nn.Module):
    """What the gaps between events multiply the step sizes of every layer by.

    It reads times alone, no items, so the scales of all layers are known before the first.
    """

    def __init__(self, config: TiM4Rec.Config, num_heads: int) -> None:
        super().__init__()
        self.length, self.masked = config.max_length, config.mask_pad_gaps
        self.dropout = Dropout(config.dropout)
        self.norm = TimeNorm(config.max_length, config.norm_epsilon)
        self.scales = nn.ModuleList(TimeScale(config, num_heads) for _ in range(config.num_layers))
        self.mixes = nn.ModuleList(TimeMix(config) for _ in range(config.num_layers - 1))

    def forward(self, times: Tensor, lengths: Tensor) -> list[Tensor]:
        """A scale per layer.

        Args:
            times: [B, L] seconds, int64 (or float64), right padded with 0.
            lengths: [B] int64.

        Returns:
            [B, L, H] float32 each.
        """
        width = times.shape[1]
        if not self.masked:
            times, lengths = (
                F.pad(times, (0, self.length - width)),
                torch.full_like(lengths, self.length),
            )
        valid = torch.arange(times.shape[1], device=times.device) < lengths[:, None]  # [B, L]
        with torch.autocast(times.device.type, enabled=False):
            gaps = F.pad(times.diff(dim=1), (1, 0)).float() * valid
            signal = self.norm(self.dropout(gaps)[:, None], valid)  # [B, 1, L]: one for all heads
            scales = []
            for depth, scale in enumerate(self.scales):
                multiplier = scale(signal)
                scales.append(multiplier.transpose(1, 2)[:, :width])
                if depth < len(self.mixes):
                    signal = self.mixes[depth](signal, multiplier, valid)
        return scales


class TimeScale(nn.Module):
    """The scale of one layer: gaps times a map of all gaps, through two convolutions."""

    def __init__(self, config: TiM4Rec.Config, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = Dropout(config.time_dropout)
        self.widen = nn.Linear(config.max_length, config.max_length)
        self.narrow = nn.Linear(config.max_length, config.max_length)
        self.first = CausalConvolution(num_heads, config.kernel_size)
        self.second = CausalConvolution(num_heads, config.kernel_size)

    def forward(self, signal: Tensor) -> Tensor:
        """[B, 1 or H, L] float, zero at padding, to [B, H, L]."""
        length = signal.shape[2]
        inner = F.silu(
            F.linear(self.dropout(signal), self.widen.weight[:, :length], self.widen.bias)
        )
        weights = F.linear(inner, self.narrow.weight[:length], self.narrow.bias[:length])
        scaled = (signal * weights).expand(-1, self.num_heads, -1).transpose(1, 2)  # [B, L, H]
        scaled = F.hardswish(self.first(scaled))
        return F.hardswish(self.second(scaled)).transpose(1, 2)


class TimeMix(nn.Module):
    """The time signal of the next layer: this one's and its scale, weighed by a gate."""

    def __init__(self, config: TiM4Rec.Config) -> None:
        super().__init__()
        length = config.max_length
        self.dropout = Dropout(config.time_dropout)
        self.gate = nn.Linear(length, length if config.gate_per_position else 1)
        self.norm = TimeNorm(length, config.norm_epsilon)

    def forward(self, signal: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
        """[B, 1 or H, L] and [B, H, L] float, [B, L] bool, to [B, H, L]."""
        length = signal.shape[2]
        logits = F.linear(self.dropout(signal), self.gate.weight[:, :length], self.gate.bias)
        gate = torch.sigmoid(logits[..., :length])  # [B, H, 1 or L]
        result: Tensor = self.norm(gate * signal + (1 - gate) * scale, valid)
        return result


class TimeNorm(nn.Module):
    """Layer norm over the positions of a row, those that are valid.

    Args:
        length: most positions, of which each has its gain and shift.
        epsilon: added to the variance.
    """

    def __init__(self, length: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(length))
        self.bias = nn.Parameter(torch.zeros(length))
        self.epsilon = epsilon

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """[B, H, L] float and [B, L] bool to [B, H, L], zero where not valid."""
        length = values.shape[2]
        counted = valid[:, None].to(values.dtype)
        count = counted.sum(2, keepdim=True).clamp(min=1)
        centred = (values - (values * counted).sum(2, keepdim=True) / count) * counted
        variance = centred.square().sum(2, keepdim=True) / count
        normed = centred * (variance + self.epsilon).rsqrt()
        return (normed * self.weight[:length] + self.bias[:length]) * counted
