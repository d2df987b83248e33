"""BCE and its generalisation."""

from __future__ import annotations

import pytest
import torch

from tastemaker.losses.binary import bce, gbce, gbce_exponent


def scores(k, dtype=torch.float64):
    torch.manual_seed(0)
    return 3 * torch.randn(6, dtype=dtype), 3 * torch.randn(6, k, dtype=dtype)


def test_bce_is_the_mean_over_all_logits():
    positive, negatives = scores(3)
    terms = [-torch.sigmoid(positive).log()[:, None], -(1 - torch.sigmoid(negatives)).log()]
    torch.testing.assert_close(bce(positive, negatives), torch.cat(terms, 1).mean())


@pytest.mark.parametrize("k", [1, 16])
def test_gbce_without_calibration_is_bce(k):
    positive, negatives = scores(k)
    torch.testing.assert_close(
        gbce(positive, negatives, n_items=100, calibration=0.0), bce(positive, negatives)
    )


@pytest.mark.parametrize("calibration", [0.0, 0.5, 0.75, 1.0])
def test_gbce_equals_bce_after_the_gamma_transform_of_the_reference_code(calibration):
    positive, negatives = scores(16, torch.float64)
    exponent = gbce_exponent(16, 100, calibration)
    probability = torch.sigmoid(positive).clamp(1e-10, 1 - 1e-10)
    raised = probability.pow(-exponent).clamp(1 + 1e-10, torch.finfo(torch.float64).max)
    gamma = (1 / (raised - 1)).clamp(1e-10, torch.finfo(torch.float64).max).log()
    torch.testing.assert_close(
        gbce(positive, negatives, 100, calibration), bce(gamma, negatives), rtol=1e-6, atol=0
    )


def test_the_exponent_runs_from_one_to_the_sampling_rate():
    assert gbce_exponent(256, 1001, 0.0) == pytest.approx(1.0)
    assert gbce_exponent(256, 1001, 1.0) == pytest.approx(0.256)
    # every other item as a negative: nothing to correct
    assert gbce_exponent(100, 101, 0.75) == pytest.approx(1.0)


def test_extreme_scores_stay_finite_in_half_precision():
    positive = torch.tensor([-80.0, 80.0], dtype=torch.bfloat16, requires_grad=True)
    loss = gbce(positive, torch.tensor([[90.0], [-90.0]], dtype=torch.bfloat16), 10, 0.75)
    loss.backward()
    assert loss.isfinite()
    assert positive.grad.isfinite().all()
