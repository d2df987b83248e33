"""Hidden layers, batch norm that keeps its moments, and Dice against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tastemaker.layers.mlp import MLP, BatchNorm, Dice


def test_layers_are_linear_norm_activation():
    torch.manual_seed(0)
    network = MLP(5, (4, 3), 2, batch_norm=True).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.rand_like(value))
    values = torch.randn(6, 5)
    expected = values
    for layer in network.hidden:
        expected, norm = layer.linear(expected), layer.norm
        spread = (norm.running_variance + 1e-5).sqrt()
        expected = (expected - norm.running_mean) / spread * norm.weight + norm.bias
        expected = expected.relu()
    torch.testing.assert_close(network(values), network.output(expected))


def test_without_an_output_the_last_hidden_layer_comes_out():
    network = MLP(5, (4, 3), None)
    assert network.width == 3
    assert network(torch.randn(2, 7, 5)).shape == (2, 7, 3)
    assert MLP(5, (), None).width == 5


def test_batch_norm_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = BatchNorm(3), nn.BatchNorm1d(3)
    for _ in range(3):
        values = torch.randn(8, 3) * 2 + 1
        torch.testing.assert_close(ours(values), theirs(values))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(values), theirs(values))
    torch.testing.assert_close(ours.running_variance.data, theirs.running_var)


def test_moments_are_weights_without_gradient():
    norm = BatchNorm(3)
    names = {name: value.requires_grad for name, value in norm.named_parameters()}
    assert names == {
        "weight": True,
        "bias": True,
        "running_mean": False,
        "running_variance": False,
    }


def test_one_row_alone_is_normalised_by_the_running_moments():
    norm = BatchNorm(2)
    values = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(norm(values), values, atol=1e-4, rtol=0)
    assert torch.equal(norm.running_mean.data, torch.zeros(2))


def test_dice_is_its_definition():
    torch.manual_seed(0)
    dice = Dice(3)
    with torch.no_grad():
        dice.alpha.copy_(torch.tensor([0.0, 0.5, 1.0]))
    values = torch.randn(64, 3) * 3 - 1
    normal = (values - values.mean(0)) / (values.var(0, unbiased=False) + 1e-9).sqrt()
    share = torch.sigmoid(normal)
    expected = share * values + dice.alpha * (1 - share) * values
    torch.testing.assert_close(dice(values), expected)
    torch.testing.assert_close(expected[:, 2], values[:, 2])  # alpha 1 is the identity


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "prelu", "dice"])
def test_every_parameter_is_trained(activation):
    network = MLP(4, (3, 3), activation=activation, batch_norm=True, dropout=0.1)
    network(torch.randn(9, 4)).square().mean().backward()
    missing = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
