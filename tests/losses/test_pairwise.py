from __future__ import annotations

import math

import pytest
import torch

from tastemaker.losses.pairwise import batch_l2, bpr


def test_bpr_is_the_mean_over_pairs_of_minus_log_sigmoid():
    positives = torch.tensor([2.0, 0.5])
    negatives = torch.tensor([[1.0, 3.0], [0.5, -0.5]])
    differences = [1.0, -1.0, 0.0, 1.0]
    expected = sum(math.log1p(math.exp(-x)) for x in differences) / 4
    assert bpr(positives, negatives).item() == pytest.approx(expected, rel=1e-6)


def test_bpr_gradient_is_that_of_the_paper():
    positives = torch.tensor([1.0], requires_grad=True)
    negatives = torch.tensor([[0.0]], requires_grad=True)
    bpr(positives, negatives).backward()
    slope = 1 / (1 + math.exp(1.0))  # sigmoid of s- - s+
    assert positives.grad.item() == pytest.approx(-slope)
    assert negatives.grad.item() == pytest.approx(slope)


def test_bpr_stays_finite_and_exact_at_the_ends():
    positives = torch.tensor([1e4, -1e4])
    assert bpr(positives, torch.zeros(2, 1)).item() == pytest.approx(5e3)


def test_bpr_adds_up_half_precision_in_single():
    positives, negatives = torch.zeros(4096).bfloat16(), torch.zeros(4096, 1).bfloat16()
    loss = bpr(positives, negatives)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 1), (1, 3)])
def test_bpr_refuses_shapes_that_would_broadcast(shape):
    with pytest.raises(ValueError, match=r"expected \[B\] and \[B, K\]"):
        bpr(torch.zeros(3), torch.zeros(shape))


def test_batch_l2_is_half_the_squared_norm_per_triple():
    users = torch.tensor([[3.0, 4.0], [0.0, 0.0]])  # 25, 0
    positives = torch.tensor([[1.0, 1.0], [2.0, 0.0]])  # 2, 4
    negatives = torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]])  # 4, 1
    assert batch_l2(users, positives, negatives).item() == (25 + 2 + 4 + 4 + 1) / 2 / 2


def test_batch_l2_does_not_grow_with_repeated_negatives():
    negatives = torch.randn(4, 1, 3)
    once, thrice = batch_l2(negatives), batch_l2(negatives.expand(4, 3, 3))
    torch.testing.assert_close(once, thrice)
