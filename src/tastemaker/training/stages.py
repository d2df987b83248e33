"""What a method hands the loop: stages, objectives, batches. The loop knows no method by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "Batch",
    "Batches",
    "ComputeStage",
    "GradientStage",
    "Hook",
    "Loss",
    "Objective",
    "Optimizer",
    "Progressing",
    "Stage",
]


@dataclass(frozen=True)
class Batch:
    """One batch: tensors with a leading batch dimension, and tensors all rows share.

    Several processes each take a part of `rows` and all of `shared` (e.g. shared negatives), so
    whatever is drawn at random per batch must be drawn in `Batches.gather`, before the cut.

    Attributes:
        rows: name -> [B, ...] tensors.
        shared: name -> tensors without a batch dimension.
    """

    rows: Mapping[str, Tensor]
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.rows[name] if name in self.rows else self.shared[name]

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def part(self, start: int, stop: int) -> Batch:
        """Rows `start:stop`, with everything shared."""
        return Batch({name: rows[start:stop] for name, rows in self.rows.items()}, self.shared)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(
            {name: rows.to(device, non_blocking=True) for name, rows in self.rows.items()},
            {name: value.to(device, non_blocking=True) for name, value in self.shared.items()},
        )


class Batches(Protocol):
    """A source of training batches, random only through the generators it is handed.

    `plan` fixes an epoch's batches by row numbers, `gather` builds one of them. Both are pure
    functions of their arguments, so an epoch can be resumed at any step.
    """

    def plan(self, generator: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Row numbers of each batch of one epoch."""
        ...

    def gather(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        """The batch of these rows, with its random draws (negatives, masks, views)."""
        ...


@dataclass(frozen=True)
class Loss:
    """A mean loss over the targets of a batch, and how many targets that was.

    Attributes:
        value: scalar tensor, the mean over targets.
        weight: number of targets (a scalar tensor or a number); batches that are split over
            processes or accumulation steps are averaged by it.
        parts: name -> detached scalar tensors to log beside the loss.
    """

    value: Tensor
    weight: Tensor | float = 1.0
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimizer:
    """Which optimiser, and its settings; the loop builds it.

    Attributes:
        name: `"adam"`, `"adamw"`, `"adagrad"` or `"sgd"`.
        learning_rate: step size after warm-up.
        weight_decay: L2 penalty (adam, adagrad, sgd) or decoupled decay (adamw); vectors
            (biases, norms) are exempt from decoupled decay.
        betas: running-average coefficients of adam and adamw.
        momentum: of sgd.
        warmup_steps: steps of linear warm-up from zero.
        decay: `"constant"`, `"linear"` or `"cosine"` to zero at the stage's last step.
    """

    name: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    warmup_steps: int = 0
    decay: Literal["constant", "linear", "cosine"] = "constant"


@dataclass(frozen=True)
class Objective:
    """One loss with the parameters it moves, its optimiser and its batches.

    Attributes:
        name: for logs and checkpoints, unique in the stage.
        loss: batch -> `Loss`.
        batches: where batches come from; `None` takes the batch of the objective before it, so
            two objectives can alternate on one batch.
        optimizer: optimiser settings.
        parameters: returns the parameters to move; `None` is every trainable one. Gradients are
            taken with respect to these alone.
    """

    name: str
    loss: Callable[[Batch], Loss]
    batches: Batches | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    parameters: Callable[[], Sequence[nn.Parameter]] | None = None


class Progressing(Protocol):
    """What a hook is told: where training stands."""

    @property
    def epoch(self) -> int:
        """Epoch under way, from 0."""
        ...

    @property
    def step(self) -> int:
        """Optimiser steps taken in the stage."""
        ...

    @property
    def generator(self) -> np.random.Generator:
        """A generator of this moment (seed, stage, epoch, step), the same after a resume."""
        ...


Hook = Callable[[Progressing], None]


@dataclass(frozen=True)
class GradientStage:
    """Training by gradient steps.

    Attributes:
        name: unique in the method; names checkpoints, log lines and seeds.
        objectives: one or more.
        epochs: at most this many passes.
        alternate: with several objectives that have batches, whether they take turns every
            `"step"` or run one whole epoch each (`"epoch"`).
        monitor: validation metric to watch, e.g. `"ndcg@10"` (or a loss, of which less is better,
            such as `"log_loss"`); `None` trains all epochs and keeps the last weights. With a
            monitor the best weights are kept, buffers included.
        patience: validations without improvement before stopping; 0 never stops early.
        validate_every: epochs between validations.
        clip_norm: largest gradient norm (0 = no clipping).
        accumulate: batches averaged into one optimiser step.
        ema: decay of an exponential moving average of the weights, used for validation and kept
            at the end (0 = off).
        precision: `"float32"`, `"bf16"`, `"fp16"`, or `"auto"`: bf16 where the device computes it
            natively, else float32.
        before_epoch: hooks run before each epoch (graph resampling, clustering).
        after_backward: hooks run when gradients are ready, before clipping (masks on gradients).
        after_step: hooks run after an optimiser step (weight masks, projections).
    """

    name: str
    objectives: Sequence[Objective]
    epochs: int
    alternate: Literal["step", "epoch"] = "step"
    monitor: str | None = "ndcg@10"
    patience: int = 10
    validate_every: int = 1
    clip_norm: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    precision: Literal["float32", "bf16", "fp16", "auto"] = "auto"
    before_epoch: Sequence[Hook] = ()
    after_backward: Sequence[Hook] = ()
    after_step: Sequence[Hook] = ()


@dataclass(frozen=True)
class ComputeStage:
    """Work without gradients whose product is named tensors.

    Attributes:
        name: unique in the method.
        compute: makes the product: name -> tensor.
        apply: puts the product into the model.
        key: what the product is made from (settings, fingerprints), JSON values only. When
            given, the product is kept in the cache under the hash of stage name and key, and a
            later run with the same key reads it back. `None` for closed-form fits, whose product
            is the model itself and is kept by the run.
    """

    name: str
    compute: Callable[[], Mapping[str, Tensor]]
    apply: Callable[[Mapping[str, Tensor]], None]
    key: Mapping[str, Any] | None = None


Stage = GradientStage | ComputeStage
