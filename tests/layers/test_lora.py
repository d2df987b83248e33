"""LoRA: starts as the network it adapts, switches off, merges, and stores itself alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tastemaker.errors import ConfigError
from tastemaker.layers.lora import (
    Adapter,
    adapter_state,
    inject_adapters,
    load_adapters,
    merge_adapters,
    without_adapters,
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.out = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, inputs):
        return self.out(torch.tanh(self.q_proj(inputs)) * self.k_proj(inputs))


def adapted(rank: int = 3, *, trained: bool = True):
    """Two blocks before and after adaptation of their `q_proj`."""
    torch.manual_seed(0)
    plain = nn.Sequential(Block(), Block())
    network = copy.deepcopy(plain)
    adapters = inject_adapters(network, ["q_proj"], rank=rank, alpha=6.0)
    if trained:
        for adapter in adapters.values():
            nn.init.normal_(adapter.up)
    return plain, network, adapters


INPUTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


def test_an_adapted_network_begins_as_it_was():
    plain, network, adapters = adapted(trained=False)
    assert list(adapters) == ["0.q_proj", "1.q_proj"]
    torch.testing.assert_close(network(INPUTS), plain(INPUTS), rtol=0, atol=0)


def test_only_adapters_are_trained_and_the_first_step_moves_one_factor():
    _, network, adapters = adapted(trained=False)
    learned = [name for name, value in network.named_parameters() if value.requires_grad]
    assert learned == [f"{n}.adapter.{part}" for n in adapters for part in ("down", "up")]
    network(INPUTS).square().sum().backward()
    for adapter in adapters.values():
        assert adapter.down.grad.abs().max() == 0  # nothing passes the zero factor yet
        assert adapter.up.grad.abs().max() > 0


def test_an_adapter_is_the_scaled_product_of_its_factors():
    adapter = Adapter(6, 4, rank=2, alpha=8.0, dropout=0.0)
    nn.init.normal_(adapter.up)
    expected = 4.0 * INPUTS @ adapter.down.T @ adapter.up.T
    torch.testing.assert_close(adapter(INPUTS), expected)
    torch.testing.assert_close(adapter(INPUTS), INPUTS @ adapter.product().T)
    assert adapter(INPUTS.bfloat16()).dtype == torch.bfloat16


def test_switched_off_a_trained_network_is_the_one_before():
    plain, network, _ = adapted()
    changed = network(INPUTS)
    with without_adapters(network):
        torch.testing.assert_close(network(INPUTS), plain(INPUTS), rtol=0, atol=0)
        with without_adapters(network):
            pass
        torch.testing.assert_close(network(INPUTS), plain(INPUTS), rtol=0, atol=0)
    assert (changed - plain(INPUTS)).abs().max() > 0.01
    torch.testing.assert_close(network(INPUTS), changed, rtol=0, atol=0)


def test_merged_equals_unmerged():
    plain, network, _ = adapted()
    expected = network(INPUTS)
    merge_adapters(network)
    torch.testing.assert_close(network(INPUTS), expected, rtol=1e-5, atol=1e-5)
    assert list(network.state_dict()) == list(plain.state_dict())


def test_adapters_are_stored_alone_and_loaded_elsewhere():
    _, network, _ = adapted()
    _, other, _ = adapted(trained=False)
    state = adapter_state(network)
    assert sum(value.numel() for value in state.values()) == 2 * 2 * 3 * 6
    load_adapters(other, state)
    torch.testing.assert_close(other(INPUTS), network(INPUTS), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="same rank"):
        load_adapters(adapted(rank=2)[1], state)
    with pytest.raises(ConfigError, match=r"differ at '0\.q_proj\.down'"):
        load_adapters(network, {})


def test_dropout_is_active_in_training_alone():
    adapter = Adapter(64, 8, rank=4, alpha=4.0, dropout=0.5)
    nn.init.normal_(adapter.up)
    inputs = torch.ones(2, 64)
    assert not torch.equal(adapter(inputs), adapter(inputs))
    adapter.eval()
    assert torch.equal(adapter(inputs), adapter(inputs))


def test_unknown_targets_are_refused():
    with pytest.raises(ConfigError, match=r"did you mean 'q_proj'.*k_proj, out, q_proj"):
        inject_adapters(Block(), ["q_pro"], rank=1, alpha=1.0)
