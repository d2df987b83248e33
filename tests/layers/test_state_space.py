"""State-space duality: one recurrence in four forms, and the block around it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tastemaker.layers.state_space import (
    CausalConvolution,
    GatedRMSNorm,
    StateSpaceBlock,
    ssd,
    ssd_at,
    ssd_quadratic,
    ssd_recurrent,
    ssd_step,
)


def problem(length, *, batch=3, heads=2, width=4, states=5, fast=1.0, dtype=torch.float32):
    """Values, steps, rates, write and read vectors; `fast` scales how much each step forgets."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    steps = F.softplus(normal(batch, length, heads))
    rates = -fast * torch.rand(heads, generator=generator).to(dtype)
    values = normal(batch, length, heads, width)
    return values, steps, rates, normal(batch, length, states), normal(batch, length, states)


@pytest.mark.parametrize("length", [1, 5, 32, 50])
@pytest.mark.parametrize("chunk", [1, 7, 32, None])
def test_chunks_the_quadratic_form_and_the_recurrence_agree(length, chunk):
    terms = problem(length)
    expected = ssd_recurrent(*terms)
    found = ssd(*terms, chunk_size=chunk or length)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ssd_quadratic(*terms), expected, rtol=1e-5, atol=1e-5)


def test_the_recurrence_is_the_equations():
    (x,), (step,), rates, (b,), (c,) = problem(3, batch=1, heads=1, width=2, states=2)
    state, rows = torch.zeros(2, 2), []
    for t in range(3):
        state = torch.exp(step[t, 0] * rates[0]) * state + step[t, 0] * torch.outer(x[t, 0], b[t])
        rows.append(state @ c[t])
    found = ssd_recurrent(x[None], step[None], rates, b[None], c[None])[0, :, 0]
    torch.testing.assert_close(found, torch.stack(rows))


def test_hand_made_numbers():
    # One head, one number, halved at every step: states 2, 1 + 0, 0.5 + 8.
    values = torch.tensor([2.0, 0.0, 8.0]).view(1, 3, 1, 1)
    steps, rates = torch.ones(1, 3, 1), torch.tensor([0.5]).log()
    ones = torch.ones(1, 3, 1)
    found = ssd(values, steps, rates, ones, ones, chunk_size=2).flatten()
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0, 8.5]))


@pytest.mark.parametrize("chunk", [7, 50])
def test_chunks_have_the_gradients_of_the_recurrence(chunk):
    expected, found = [], []
    for gradients, form in (
        (expected, ssd_recurrent),
        (found, lambda *terms: ssd(*terms, chunk_size=chunk)),
    ):
        terms = [term.double().requires_grad_() for term in problem(50)]
        form(*terms).square().sum().backward()
        gradients += [term.grad for term in terms]
    torch.testing.assert_close(found, expected)


def test_one_position_of_each_row_alone():
    terms = problem(20)
    values, steps, rates, write, read = terms
    rows, positions = torch.arange(3), torch.tensor([0, 7, 19])
    found = ssd_at(values, steps, rates, write, read[rows, positions], positions)
    expected = ssd_recurrent(*terms)[rows, positions]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_long_rows_that_forget_fast_stay_exact():
    # Running sums reach thousands: float32 differences of them would be off by 1e-4.
    terms = problem(2048, batch=1, fast=16.0)
    found, expected = ssd(*terms, chunk_size=256), ssd_recurrent(*terms)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_state_that_forgets_leaves_the_event_itself():
    values, steps, _, write, read = problem(12)
    rates = torch.full((2,), -1e4)
    own = steps[..., None] * (read * write).sum(2)[..., None, None] * values
    torch.testing.assert_close(ssd(values, steps, rates, write, read, chunk_size=5), own)


def test_a_step_of_zero_leaves_the_state():
    values, steps, rates, write, read = problem(1)
    state = torch.randn(3, 2, 4, 5)
    zero = torch.zeros_like(steps[:, 0])
    _, after = ssd_step(values[:, 0], zero, rates, write[:, 0], read[:, 0], state)
    torch.testing.assert_close(after, state, rtol=0, atol=0)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_convolution_is_a_causal_grouped_one(length):
    torch.manual_seed(0)
    layer = CausalConvolution(6, 4).double()
    inputs = torch.randn(2, length, 6, dtype=torch.float64, requires_grad=True)
    filters = layer.weight.T[:, None]  # [E, 1, K]
    padded = F.pad(inputs.transpose(1, 2), (3, 0))
    expected = F.conv1d(padded, filters, layer.bias, groups=6).transpose(1, 2)
    torch.testing.assert_close(layer(inputs), expected)
    leaves = (inputs, layer.weight, layer.bias)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((layer(inputs) * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
    )


def test_the_gate_comes_before_the_norm():
    torch.manual_seed(0)
    values, gate = torch.randn(3, 8), torch.randn(3, 8)
    gated = values * gate * torch.sigmoid(gate)
    expected = gated / (gated.square().mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(GatedRMSNorm(8, 1e-5)(values, gate), expected)


def block(**settings):
    torch.manual_seed(0)
    made = StateSpaceBlock(6, state_size=5, head_size=4, chunk_size=4, **settings)
    return made.double()


def test_the_block_is_its_equations_step_by_step():
    layer = block(activation="hardswish")
    inputs, scale = torch.randn(2, 9, 6).double(), torch.rand(2, 9, 3).double()
    z, mixed, dt = layer.project(inputs).split([12, 22, 3], dim=2)
    mixed = F.hardswish(layer.convolution(mixed))
    x, b, c = mixed.split([12, 5, 5], dim=2)
    x = x.reshape(2, 9, 3, 4)
    steps = torch.log1p(torch.exp(dt * scale + layer.step_bias))
    y = ssd_recurrent(x, steps, -layer.rate_log.exp(), b, c) + layer.skip[:, None] * x
    expected = layer.output(layer.norm(y.reshape(2, 9, 12), z))
    torch.testing.assert_close(layer(inputs, scale), expected)


def test_the_block_sees_nothing_ahead():
    layer, inputs = block(), torch.randn(2, 9, 6).double()
    changed = inputs.clone()
    changed[:, 5] += 1
    before, after = layer(inputs), layer(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-12)
    assert (before[:, 5:] - after[:, 5:]).abs().amax(2).min() > 1e-6


@pytest.mark.parametrize("scaled", [True, False])
def test_the_block_at_one_position_is_the_block_there(scaled):
    layer, inputs = block(), torch.randn(3, 9, 6).double()
    scale = torch.rand(3, 9, 3).double() if scaled else None
    positions = torch.tensor([8, 0, 4])
    expected = layer(inputs, scale)[torch.arange(3), positions]
    torch.testing.assert_close(layer.at(inputs, positions, scale), expected)


def test_steps_begin_between_a_thousandth_and_a_tenth():
    layer = StateSpaceBlock(64, state_size=4, head_size=1)
    steps = F.softplus(layer.step_bias)
    assert steps.min() >= 0.999e-3
    assert steps.max() <= 0.1001
    assert (-layer.rate_log.exp()).min() >= -16
    assert (-layer.rate_log.exp()).max() <= -1


def test_heads_that_do_not_divide_the_inner_width_are_refused():
    with pytest.raises(ValueError, match="heads of 5 do not divide the inner width 12"):
        StateSpaceBlock(6, state_size=5, head_size=5)
