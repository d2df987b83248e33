"""Optimisers built from their description, and the learning rate of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from tastemaker.errors import ConfigError
from tastemaker.training.stages import Optimizer

__all__ = ["build_optimizer", "learning_rate"]


def build_optimizer(
    description: Optimizer, parameters: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser described, over `parameters`.

    With `adamw` vectors (biases, norm gains) form a group without decay.

    Raises:
        ConfigError: for an unknown name.
    """
    rate, decay = description.learning_rate, description.weight_decay
    match description.name:
        case "adam":
            return torch.optim.Adam(
                parameters, rate, description.betas, weight_decay=decay, fused=True
            )
        case "adamw":
            matrices = [value for value in parameters if value.dim() > 1]
            vectors = [value for value in parameters if value.dim() <= 1]
            groups = [
                {"params": matrices, "weight_decay": decay},
                {"params": vectors, "weight_decay": 0.0},
            ]
            return torch.optim.AdamW(
                [group for group in groups if group["params"]], rate, description.betas, fused=True
            )
        case "adagrad":
            return torch.optim.Adagrad(parameters, rate, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(
                parameters, rate, momentum=description.momentum, weight_decay=decay
            )
    raise ConfigError(f"optimizer {description.name!r} is none of adam, adamw, adagrad, sgd")


def learning_rate(description: Optimizer, step: int, total_steps: int) -> float:
    """The learning rate of optimiser step `step` (from 0) of `total_steps`."""
    rate, warmup = description.learning_rate, description.warmup_steps
    if step < warmup:
        return rate * (step + 1) / warmup
    share = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    match description.decay:
        case "constant":
            return rate
        case "linear":
            return rate * (1 - share)
        case "cosine":
            return rate * 0.5 * (1 + math.cos(math.pi * share))
    raise ConfigError(f"decay {description.decay!r} is none of constant, linear, cosine")
