from __future__ import annotations

import math

import torch

from tastemaker.losses.bootstrap import cosine_bootstrap


def test_values():
    predictions = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [1.0, 1.0]])
    targets = torch.tensor([[5.0, 0.0], [0.0, -1.0], [0.0, 9.0], [1.0, 0.0]])
    #   cosines                  1           -1          0       1/sqrt 2
    expected = 1 - (1 - 1 + 0 + math.sqrt(0.5)) / 4
    torch.testing.assert_close(cosine_bootstrap(predictions, targets), torch.tensor(expected))


def test_no_gradient_reaches_the_targets():
    predictions = torch.randn(4, 3, requires_grad=True)
    targets = torch.randn(4, 3, requires_grad=True)
    cosine_bootstrap(predictions, targets).backward()
    assert targets.grad is None
    assert (predictions.grad != 0).any()


def test_lengths_do_not_matter_and_zero_rows_are_no_trouble():
    predictions, targets = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(
        cosine_bootstrap(10 * predictions, 0.1 * targets), cosine_bootstrap(predictions, targets)
    )
    assert cosine_bootstrap(torch.zeros(2, 3), torch.zeros(2, 3)) == 1
