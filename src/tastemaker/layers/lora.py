"""LoRA: a frozen linear map plus a trained one of low rank.

Paper: "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685. The
second factor starts at zero, so an adapted network begins as the one it adapts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.errors import ConfigError, nearest
from tastemaker.layers.dropout import Dropout

__all__ = [
    "Adapter",
    "AdaptedLinear",
    "adapter_state",
    "inject_adapters",
    "load_adapters",
    "merge_adapters",
    "without_adapters",
]


class Adapter(nn.Module):
    """The trained part: x -> (alpha / r) up(down(dropout(x))), kept in float32.

    Args:
        inputs: width of x.
        outputs: width of the result.
        rank: r, the width between the two factors.
        alpha: strength; the sum of both factors is scaled by `alpha / rank`.
        dropout: share of inputs dropped in training.
    """

    def __init__(
        self, inputs: int, outputs: int, *, rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = alpha / rank
        self.dropout = Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., outputs] in the dtype of the inputs [..., inputs]."""
        narrow = F.linear(self.dropout(inputs), self.down.to(inputs.dtype))
        return F.linear(narrow, self.up.to(inputs.dtype)) * self.scale

    def product(self) -> Tensor:
        """The map as one matrix, [outputs, inputs] float32."""
        return self.up @ self.down * self.scale


class AdaptedLinear(nn.Module):
    """A frozen linear layer and its adapter; `active` switches the adapter on."""

    def __init__(self, base: nn.Linear, adapter: Adapter) -> None:
        super().__init__()
        self.base, self.adapter, self.active = base, adapter, True

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., outputs]."""
        outputs: Tensor = self.base(inputs)
        return outputs + self.adapter(inputs) if self.active else outputs


def inject_adapters(
    network: nn.Module, targets: Sequence[str], *, rank: int, alpha: float, dropout: float = 0.0
) -> dict[str, Adapter]:
    """Freeze a network and give an adapter to each linear layer of the named kinds, in place.

    Args:
        network: whose linear layers are adapted.
        targets: last parts of layer names, e.g. `("q_proj", "v_proj")`.
        rank: see `Adapter`.
        alpha: see `Adapter`.
        dropout: see `Adapter`.

    Returns:
        Layer name -> its adapter, which starts as a map to zero.

    Raises:
        ConfigError: when a target names no linear layer.
    """
    linear = {name: part for name, part in network.named_modules() if isinstance(part, nn.Linear)}
    kinds = {name.rpartition(".")[2] for name in linear}
    for target in targets:
        if target not in kinds:
            raise ConfigError(
                f"no linear layer is called {target!r}{nearest(target, kinds)}; "
                f"there are: {', '.join(sorted(kinds))}"
            )
    network.requires_grad_(False)
    adapters = {}
    for name, layer in linear.items():
        owner, _, leaf = name.rpartition(".")
        if leaf in targets:
            adapter = Adapter(
                layer.in_features, layer.out_features, rank=rank, alpha=alpha, dropout=dropout
            ).to(layer.weight.device)
            setattr(network.get_submodule(owner), leaf, AdaptedLinear(layer, adapter))
            adapters[name] = adapter
    return adapters


@contextmanager
def without_adapters(network: nn.Module) -> Iterator[None]:
    """The network as it was before adaptation, inside the block."""
    adapted = [part for part in network.modules() if isinstance(part, AdaptedLinear)]
    before = [part.active for part in adapted]
    for part in adapted:
        part.active = False
    try:
        yield
    finally:
        for part, active in zip(adapted, before, strict=True):
            part.active = active


@torch.no_grad()
def merge_adapters(network: nn.Module) -> None:
    """Add every adapter to the weights it adapts and take it out, in place."""
    adapted = [
        (name, part) for name, part in network.named_modules() if isinstance(part, AdaptedLinear)
    ]
    for name, part in adapted:
        weight = part.base.weight
        weight.copy_(weight.float() + part.adapter.product().to(weight.device))
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, part.base)


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors alone, by name: all that training has changed."""
    return {
        f"{name}.{key}": value.detach()
        for name, part in network.named_modules()
        if isinstance(part, AdaptedLinear)
        for key, value in part.adapter.state_dict().items()
    }


@torch.no_grad()
def load_adapters(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `adapter_state` gave.

    Raises:
        ConfigError: when the state is of adapters elsewhere or of another rank.
    """
    own = adapter_state(network)
    if odd := sorted(set(own) ^ set(state)):
        raise ConfigError(f"the adapters' state and the network differ at {odd[0]!r}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ConfigError(
                f"adapter {name!r} is {tuple(value.shape)} here and {tuple(state[name].shape)} in "
                "the state; build it with the same rank"
            )
        value.copy_(state[name])
