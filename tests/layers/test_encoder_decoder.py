"""T5-style blocks: norms, relative positions, who sees whom, and step by step = all at once."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tastemaker.layers.encoder_decoder import (
    Continuation,
    RelativeBias,
    RMSNorm,
    Stack,
    hidden_bias,
)


def built(*, memory: bool = False, seed: int = 0, **settings) -> Stack:
    torch.manual_seed(seed)
    stack = Stack(12, 2, 2, 5, 20, memory=memory, **settings)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return stack.eval()


def causal(length: int) -> torch.Tensor:
    return hidden_bias(torch.ones(length, length).tril().bool())[None, None]


def test_norm_is_that_of_torch_with_its_gradients():
    torch.manual_seed(0)
    found, expected = RMSNorm(6), torch.nn.RMSNorm(6, eps=1e-6)
    with torch.no_grad():
        found.gain.copy_(torch.randn(6))
        expected.weight.copy_(found.gain)
    results = []
    for norm, gain in ((found, found.gain), (expected, expected.weight)):
        values = torch.linspace(-2, 3, 24).view(4, 6).requires_grad_()
        (norm(values) ** 3).sum().backward()
        results.append((norm(values).detach(), values.grad, gain.grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("two_sided", [False, True])
def test_buckets_are_those_of_t5(two_sided):
    bias = RelativeBias(2, two_sided=two_sided, num_buckets=32, max_distance=128)

    def slow(offset: int) -> int:
        buckets, base = (16, 16 * (offset > 0)) if two_sided else (32, 0)
        distance = abs(offset) if two_sided else max(-offset, 0)
        exact = buckets // 2
        if distance < exact:
            return base + distance
        grown = math.log(distance / exact) / math.log(128 / exact) * (buckets - exact)
        return base + min(exact + int(grown), buckets - 1)

    offsets = torch.arange(-200, 200)
    # Offsets at which the logarithm is a whole number may round either way.
    found, expected = bias.buckets(offsets).tolist(), [slow(offset) for offset in range(-200, 200)]
    assert sum(a != b for a, b in zip(found, expected, strict=True)) <= 2
    assert bias(offsets[None]).shape == (2, 1, 400)


def test_a_stack_is_its_slow_transcription():
    stack = built(memory=True)
    torch.manual_seed(1)
    states, memory = torch.randn(2, 4, 12), torch.randn(2, 3, 12)
    bias, memory_bias = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 3)

    def norm(module, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * module.gain

    def attention(module, x, seen, bias):
        heads = []
        query, (key, value) = module.query(x), module.key_value(seen).chunk(2, 2)
        for head in range(2):
            part = slice(5 * head, 5 * head + 5)
            scores = query[..., part] @ key[..., part].mT / math.sqrt(5) + bias[:, head]
            heads.append(scores.softmax(-1) @ value[..., part])
        return module.output(torch.cat(heads, 2))

    expected = states
    for block in stack.blocks:
        normed = norm(block.attention_norm, expected)
        expected = expected + attention(block.attention, normed, normed, bias)
        normed = norm(block.memory_norm, expected)
        expected = expected + attention(block.memory_attention, normed, memory, memory_bias)
        inner = F.relu(block.widen(norm(block.feedforward_norm, expected)))
        expected = expected + block.narrow(inner)
    expected = norm(stack.final_norm, expected)
    found = stack(states, bias, memory, memory_bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # the fused kernel
        torch.testing.assert_close(
            stack(states, bias, memory, memory_bias), expected, rtol=1e-4, atol=1e-4
        )


def test_one_state_of_each_row_is_that_of_all_states():
    stack, at = built(), torch.tensor([4, 0, 2])
    states = torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(5))
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            kept, expected_kept = [], []
            found = stack(states, causal(6), keep=kept, at=at)
            expected = stack(states, causal(6), keep=expected_kept)
        torch.testing.assert_close(found[:, 0], expected[torch.arange(3), at])
        for one, other in zip(kept, expected_kept, strict=True):
            assert torch.equal(one.keys, other.keys)


@pytest.mark.parametrize("two_sided", [False, True])
def test_the_bias_of_an_offset_is_that_of_its_bucket(two_sided):
    bias, offsets = RelativeBias(2, two_sided=two_sided), torch.arange(-200, 200)[None]
    torch.nn.init.normal_(bias.weight, generator=torch.Generator().manual_seed(6))
    assert torch.equal(bias(offsets), bias.weight[bias.buckets(offsets)].movedim(-1, -3))


def test_what_is_hidden_has_no_influence():
    stack = built()
    states = torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(2))
    changed = states.clone()
    changed[:, 4] += 1
    before, after = stack(states, causal(6)), stack(changed, causal(6))
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-6)
    assert (before[:, 4:] - after[:, 4:]).abs().amax(2).min() > 1e-3


def test_a_decoder_continued_step_by_step_is_the_decoder_at_once():
    stack, bias = built(), RelativeBias(2, two_sided=False)
    torch.nn.init.normal_(bias.weight, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(4)
    past, beams = torch.randn(2, 5, 12), torch.randn(2, 3, 2, 12)  # two positions of three beams
    lengths = torch.tensor([4, 2])  # positions of the past that count

    expected = torch.empty(2, 3, 2, 12)
    for row in range(2):
        for beam in range(3):
            whole = torch.cat([past[row, : lengths[row]], beams[row, beam]])[None]
            place = torch.arange(whole.shape[1])
            seen = bias(place - place[:, None])[None] + causal(whole.shape[1])
            expected[row, beam] = stack(whole, seen)[0, -2:]

    kept = []
    place = torch.arange(5)
    stack(past, bias(place - place[:, None])[None] + causal(5), keep=kept)
    continuation = Continuation(stack, kept)
    visible = hidden_bias(place < lengths[:, None])[:, None, None]
    swap = torch.tensor([[2, 0, 1], [0, 1, 2]])  # the second position continues other beams
    back = swap.argsort(1)
    for step in range(2):
        inputs = beams[:, :, step]
        query = lengths + step
        own = bias(torch.arange(-step, 1)[None]).squeeze(1)
        shared = bias((place - query[:, None])[:, None]) + visible
        if step == 0:
            inputs = inputs.gather(1, swap[:, :, None].expand(-1, -1, 12))
            found = continuation.extend(inputs, None, own, shared)
            found = found.gather(1, back[:, :, None].expand(-1, -1, 12))
        else:
            found = continuation.extend(inputs, back, own, shared)
        torch.testing.assert_close(found, expected[:, :, step], rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_alone():
    stack = built(dropout=0.5, attention_dropout=0.5)
    states = torch.randn(2, 4, 12)
    assert torch.equal(stack(states, causal(4)), stack(states, causal(4)))
    stack.train()
    assert not torch.equal(stack(states, causal(4)), stack(states, causal(4)))
