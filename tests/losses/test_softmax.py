"""Softmax losses: every form against the plain one, in value and in gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tastemaker.losses.softmax import (
    candidate_scores,
    chunked_softmax,
    full_softmax,
    sampled_softmax,
)


def problem(n_states=7, n_items=11, width=5, dtype=torch.float64):
    torch.manual_seed(0)
    states = torch.randn(n_states, width, dtype=dtype, requires_grad=True)
    table = torch.randn(n_items, width, dtype=dtype, requires_grad=True)
    bias = torch.randn(n_items, dtype=dtype, requires_grad=True)
    return states, table, bias, torch.randint(n_items, (n_states,))


def value_and_gradients(loss, inputs):
    return loss.detach(), torch.autograd.grad(loss, inputs, retain_graph=True)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.3}, {"cosine": True, "temperature": 0.1}])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 30, 10_000], ids=["a row", "three rows", "everything"])
def test_chunked_equals_full(chunk, with_bias, how):
    states, table, bias, targets = problem()
    inputs = [states, table, bias] if with_bias else [states, table]
    how = {**how, "bias": bias if with_bias else None}
    expected = value_and_gradients(full_softmax(states, table, targets, **how), inputs)
    found = value_and_gradients(chunked_softmax(states, table, targets, chunk=chunk, **how), inputs)
    torch.testing.assert_close(found, expected)


def test_full_is_the_mean_negative_log_probability():
    states, table, bias, targets = problem()
    probabilities = torch.softmax(states @ table.T / 0.5 + bias, 1)
    expected = -probabilities[torch.arange(len(targets)), targets].log().mean()
    found = full_softmax(states, table, targets, bias=bias, temperature=0.5)
    torch.testing.assert_close(found, expected)


def test_the_chunked_gradient_is_numerically_right():
    states, table, bias, targets = problem()
    assert torch.autograd.gradcheck(
        lambda s, t, b: 3 * chunked_softmax(s, t, targets, bias=b, chunk=22),
        (states, table, bias),
    )


def test_chunked_under_autocast_stays_close_to_float32():
    states, table, _, targets = problem(200, 300, 16, torch.float32)
    expected = value_and_gradients(full_softmax(states, table, targets), [states, table])
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_softmax(states, table, targets, chunk=6000)
    value, gradients = value_and_gradients(loss, [states, table])
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected[0], rtol=2e-3, atol=0)
    for found, true in zip(gradients, expected[1], strict=True):
        assert found.dtype == torch.float32
        assert (found - true).norm() < 0.01 * true.norm()


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor any operation returned."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.numel())
        return result


def test_chunked_never_holds_more_than_a_chunk_of_logits():
    states, table, _, targets = problem(500, 400, 4, torch.float32)
    with LargestTensor() as seen:
        chunked_softmax(states, table, targets, chunk=8000).backward()
    assert seen.size == 8000


def test_chunks_of_a_large_catalog_are_64_rows():
    """Fewer would read and write the table more often than they compute with it."""
    states, table, bias, targets = problem(100, 70_000, 2, torch.float64)
    inputs = [states, table, bias]
    expected = value_and_gradients(full_softmax(states, table, targets, bias=bias), inputs)
    with LargestTensor() as seen:
        loss = chunked_softmax(states, table, targets, bias=bias)
    assert seen.size == 64 * 70_000
    torch.testing.assert_close(value_and_gradients(loss, inputs), expected)


def test_chunked_without_gradients_gives_the_value():
    states, table, _, targets = problem()
    with torch.no_grad():
        found = chunked_softmax(states, table, targets, chunk=22)
    torch.testing.assert_close(found, full_softmax(states, table, targets).detach())


def test_a_hopeless_target_has_a_finite_loss_and_the_right_gradient():
    states = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    table = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    loss = chunked_softmax(states, table, torch.tensor([1]))
    loss.backward()
    assert 80 < loss.item() < 90
    torch.testing.assert_close(states.grad, torch.tensor([[2.0, 0.0]]))


def test_sampling_every_other_item_equals_full():
    states, table, bias, targets = problem()
    everything = torch.arange(len(table))
    scores = candidate_scores(states[None], table, everything, bias=bias)[0]
    positive = scores.gather(1, targets[:, None]).squeeze(1)
    shared = sampled_softmax(positive, scores, hits=everything == targets[:, None])
    own = torch.stack([everything[everything != target] for target in targets])
    each = candidate_scores(states[None], table, own[None], bias=bias)[0]
    inputs = [states, table, bias]
    expected = value_and_gradients(full_softmax(states, table, targets, bias=bias), inputs)
    torch.testing.assert_close(value_and_gradients(shared, inputs), expected)
    torch.testing.assert_close(
        value_and_gradients(sampled_softmax(positive, each), inputs), expected
    )


@pytest.mark.parametrize("how", [{}, {"temperature": 0.3}, {"cosine": True}])
def test_candidate_scores_are_the_same_however_they_are_shared(how):
    torch.manual_seed(0)
    states, table, bias = torch.randn(2, 3, 4), torch.randn(9, 4), torch.randn(9)
    shared = torch.tensor([1, 8, 3, 3])
    per_row = shared.expand(2, 4)
    per_position = shared.expand(2, 3, 4)
    found = [
        candidate_scores(states, table, items, bias=bias, **how)
        for items in (shared, per_row, per_position)
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    if not how:
        torch.testing.assert_close(found[0][1, 2, 1], states[1, 2] @ table[8] + bias[8])
    if "cosine" in how:
        torch.testing.assert_close(
            found[0][1, 2, 1], F.cosine_similarity(states[1, 2], table[8], dim=0) + bias[8]
        )


def test_logq_brings_the_sampled_gradient_closer_to_the_full_one():
    generator = torch.Generator().manual_seed(0)
    n_items, width, n_samples = 200, 8, 40
    states = 0.5 * torch.randn(64, width, generator=generator)
    table = torch.randn(n_items, width, generator=generator, requires_grad=True)
    law = 1 / torch.arange(1.0, n_items + 1)
    law /= law.sum()
    targets = torch.multinomial(law, 64, True, generator=generator)
    (full,) = torch.autograd.grad(full_softmax(states, table, targets), table)

    def mean_gradient(corrected):
        total = torch.zeros_like(full)
        for _ in range(300):
            drawn = torch.multinomial(law, n_samples, True, generator=generator)
            scores = candidate_scores(states[None], table, drawn)[0]
            loss = sampled_softmax(
                (states * table[targets]).sum(1),
                scores,
                hits=drawn == targets[:, None],
                negative_log_q=(n_samples * law[drawn]).log() if corrected else None,
            )
            total += torch.autograd.grad(loss, table)[0] / 300
        return total

    plain = (mean_gradient(False) - full).norm() / full.norm()
    corrected = (mean_gradient(True) - full).norm() / full.norm()
    assert corrected < 0.25
    assert corrected < 0.5 * plain
