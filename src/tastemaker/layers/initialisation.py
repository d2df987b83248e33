"""Initial values that several encoders share."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["initialise_normal"]


@torch.no_grad()
def initialise_normal(module: nn.Module, std: float = 0.02) -> None:
    """N(0, std) for every linear and embedding matrix, 0 for biases and for padding rows.

    Norm layers keep gain 1 and shift 0. Draws from torch's current generator.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=std)
            if part.padding_idx is not None:
                part.weight[part.padding_idx].zero_()
