"""Transformer encoder over a sequence of vectors, causal or bidirectional.

Self-attention blocks as in "Attention Is All You Need" (NeurIPS 2017, arXiv 1706.03762), with the
switches that published sequence recommenders differ by: where the norms stand, the width and
activation of the feed-forward part, heads, and whether attention ends in a projection. Cost per
block: O(B L D (L + D)) time; O(B H L^2) memory where attention is computed in the open, O(B L D)
where the fused kernel runs.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.layers.dropout import Dropout, dropout

__all__ = ["Activation", "Norm", "TransformerBlock", "TransformerEncoder", "attend"]

Norm = Literal["pre", "post", "original"]
Activation = Literal["relu", "gelu", "silu"]

# On the CPU the fused kernel's backward pass is slower than plain products up to this length
# (bf16, B 16, L 200, 2 heads of 32: 7.8 ms against 2.8 ms), and it cannot drop attention weights.
_OPEN_LENGTH = 512


class TransformerEncoder(nn.Module):
    """A stack of self-attention blocks.

    Args:
        hidden_size: width D.
        num_layers: blocks; none leaves the final norm alone.
        num_heads: attention heads; they divide the width.
        feedforward_size: inner width of the feed-forward part; `None` is D.
        activation: of the feed-forward part.
        norm: `"pre"`: x + f(norm(x)), and a norm after the last block; `"post"`: norm(x + f(x));
            `"original"`: SASRec's own, where the residual adds the normalised query,
            q = norm(x), q + attention(q, x, x), then u + f(u) of the normed sum u, and a norm
            after the last block.
        output_projection: whether the heads' results pass one more linear map.
        causal: whether position t sees only positions up to t.
        dropout: share of entries dropped from what each block adds (and inside the
            feed-forward part).
        attention_dropout: share of attention weights dropped.
        norm_epsilon: added to variances.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        *,
        feedforward_size: int | None = None,
        activation: Activation = "relu",
        norm: Norm = "pre",
        output_projection: bool = True,
        causal: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        norm_epsilon: float = 1e-8,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide hidden_size {hidden_size}")
        self.causal = causal
        self.blocks = nn.ModuleList(
            TransformerBlock(
                hidden_size,
                num_heads,
                feedforward_size=feedforward_size or hidden_size,
                activation=activation,
                norm=norm,
                output_projection=output_projection,
                dropout=dropout,
                attention_dropout=attention_dropout,
                norm_epsilon=norm_epsilon,
            )
            for _ in range(num_layers)
        )
        self.final_norm: nn.Module = (
            nn.Identity() if norm == "post" else nn.LayerNorm(hidden_size, eps=norm_epsilon)
        )

    def forward(self, inputs: Tensor, valid: Tensor | None = None) -> Tensor:
        """Encode sequences.

        Args:
            inputs: [B, L, D] float.
            valid: [B, L] bool, True at real positions; padding is then neither attended to nor
                carried (its states are zero between blocks). `None` trusts every position, which
                is enough for right-padded rows of a causal encoder: real positions never see
                what stands behind them.

        Returns:
            [B, L, D] float; states at padding are meaningless.
        """
        visible = None if valid is None else self._visible(valid)
        states = inputs
        for block in self.blocks:
            if valid is not None:
                states = states * valid[:, :, None]
            states = block(states, visible, self.causal)
        final: Tensor = self.final_norm(states)
        return final

    def _visible(self, valid: Tensor) -> Tensor:
        """[B, 1, 1 or L, L] bool: which key each query may see."""
        visible = valid[:, None, None, :]
        if not self.causal:
            return visible
        length = valid.shape[1]
        order = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
        return visible & order


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward part; the arguments are those of the encoder."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        feedforward_size: int,
        activation: Activation,
        norm: Norm,
        output_projection: bool,
        dropout: float,
        attention_dropout: float,
        norm_epsilon: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.norm, self.attention_dropout = num_heads, norm, attention_dropout
        self.activation: Activation = activation
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.output: nn.Module = (
            nn.Linear(hidden_size, hidden_size) if output_projection else nn.Identity()
        )
        self.attention_norm = nn.LayerNorm(hidden_size, eps=norm_epsilon)
        self.widen = nn.Linear(hidden_size, feedforward_size)
        self.narrow = nn.Linear(feedforward_size, hidden_size)
        self.feedforward_norm = nn.LayerNorm(hidden_size, eps=norm_epsilon)
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor, visible: Tensor | None, causal: bool) -> Tensor:
        """[B, L, D] to [B, L, D]; `visible` as made by the encoder."""
        result: Tensor
        match self.norm:
            case "pre":
                normed = self.attention_norm(states)
                states = states + self._attention(normed, normed, visible, causal)
                result = states + self._feedforward(self.feedforward_norm(states))
            case "post":
                attended = states + self._attention(states, states, visible, causal)
                normed = self.attention_norm(attended)
                result = self.feedforward_norm(normed + self._feedforward(normed))
            case "original":
                query = self.attention_norm(states)
                attended = query + self._attention(query, states, visible, causal)
                normed = self.feedforward_norm(attended)
                result = normed + self._feedforward(normed)
        return result

    def _attention(
        self, asking: Tensor, asked: Tensor, visible: Tensor | None, causal: bool
    ) -> Tensor:
        def heads(vectors: Tensor) -> Tensor:  # [B, L, D] to [B, H, L, D / H]
            return vectors.reshape(*vectors.shape[:2], self.num_heads, -1).transpose(1, 2)

        key, value = self.key_value(asked).chunk(2, dim=2)
        rate = self.attention_dropout if self.training else 0.0
        mixed = attend(
            heads(self.query(asking)),
            heads(key),
            heads(value),
            visible=visible,
            causal=causal,
            dropout_rate=rate,
        )
        added: Tensor = self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        return added

    def _feedforward(self, states: Tensor) -> Tensor:
        inner = self.dropout(_activate(self.widen(states), self.activation))
        added: Tensor = self.dropout(self.narrow(inner))
        return added


def _activate(values: Tensor, activation: Activation) -> Tensor:
    match activation:
        case "relu":
            return F.relu(values)
        case "gelu":
            return F.gelu(values)
        case "silu":
            return F.silu(values)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    visible: Tensor | None = None,
    causal: bool = False,
    dropout_rate: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention, by whichever kernel is fastest where it runs.

    Args:
        query, key, value: [B, H, L, K] float.
        visible: bool that broadcasts to [B, H, L, L], True where a query sees a key; it already
            holds the causal order. A query that sees nothing gets a mean of all values.
        causal: whether query t sees keys up to t; used when `visible` is `None`.
        dropout_rate: share of attention weights dropped.

    Returns:
        [B, H, L, K] float.
    """
    length = query.shape[2]
    in_the_open = query.device.type == "cpu" and query.requires_grad and length <= _OPEN_LENGTH
    if not in_the_open:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if visible is None else _bias(visible, query.dtype),
            is_causal=causal and visible is None,
            dropout_p=dropout_rate,
        )
    scale = query.shape[3] ** -0.5
    rows, heads = query.shape[:2]
    query, key, value = (vectors.flatten(0, 1) for vectors in (query, key, value))
    if visible is None and causal:
        order = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        scores = torch.baddbmm(_bias(order, query.dtype), query, key.mT, alpha=scale)
    else:
        scores = torch.bmm(query * scale, key.mT)  # [B * H, L, L]
        if visible is not None:
            scores = scores.view(rows, heads, length, length) + _bias(visible, scores.dtype)
            scores = scores.flatten(0, 1)
    weights = dropout(torch.softmax(scores, dim=-1), dropout_rate, training=True)
    return torch.bmm(weights, value).view(rows, heads, length, -1)


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where visible and the lowest number elsewhere; finite, so no row becomes NaN."""
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return bias.masked_fill_(~visible, torch.finfo(dtype).min / 2)
