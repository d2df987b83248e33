"""Multi-layer perceptron of CTR models, with batch norm and the Dice activation.

A hidden layer is linear -> [batch norm] -> activation -> [dropout] (FuxiCTR). Dice is the
activation of "Deep Interest Network for Click-Through Rate Prediction" (KDD 2018, arXiv
1706.06978, sec. 5.2): a PReLU whose kink moves with the mean and spread of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.layers.dropout import Dropout

__all__ = ["MLP", "BatchNorm", "Dice", "HiddenLayer", "MLPActivation", "initialise_xavier"]

MLPActivation = Literal["relu", "sigmoid", "prelu", "dice"]


class MLP(nn.Module):
    """`[..., width]` to `[..., output]`, or to the last hidden layer without an output.

    Args:
        width: of the input.
        hidden_sizes: of the hidden layers; none makes it linear.
        output: of the last, linear layer; `None` for no such layer.
        activation: of the hidden layers.
        batch_norm: whether hidden layers are normalised before their activation.
        dropout: of the hidden layers.

    Attributes:
        width: of what comes out.
        hidden: the hidden layers.
        output: the last, linear layer, or `None`.
    """

    def __init__(
        self,
        width: int,
        hidden_sizes: Sequence[int],
        output: int | None = 1,
        *,
        activation: MLPActivation = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [width, *hidden_sizes]
        self.hidden = nn.ModuleList(
            HiddenLayer(before, after, activation, batch_norm, dropout)
            for before, after in pairwise(sizes)
        )
        self.output = None if output is None else nn.Linear(sizes[-1], output)
        self.width = sizes[-1] if output is None else output
        initialise_xavier(self)

    def forward(self, values: Tensor) -> Tensor:
        """[..., width] float to [..., self.width]."""
        for layer in self.hidden:
            values = layer(values)
        return values if self.output is None else self.output(values)


class HiddenLayer(nn.Module):
    """Linear -> [batch norm] -> activation -> [dropout]."""

    def __init__(
        self, width: int, size: int, activation: MLPActivation, batch_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width, size)
        self.norm = BatchNorm(size) if batch_norm else None
        self.activation = _activation(activation, size)
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """[..., width] float to [..., size]."""
        return self.after_linear(self.linear(values))

    def after_linear(self, values: Tensor) -> Tensor:
        """The rest of the layer, for callers that compute its linear map their own way."""
        if self.norm is not None:
            values = self.norm(values)
        dropped: Tensor = self.dropout(self.activation(values))
        return dropped


class BatchNorm(nn.Module):
    """Batch normalisation of the last dimension over all others.

    The running moments are parameters without gradient, not buffers, so whatever keeps or
    averages weights (the best epoch, a moving average) keeps the moments that belong to them.
    One row alone has no spread and is normalised by the running moments, in training too.

    Args:
        size: of the last dimension.
        affine: whether a learned scale and shift follow.
        eps: added to the variance.
        momentum: weight of a batch in the running moments.
    """

    def __init__(
        self, size: int, *, affine: bool = True, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(size)) if affine else None
        self.bias = nn.Parameter(torch.zeros(size)) if affine else None
        self.running_mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.running_variance = nn.Parameter(torch.ones(size), requires_grad=False)

    def forward(self, values: Tensor) -> Tensor:
        """[..., size] float, normalised."""
        rows = values.reshape(-1, values.shape[-1])
        normalised = F.batch_norm(
            rows,
            self.running_mean,
            self.running_variance,
            self.weight,
            self.bias,
            training=self.training and len(rows) > 1,
            momentum=self.momentum,
            eps=self.eps,
        )
        return normalised.view(values.shape)


class Dice(nn.Module):
    """p x + alpha (1 - p) x, with p the sigmoid of the normalised x; alpha starts at 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        # eps and momentum of the reference code
        self.norm = BatchNorm(size, affine=False, eps=1e-9, momentum=0.01)
        self.alpha = nn.Parameter(torch.zeros(size))

    def forward(self, values: Tensor) -> Tensor:
        """[..., size] float to the same."""
        share = torch.sigmoid(self.norm(values))
        return values * (self.alpha + share * (1 - self.alpha))


def initialise_xavier(module: nn.Module) -> None:
    """Xavier-normal matrices and zero biases of all linear maps (FuxiCTR)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _activation(name: MLPActivation, size: int) -> nn.Module:
    match name:
        case "relu":
            return nn.ReLU()
        case "sigmoid":
            return nn.Sigmoid()
        case "prelu":
            return nn.PReLU(init=0.1)
        case "dice":
            return Dice(size)
