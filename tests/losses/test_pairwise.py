from __future__ import annotations

import math

import pytest
import torch

from tastemaker.losses.pairwise import batch_l2, bpr, shared_bpr


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


def shared_case(dtype=torch.float64, size=7, width=5, count=4):
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randn(n, width, generator=generator, dtype=dtype, requires_grad=True)
        for n in (size, size, count)
    ]
    return rows, torch.rand(size, count, generator=generator) < 0.7


def test_a_mask_leaves_its_pairs_out_of_the_mean():
    positives, negatives = torch.tensor([2.0, 0.5]), torch.tensor([[1.0, 3.0], [0.5, -0.5]])
    mask = torch.tensor([[True, False], [True, True]])
    expected = sum(math.log1p(math.exp(-x)) for x in (1.0, 0.0, 1.0)) / 3
    assert bpr(positives, negatives, mask).item() == pytest.approx(expected, rel=1e-6)


def test_shared_bpr_equals_a_loop_over_triples():
    (users, positives, negatives), mask = shared_case(torch.float32)
    terms = [
        -torch.nn.functional.logsigmoid(users[b] @ positives[b] - users[b] @ negatives[k])
        for b in range(len(users))
        for k in range(len(negatives))
        if mask[b, k]
    ]
    assert 0 < len(terms) < mask.numel()
    expected = torch.stack(terms).mean()
    slow = torch.autograd.grad(expected, (users, positives, negatives))
    found = shared_bpr(users, positives, negatives, mask)
    fast = torch.autograd.grad(found, (users, positives, negatives))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_shared_bpr_has_the_gradients_of_the_plain_form():
    (users, positives, negatives), mask = shared_case()
    plain = 3 * bpr((users * positives).sum(-1), users @ negatives.T, mask)
    slow = torch.autograd.grad(plain, (users, positives, negatives))
    found = 3 * shared_bpr(users, positives, negatives, mask)
    fast = torch.autograd.grad(found, (users, positives, negatives))
    torch.testing.assert_close((found, *fast), (plain, *slow))


def test_masked_pairs_of_shared_bpr_move_nothing():
    (users, positives, negatives), mask = shared_case()
    mask[:, 2] = False  # nobody's negative
    mask[3] = False  # a user who knows all
    rows = (users, positives, negatives)
    by_user, by_positive, by_negative = torch.autograd.grad(shared_bpr(*rows, mask), rows)
    assert not by_negative[2].any()
    assert not by_user[3].any()
    assert not by_positive[3].any()
    assert by_negative[0].any()


def test_shared_bpr_without_pairs_is_zero():
    rows, mask = shared_case()
    loss = shared_bpr(*rows, torch.zeros_like(mask))
    assert loss.item() == 0
    assert not any(part.any() for part in torch.autograd.grad(loss, rows))


def test_shared_bpr_stays_finite_at_the_ends():
    users, items = torch.full((1, 1), 1e2), torch.tensor([[1.0], [-1.0]])
    rows = [part.clone().requires_grad_() for part in (users, items[1:], items)]
    loss = shared_bpr(*rows, torch.ones(1, 2, dtype=torch.bool))
    gradients = torch.autograd.grad(loss, rows)
    assert loss.item() == pytest.approx((87.3 + math.log(2)) / 2, abs=0.1)  # 200 reads as 87
    assert [part.flatten().tolist() for part in gradients] == [[1.0], [-75.0], [50.0, 25.0]]


def test_shared_bpr_adds_up_half_precision_in_single():
    (users, positives, negatives), mask = shared_case(torch.bfloat16, size=4096)
    loss = shared_bpr(users, positives, negatives, mask)
    scores = (users.float() * positives.float()).sum(-1), users.float() @ negatives.float().T
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, bpr(*scores, mask))
    assert torch.autograd.grad(loss, users)[0].dtype == torch.bfloat16


def test_shared_bpr_refuses_negatives_of_each_positive():
    with pytest.raises(ValueError, match=r"expected \[B, W\], \[B, W\], \[K, W\] and \[B, K\]"):
        shared_bpr(
            torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 4, 2), torch.ones(3, 4).bool()
        )


def test_batch_l2_is_half_the_squared_norm_per_triple():
    users = torch.tensor([[3.0, 4.0], [0.0, 0.0]])  # 25, 0
    positives = torch.tensor([[1.0, 1.0], [2.0, 0.0]])  # 2, 4
    negatives = torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]])  # 4, 1
    assert batch_l2(users, positives, negatives).item() == (25 + 2 + 4 + 4 + 1) / 2 / 2


def test_batch_l2_does_not_grow_with_repeated_negatives():
    negatives = torch.randn(4, 1, 3)
    once, thrice = batch_l2(negatives), batch_l2(negatives.expand(4, 3, 3))
    torch.testing.assert_close(once, thrice)
