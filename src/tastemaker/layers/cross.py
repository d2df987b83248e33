"""Cross networks: explicit products of features, one more degree a layer.

"DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
Systems", WWW 2021, arXiv 2008.13535. Full matrices (eq. 1), or a gated mixture of low-rank maps
with a nonlinear core (eq. 4); initial values of FuxiCTR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tastemaker.layers.mlp import initialise_xavier

__all__ = ["CrossMixture", "CrossNetwork", "ExpertLayer"]


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l; no layers give x_0. D^2 + D numbers a layer."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))
        initialise_xavier(self)

    def forward(self, first: Tensor) -> Tensor:
        """[..., D] float to the same."""
        crossed = first
        for layer in self.layers:
            crossed = torch.addcmul(crossed, first, layer(crossed))
        return crossed


class CrossMixture(nn.Module):
    """x_{l+1} = x_l + sum_e g_e(x_l) x_0 * (U_e tanh(C_e tanh(V_e^T x_l)) + b).

    The gates g are a softmax over linear maps, which all layers share (FuxiCTR). A layer has
    2 E D r + E r^2 + D numbers.

    Args:
        width: D.
        num_layers: how many.
        num_experts: E low-rank maps a layer.
        rank: r.
    """

    def __init__(self, width: int, num_layers: int, num_experts: int, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ExpertLayer(width, num_experts, rank) for _ in range(num_layers)
        )
        self.gates = nn.Linear(width, num_experts, bias=False)
        initialise_xavier(self.gates)

    def forward(self, first: Tensor) -> Tensor:
        """[..., D] float to the same."""
        crossed = first
        for layer in self.layers:
            gates = torch.softmax(self.gates(crossed), -1)  # [..., E]
            crossed = torch.addcmul(crossed, first, layer(crossed, gates))
        return crossed


class ExpertLayer(nn.Module):
    """sum_e g_e U_e tanh(C_e tanh(V_e^T x)) + b, where the gates g sum to one.

    Attributes:
        inward: [E, D, r], the V.
        core: [E, r, r], the C, transposed.
        outward: [E, r, D], the U, transposed.
        bias: [D].
    """

    def __init__(self, width: int, num_experts: int, rank: int) -> None:
        super().__init__()
        self.inward = _xavier(num_experts, width, rank)
        self.core = _xavier(num_experts, rank, rank)
        self.outward = _xavier(num_experts, rank, width)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor, gates: Tensor) -> Tensor:
        """[..., D] and gates [..., E] to [..., D]."""
        inner = torch.tanh(torch.einsum("...d,edr->...er", values, self.inward))
        inner = torch.tanh(torch.einsum("...er,ers->...es", inner, self.core))
        gated = inner * gates[..., None]
        return torch.einsum("...es,esd->...d", gated, self.outward) + self.bias


def _xavier(n: int, rows: int, columns: int) -> nn.Parameter:
    """As many Xavier-normal matrices: [n, rows, columns]."""
    return nn.Parameter(torch.randn(n, rows, columns) * (2 / (rows + columns)) ** 0.5)
