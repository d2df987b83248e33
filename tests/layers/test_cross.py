"""Cross layers against their equations."""

from __future__ import annotations

import torch

from tastemaker.layers.cross import CrossMixture, CrossNetwork


def test_layers_multiply_by_the_first_vector():
    torch.manual_seed(0)
    network, first = CrossNetwork(4, 3), torch.randn(5, 4)
    expected = first
    for layer in network.layers:
        expected = first * (expected @ layer.weight.T + layer.bias) + expected
    torch.testing.assert_close(network(first), expected)


def test_no_layers_change_nothing():
    first = torch.randn(5, 4)
    assert torch.equal(CrossNetwork(4, 0)(first), first)


def test_rank_one_matrices_give_the_first_cross_network():
    """W = 1 w^T turns W x into (w . x) for every entry: x_0 (w . x) + b x_0 + x."""
    torch.manual_seed(0)
    network, first = CrossNetwork(4, 2), torch.randn(5, 4)
    rows = torch.randn(2, 4)
    expected = first
    with torch.no_grad():
        for layer, row in zip(network.layers, rows, strict=True):
            layer.weight.copy_(torch.ones(4, 1) * row)
            layer.bias.copy_(torch.randn(4))
            inner = (expected * row).sum(-1, keepdim=True)
            expected = first * inner + first * layer.bias + expected
    torch.testing.assert_close(network(first), expected)


def test_mixture_is_its_equation():
    torch.manual_seed(0)
    network, first = CrossMixture(4, 2, num_experts=3, rank=2), torch.randn(5, 4)
    expected = first
    for layer in network.layers:
        gates = torch.softmax(network.gates(expected), -1)
        change = torch.zeros_like(first)
        for expert in range(3):
            inner = torch.tanh(expected @ layer.inward[expert])
            inner = torch.tanh(inner @ layer.core[expert])
            change = change + gates[:, expert : expert + 1] * (
                first * (inner @ layer.outward[expert] + layer.bias)
            )
        expected = expected + change
    torch.testing.assert_close(network(first), expected)


def test_one_row_is_answered_as_in_a_batch():
    torch.manual_seed(0)
    network, first = CrossMixture(4, 2, num_experts=3, rank=2), torch.randn(5, 4)
    torch.testing.assert_close(network(first[:1]), network(first)[:1])
