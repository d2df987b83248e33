"""Initial values that several encoders share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["initialise_normal", "initialise_sinusoids"]


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


@torch.no_grad()
def initialise_sinusoids(table: Tensor, amplitude: float) -> None:
    """Sines and cosines of falling frequency (arXiv 1706.03762, sec. 3.5) times `amplitude`.

    Learned positions that start so are alike where they are near, which attention can use from
    the first step.

    Args:
        table: [L, D] float, changed in place.
        amplitude: largest value.
    """
    length, width = table.shape
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    table[:, 0::2] = amplitude * torch.sin(angles)
    table[:, 1::2] = amplitude * torch.cos(angles)[:, : width // 2]
