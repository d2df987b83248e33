"""The Transformer encoder against a slow transcription, and what padding and order may change."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tastemaker.layers.initialisation import initialise_normal
from tastemaker.layers.transformer import TransformerBlock, TransformerEncoder, attend

NORMS = ("pre", "post", "original")


def encoder(norm="pre", *, heads=2, layers=2, causal=True, **switches):
    torch.manual_seed(0)
    made = TransformerEncoder(8, layers, heads, norm=norm, causal=causal, **switches)
    for parameter in made.parameters():  # far from the start, so that every term counts
        torch.nn.init.normal_(parameter, std=0.4)
    return made.eval()


def slow_attention(block: TransformerBlock, asking, asked):
    """One sequence, one head and one position at a time: [L, D] and [L, D] to [L, D]."""
    width = asked.shape[1]
    head_width = width // block.num_heads
    query = asking @ block.query.weight.T + block.query.bias
    key_value = asked @ block.key_value.weight.T + block.key_value.bias
    key, value = key_value[:, :width], key_value[:, width:]
    rows = []
    for t in range(len(asking)):
        heads = []
        for h in range(block.num_heads):
            part = slice(h * head_width, (h + 1) * head_width)
            scores = torch.stack(
                [query[t, part] @ key[s, part] / math.sqrt(head_width) for s in range(t + 1)]
            )
            weights = scores.exp() / scores.exp().sum()
            heads.append(sum(weights[s] * value[s, part] for s in range(t + 1)))
        rows.append(torch.cat(heads))
    mixed = torch.stack(rows)
    if isinstance(block.output, torch.nn.Linear):
        mixed = mixed @ block.output.weight.T + block.output.bias
    return mixed


def slow_norm(norm, x):
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()
    return scaled * norm.weight + norm.bias


def slow_encoder(made: TransformerEncoder, x):
    for block in made.blocks:

        def feedforward(u, block=block):
            inner = (u @ block.widen.weight.T + block.widen.bias).clamp(min=0)
            return inner @ block.narrow.weight.T + block.narrow.bias

        if block.norm == "pre":
            q = slow_norm(block.attention_norm, x)
            x = x + slow_attention(block, q, q)
            x = x + feedforward(slow_norm(block.feedforward_norm, x))
        elif block.norm == "post":
            x = slow_norm(block.attention_norm, x + slow_attention(block, x, x))
            x = slow_norm(block.feedforward_norm, x + feedforward(x))
        else:  # SASRec's own: the residual adds the normalised query
            q = slow_norm(block.attention_norm, x)
            u = slow_norm(block.feedforward_norm, q + slow_attention(block, q, x))
            x = u + feedforward(u)
    return x if isinstance(made.final_norm, torch.nn.Identity) else slow_norm(made.final_norm, x)


@pytest.mark.parametrize("projection", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_the_blocks_equal_a_slow_transcription(norm, heads, projection):
    made = encoder(norm, heads=heads, output_projection=projection, feedforward_size=12)
    inputs = torch.randn(2, 5, 8)
    expected = torch.stack([slow_encoder(made, row) for row in inputs])
    torch.testing.assert_close(made(inputs), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # the fused kernel
        torch.testing.assert_close(made(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_causal_state_does_not_see_later_inputs(norm):
    made = encoder(norm)
    inputs = torch.randn(1, 6, 8)
    changed = inputs.clone()
    changed[:, 3] = torch.randn(8)
    before, after = made(inputs), made(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-6)
    assert (before[:, 3:] - after[:, 3:]).abs().amax(2).min() > 1e-3


def test_a_bidirectional_state_sees_later_inputs():
    made = encoder(causal=False)
    inputs = torch.randn(1, 6, 8)
    changed = inputs.clone()
    changed[:, 5] = torch.randn(8)
    assert (made(inputs) - made(changed)).abs().amax(2).min() > 1e-4


@pytest.mark.parametrize("gradients", [True, False], ids=["open", "fused"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_padding_behind_or_before_changes_nothing(norm, causal, gradients):
    made = encoder(norm, causal=causal)
    inputs, noise = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    with torch.set_grad_enabled(gradients):
        alone = made(inputs, torch.ones(2, 4, dtype=torch.bool))
        for padded, kept in (
            (torch.cat([inputs, noise], 1), slice(0, 4)),
            (torch.cat([noise, inputs], 1), slice(3, 7)),
        ):
            valid = torch.zeros(2, 7, dtype=torch.bool)
            valid[:, kept] = True
            torch.testing.assert_close(made(padded, valid)[:, kept], alone, rtol=0, atol=1e-6)


def test_a_causal_encoder_needs_no_mask_for_padding_behind():
    made = encoder()
    inputs = torch.randn(2, 7, 8)
    torch.testing.assert_close(made(inputs)[:, :4], made(inputs[:, :4]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["causal", "visible", "all"])
def test_open_and_fused_attention_agree_in_value_and_gradient(kind):
    torch.manual_seed(0)
    vectors = [torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3)]
    visible = (torch.rand(2, 1, 5, 5) < 0.6) | torch.eye(5, dtype=torch.bool)
    how = {"causal": {"causal": True}, "visible": {"visible": visible}, "all": {}}[kind]
    inputs = [vector.clone().requires_grad_() for vector in vectors]
    ours = attend(*inputs, **how)
    ours.square().sum().backward()
    others = [vector.clone().requires_grad_() for vector in vectors]
    theirs = F.scaled_dot_product_attention(
        *others,
        attn_mask=visible if kind == "visible" else None,
        is_causal=kind == "causal",
    )
    theirs.square().sum().backward()
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(inputs, others, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_a_query_that_sees_nothing_is_finite():
    query = torch.randn(1, 1, 3, 4, requires_grad=True)
    visible = torch.zeros(1, 1, 1, 3, dtype=torch.bool)
    assert attend(query, query, query, visible=visible).isfinite().all()


def test_every_parameter_gets_a_gradient():
    made = encoder(dropout=0.1, attention_dropout=0.1).train()
    made(torch.randn(2, 5, 8)).square().sum().backward()
    assert [name for name, value in made.named_parameters() if value.grad is None] == []


def test_no_blocks_leave_the_final_norm():
    made = encoder(layers=0)
    inputs = torch.randn(2, 3, 8)
    torch.testing.assert_close(made(inputs), made.final_norm(inputs))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads 3 does not divide hidden_size 8"):
        TransformerEncoder(8, 1, 3)


def test_initial_values():
    torch.manual_seed(0)
    made = torch.nn.ModuleList([torch.nn.Embedding(500, 64, padding_idx=499), encoder()])
    initialise_normal(made)
    table = made[0].weight
    assert abs(table[:499].std().item() - 0.02) < 0.001
    assert not table[499].any()
    assert not made[1].blocks[0].widen.bias.any()
