"""Dropout: the share, the scale, and one mask for values and gradients."""

from __future__ import annotations

import pytest
import torch

from tastemaker.layers.dropout import Dropout, dropout


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_the_dropped_share_and_the_mean_are_right(rate):
    torch.manual_seed(0)
    kept = dropout(torch.ones(100_000), rate, training=True)
    assert abs((kept == 0).float().mean().item() - rate) < 0.006  # 1/512 rounding, 3 sigma of 1e5
    assert abs(kept.mean().item() - 1) < 0.01
    assert len(kept.unique()) == 2


def test_gradients_pass_where_values_pass():
    torch.manual_seed(0)
    values = torch.ones(7, 13, requires_grad=True)
    kept = dropout(values, 0.3, training=True)
    kept.sum().backward()
    torch.testing.assert_close(values.grad, kept.detach())


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
    values = torch.randn(5, 3)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0).train()(values) is values


def test_the_mask_repeats_under_a_seed():
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(dropout(torch.ones(50), 0.5, training=True))
    assert torch.equal(*draws)
