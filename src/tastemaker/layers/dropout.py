"""Dropout with a cheap mask on the CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Dropout", "dropout"]


class Dropout(nn.Module):
    """Zeroes a share of the entries in training and scales the rest up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate}"

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape; unchanged in evaluation."""
        return dropout(values, self.rate, training=self.training)


def dropout(values: Tensor, rate: float, *, training: bool) -> Tensor:
    """`torch.nn.functional.dropout`, about eight times as fast on the CPU.

    There the mask compares random bytes, eight from each 64-bit draw, with a threshold, so the
    rate is rounded to 1/256; the scale is exact for the rounded rate.
    """
    if not training or rate == 0.0:
        return values
    threshold = round(rate * 256)
    if values.device.type != "cpu" or not 0 < threshold < 256:
        return F.dropout(values, rate)
    result: Tensor = _ByteDropout.apply(values, threshold)  # type: ignore[no-untyped-call]
    return result


class _ByteDropout(torch.autograd.Function):
    """The mask is of the dtype of the values: a product with booleans takes ten times as long."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: int) -> Tensor:
        words = torch.randint(-(1 << 63), (1 << 63) - 1, ((values.numel() + 7) // 8,))
        drawn = words.view(torch.uint8)[: values.numel()].view(values.shape)
        kept = torch.ge(drawn, threshold, out=torch.empty_like(drawn, dtype=values.dtype))
        ctx.save_for_backward(kept)
        ctx.scale = 256 / (256 - threshold)
        return (values * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None
