"""Which code a vector gets, and how gradients pass the choice.

Sources: Sinkhorn assignment as in "Adapting Large Language Models by Integrating Collaborative
Semantics for Recommendation" (LC-Rec, ICDE 2024, arXiv 2311.09049); the rotation trick from
"Restructuring Vector Quantization with the Rotation Trick" (ICLR 2025, arXiv 2410.06424).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "StraightThrough",
    "gumbel_mixture",
    "nearest",
    "rotated",
    "sinkhorn",
    "squared_distances",
    "straight_through",
]

StraightThrough = Literal["ste", "rotation", "gumbel"]

_BLOCK = 1 << 24  # distances held at once by nearest: 64 MB of float32
_EPSILON = 1e-8  # keeps lengths from being zero


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """[B, D] and [K, D] to [B, K] float32, never negative; always computed in float32."""
    with torch.autocast(points.device.type, enabled=False):
        points, centres = points.float(), centres.float()
        products = torch.addmm(centres.square().sum(1), points, centres.T, alpha=-2)
        return (products + points.square().sum(1, keepdim=True)).clamp_(min=0)


@torch.no_grad()
def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each point, the lowest of equally near ones, [B] int64."""
    rows = max(1, _BLOCK // len(centres))
    blocks = torch.split(points, rows)
    return torch.cat([squared_distances(block, centres).argmin(1) for block in blocks])


@torch.no_grad()
def sinkhorn(distances: Tensor, epsilon: float, iterations: int = 50) -> Tensor:
    """A soft assignment that uses all codes evenly (LC-Rec).

    Args:
        distances: [B, K] float.
        epsilon: temperature of distances scaled to [-1, 1]; the larger, the more even. Below .003
            an exponential leaves the range of float64.
        iterations: of making rows, then columns, sum to their share.

    Returns:
        [B, K] float64: columns sum to B / K, rows to about 1.
    """
    n_rows, n_codes = distances.shape
    low, high = distances.min().double(), distances.max().double()
    middle, amplitude = (low + high) / 2, (high - low) / 2
    plan = torch.exp((middle - distances.double()) / ((amplitude + 1e-5) * epsilon))
    plan = plan / plan.sum()
    for _ in range(iterations):
        plan = plan / (plan.sum(1, keepdim=True) * n_rows)
        plan = plan / (plan.sum(0, keepdim=True) * n_codes)
    return plan * n_rows


def straight_through(vectors: Tensor, quantised: Tensor) -> Tensor:
    """`quantised`, with its gradient handed to `vectors` unchanged; [B, D] each."""
    return vectors + (quantised - vectors).detach()


def rotated(vectors: Tensor, quantised: Tensor) -> Tensor:
    """`quantised`, reached from `vectors` by a rotation and a scale that are constants.

    The gradient turns with the rotation, so it keeps its angle to the vector. [B, D] each.
    """
    with torch.no_grad():
        lengths = vectors.norm(dim=1, keepdim=True).clamp(min=_EPSILON)
        scale = quantised.norm(dim=1, keepdim=True) / lengths
        source = vectors / lengths
        target = F.normalize(quantised, dim=1, eps=_EPSILON)
        middle = F.normalize(source + target, dim=1, eps=_EPSILON)
    along_middle = (vectors * middle).sum(1, keepdim=True)
    along_source = (vectors * source).sum(1, keepdim=True)
    result: Tensor = scale * (vectors - 2 * along_middle * middle + 2 * along_source * target)
    return result


def gumbel_mixture(distances: Tensor, centres: Tensor, temperature: float) -> Tensor:
    """A random soft choice of centres: [B, K] distances and [K, D] to [B, D]."""
    noise = -torch.empty_like(distances).exponential_().log()
    return torch.softmax((noise - distances) / temperature, dim=1) @ centres
