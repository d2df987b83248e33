"""T5-style Transformer blocks: relative positions, RMSNorm before each part, no biases.

Paper: "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (T5),
JMLR 2020, arXiv 1910.10683; RMSNorm: NeurIPS 2019, arXiv 1910.07467. One `Stack` serves as
encoder, as decoder with attention to a memory, or as a decoder alone; who sees whom is an additive
bias that the caller makes once per pass. `Continuation` extends a stack by one position at a time
for many beams of the same row: what all beams share (the memory, or a decoder's own past) is kept
once per row, and only what a beam wrote itself is reordered.

What we changed: attention scores are divided by sqrt(head size), where T5 starts its weights
smaller instead; relative positions may also enter the attention to the memory, because behind a
causal encoder nothing else tells which event was the last.

Cost per block: O(B L D (D + F) + B H L S) time for S keys; memory O(B H L S) in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tastemaker.layers.dropout import Dropout, dropout

__all__ = ["Continuation", "KeysValues", "RMSNorm", "RelativeBias", "Stack", "hidden_bias"]

_MASKED = -1e9  # finite, so that a row which sees nothing does not become NaN


class RMSNorm(nn.Module):
    """Divides vectors by their root mean square and scales them; computed in float32."""

    def __init__(self, width: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, values: Tensor) -> Tensor:
        """[..., D] float to [..., D] of the type that linear layers compute in here."""
        kind = values.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype
        given = (values.float(), self.gain, self.epsilon)
        if not torch.is_grad_enabled():
            return _normed(*given)[0].to(dtype)
        result: Tensor = _RootMeanSquare.apply(*given, dtype)  # type: ignore[no-untyped-call]
        return result


def _normed(values: Tensor, gain: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The normed values [..., D] and what they were multiplied by before the gain, [..., 1]."""
    length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    scale = length.square_().div_(values.shape[-1]).add_(epsilon).rsqrt_()
    return (values * scale).mul_(gain), scale


class _RootMeanSquare(torch.autograd.Function):
    """A third of the time of the composite on the CPU: fewer passes over memory."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, gain: Tensor, epsilon: float, dtype: torch.dtype
    ) -> Tensor:
        normed, scale = _normed(values, gain, epsilon)
        ctx.save_for_backward(values, gain, scale)
        return normed.to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, gain, scale = ctx.saved_tensors
        width = values.shape[-1]
        gradient, normed = gradient.float(), values * scale
        product = gradient * normed
        of_gain = product.reshape(-1, width).sum(0)
        along = (product @ gain).unsqueeze(-1).div_(-width)
        back = (gradient * gain).addcmul_(normed, along).mul_(scale)
        return back, of_gain, None, None


class RelativeBias(nn.Module):
    """A learned number per head for how far a key stands from a query, in buckets (T5, sec. 2.1).

    Half of the buckets are exact distances, the others grow to `max_distance`.

    Args:
        num_heads: H.
        two_sided: whether keys behind the query have buckets of their own; otherwise they share
            that of distance 0.
        num_buckets: in all.
        max_distance: from which on distances are one.
    """

    table: Tensor  # [2 * max_distance + 1] int64, the bucket of every nearer offset

    def __init__(
        self, num_heads: int, *, two_sided: bool, num_buckets: int = 32, max_distance: int = 128
    ) -> None:
        super().__init__()
        self.two_sided, self.num_buckets, self.max_distance = two_sided, num_buckets, max_distance
        self.weight = nn.Parameter(torch.zeros(num_buckets, num_heads))
        every = torch.arange(-max_distance, max_distance + 1)
        self.register_buffer("table", self.buckets(every), persistent=False)

    def forward(self, offsets: Tensor) -> Tensor:
        """Key position minus query position, [..., Lq, Lk] int64, to [..., H, Lq, Lk] float."""
        far = self.max_distance
        return self.weight[self.table[offsets.clamp(-far, far) + far]].movedim(-1, -3)

    def buckets(self, offsets: Tensor) -> Tensor:
        """The bucket of each offset, int64."""
        num_buckets = self.num_buckets // 2 if self.two_sided else self.num_buckets
        base = (offsets > 0) * num_buckets if self.two_sided else torch.zeros_like(offsets)
        distance = offsets.abs() if self.two_sided else (-offsets).clamp(min=0)
        exact = num_buckets // 2
        growth = math.log(self.max_distance / exact)
        share = torch.log(distance.clamp(min=1).float() / exact) / growth
        far = (exact + share * (num_buckets - exact)).long().clamp(max=num_buckets - 1)
        return base + torch.where(distance < exact, distance, far)


def hidden_bias(visible: Tensor) -> Tensor:
    """0 where a query sees a key and a very low number elsewhere; bool to float32."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, _MASKED)


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of attention, [B, H, S, K] float each."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Shared:
    """What all beams of a row see at the position that is added.

    Attributes:
        by: keys and values.
        bias: [B, H or 1, 1, S], added to the scores.
    """

    by: KeysValues
    bias: Tensor


@dataclass(frozen=True)
class Written:
    """What each beam wrote, the position that is added included.

    Attributes:
        keys_values: [B, W, h, 2 * H * K].
        bias: [H, h], added to the scores.
    """

    keys_values: Tensor
    bias: Tensor


class Attention(nn.Module):
    """Multi-head attention without biases; the heads' width need not be that of the model."""

    def __init__(
        self, hidden_size: int, num_heads: int, head_size: int, dropout_rate: float
    ) -> None:
        super().__init__()
        inner = num_heads * head_size
        self.num_heads, self.dropout_rate = num_heads, dropout_rate
        self.query = nn.Linear(hidden_size, inner, bias=False)
        self.key_value = nn.Linear(hidden_size, 2 * inner, bias=False)
        self.output = nn.Linear(inner, hidden_size, bias=False)

    def heads(self, vectors: Tensor) -> Tensor:
        """[B, L, H * K] to [B, H, L, K]."""
        return vectors.view(*vectors.shape[:2], self.num_heads, -1).transpose(1, 2)

    def keys_values(self, states: Tensor) -> KeysValues:
        """What queries will meet of states [B, S, D]."""
        keys, values = self.key_value(states).chunk(2, dim=2)
        return KeysValues(self.heads(keys), self.heads(values))

    def forward(self, states: Tensor, seen: KeysValues, bias: Tensor) -> Tensor:
        """[B, L, D] queries over S keys; bias [B or 1, H or 1, L, S]. Returns [B, L, D]."""
        query = self.heads(self.query(states))
        rows, heads, length, size = query.shape
        if not torch.is_grad_enabled():
            mixed = F.scaled_dot_product_attention(
                query, seen.keys, seen.values, attn_mask=bias.to(query.dtype)
            )
        else:
            flat = (query * size**-0.5).flatten(0, 1)
            scores = torch.bmm(flat, seen.keys.flatten(0, 1).mT).view(rows, heads, length, -1)
            weights = torch.softmax(scores + bias.to(scores.dtype), dim=-1)
            weights = dropout(weights, self.dropout_rate, training=self.training)
            mixed = torch.bmm(weights.flatten(0, 1), seen.values.flatten(0, 1))
            mixed = mixed.view(rows, heads, length, size)
        result: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return result

    def extend(self, states: Tensor, own: Written | None, shared: Shared | None) -> Tensor:
        """One new position of W beams each.

        Args:
            states: [B, W, D] of the new positions.
            own: what each beam wrote.
            shared: what all beams of a row see.

        Returns:
            [B, W, D].
        """
        rows, width = states.shape[:2]
        query = self.query(states).view(rows, width, self.num_heads, -1)
        if own is not None:
            split = (*own.keys_values.shape[:3], 2, self.num_heads, -1)
            keys, values = own.keys_values.view(split).unbind(3)
            near = (query[:, :, None] * keys).sum(4).mul_(self._scale) + own.bias.T  # [B, W, h, H]
        if shared is None:
            weights = torch.softmax(near, dim=2).to(query.dtype)
            mixed = (weights[..., None] * values).sum(2)  # [B, W, H, K]
        elif own is None:
            bias = shared.bias.to(query.dtype).expand(-1, -1, width, -1)
            mixed = F.scaled_dot_product_attention(
                query.transpose(1, 2), shared.by.keys, shared.by.values, attn_mask=bias
            ).transpose(1, 2)
        else:
            n_shared = shared.by.keys.shape[2]
            far = torch.baddbmm(
                shared.bias.to(query.dtype).expand(-1, self.num_heads, -1, -1).flatten(0, 1),
                query.transpose(1, 2).flatten(0, 1),
                shared.by.keys.flatten(0, 1).mT,
                alpha=self._scale,
            ).view(rows, self.num_heads, width, -1)  # [B, H, W, S]
            scores = torch.cat([far, near.permute(0, 3, 1, 2)], 3)
            weights = torch.softmax(scores, dim=3).to(query.dtype)
            mixed = (weights[..., :n_shared] @ shared.by.values).transpose(1, 2)
            weights = weights[..., n_shared:].permute(0, 2, 3, 1)  # [B, W, h, H]
            mixed = mixed + (weights[..., None] * values).sum(2)
        result: Tensor = self.output(mixed.flatten(2))
        return result

    @property
    def _scale(self) -> float:
        return float((self.query.out_features // self.num_heads) ** -0.5)


class Block(nn.Module):
    """Self-attention, attention to a memory where there is one, and a ReLU feed-forward part."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        head_size: int,
        feedforward_size: int,
        *,
        memory: bool,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        sizes = (hidden_size, num_heads, head_size, attention_dropout)
        self.attention_norm = RMSNorm(hidden_size)
        self.attention = Attention(*sizes)
        self.memory_norm = RMSNorm(hidden_size) if memory else None
        self.memory_attention = Attention(*sizes) if memory else None
        self.feedforward_norm = RMSNorm(hidden_size)
        self.widen = nn.Linear(hidden_size, feedforward_size, bias=False)
        self.narrow = nn.Linear(feedforward_size, hidden_size, bias=False)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        states: Tensor,
        bias: Tensor,
        memory: Tensor | None,
        memory_bias: Tensor | None,
        keep: list[KeysValues] | None,
        at: Tensor | None,
    ) -> Tensor:
        """[B, L, D] to [B, L, D], or [B, 1, D] of the positions `at`; arguments as of the stack."""
        normed = self.attention_norm(states)
        seen = self.attention.keys_values(normed)
        if keep is not None:
            keep.append(KeysValues(seen.keys.contiguous(), seen.values.contiguous()))
        if at is not None:
            rows = torch.arange(len(states), device=states.device)
            states, normed = states[rows, at][:, None], normed[rows, at][:, None]
            bias = bias.expand(len(rows), -1, -1, -1)[rows, :, at][:, :, None]  # [B, H or 1, 1, L]
        states = states + self.dropout(self.attention(normed, seen, bias))
        if self.memory_attention is not None and self.memory_norm is not None:
            assert memory is not None
            normed, seen = self.memory_norm(states), self.memory_attention.keys_values(memory)
            states = states + self.dropout(self.memory_attention(normed, seen, memory_bias))
        return states + self._feedforward(states)

    def extend(
        self,
        states: Tensor,
        before: Tensor | None,
        origins: Tensor | None,
        own_bias: Tensor,
        shared: Shared,
    ) -> tuple[Tensor, Tensor]:
        """One new position of W beams each, [B, W, D].

        Args:
            states: [B, W, D].
            before: keys and values of what the beams before wrote, [B, W', h - 1, 2 * H * K].
            origins: [B * W] int64, which of the B * W' beams before each one continues.
            own_bias: as of `Continuation`.
            shared: what all beams of a row see.

        Returns:
            [B, W, D], and [B, W, h, 2 * H * K] of what the beams wrote, this position included.
        """
        normed = self.attention_norm(states)
        written = self.attention.key_value(normed)[:, :, None]
        if before is not None and origins is not None:
            kept = before.flatten(0, 1).index_select(0, origins)
            written = torch.cat([kept.view(*states.shape[:2], *kept.shape[1:]), written], 2)
        own = Written(written, own_bias)
        if self.memory_attention is None or self.memory_norm is None:
            states = states + self.attention.extend(normed, own, shared)
        else:
            states = states + self.attention.extend(normed, own, None)
            normed = self.memory_norm(states)
            states = states + self.memory_attention.extend(normed, None, shared)
        return states + self._feedforward(states), written

    def _feedforward(self, states: Tensor) -> Tensor:
        inner = self.dropout(F.relu(self.widen(self.feedforward_norm(states)), inplace=True))
        added: Tensor = self.dropout(self.narrow(inner))
        return added


class Stack(nn.Module):
    """Blocks over one sequence of vectors, and a final norm.

    Args:
        hidden_size: width D.
        num_layers: blocks.
        num_heads: H.
        head_size: K, the width of a head; H * K may differ from D.
        feedforward_size: inner width F.
        memory: whether blocks also attend to a memory.
        dropout: share of entries dropped from what each part adds, and of the feed-forward part's
            inner entries.
        attention_dropout: share of attention weights dropped.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        head_size: int,
        feedforward_size: int,
        *,
        memory: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(
                hidden_size,
                num_heads,
                head_size,
                feedforward_size,
                memory=memory,
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
            for _ in range(num_layers)
        )
        self.final_norm = RMSNorm(hidden_size)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        inputs: Tensor,
        bias: Tensor,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
        *,
        keep: list[KeysValues] | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Run the blocks.

        Args:
            inputs: [B, L, D] float.
            bias: [B or 1, H or 1, L, L], added to the scores of self-attention.
            memory: [B, S, D] float, of a stack with memory.
            memory_bias: [B or 1, H or 1, L, S], added to the scores of attention to it.
            keep: takes the keys and values of every block's self-attention.
            at: [B] int64, of a stack without memory, the only position of each row whose state is
                asked for; the last block computes no other.

        Returns:
            [B, L, D] float, or [B, 1, D] of the positions `at`.
        """
        states, last = self.dropout(inputs), len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            states = block(states, bias, memory, memory_bias, keep, at if number == last else None)
        final: Tensor = self.dropout(self.final_norm(states))
        return final

    @property
    def chain(self) -> list[Block]:
        """The blocks, in order."""
        return cast("list[Block]", list(self.blocks))

    def memory_keys_values(self, memory: Tensor) -> list[KeysValues]:
        """The keys and values of a memory [B, S, D] in every block of a stack with memory."""
        return [
            block.memory_attention.keys_values(memory)
            for block in self.chain
            if block.memory_attention is not None
        ]


@dataclass
class Continuation:
    """A stack in evaluation, extended one position at a time, W beams a row.

    Attributes:
        stack: whose blocks run. With a memory, `shared` are the memory's keys and values; without,
            they are those of the row's own past, kept by `Stack.forward`.
        shared: of every block.
        written: keys and values of what the beams wrote, of every block, [B, W, h, 2 * H * K].
    """

    stack: Stack
    shared: list[KeysValues]
    written: list[Tensor] = field(default_factory=list)

    def extend(
        self, inputs: Tensor, parents: Tensor | None, own_bias: Tensor, shared_bias: Tensor
    ) -> Tensor:
        """Add one position to each of W beams.

        Args:
            inputs: [B, W, D] float.
            parents: [B, W] int64, which of the beams before each one continues; `None` at the
                first position.
            own_bias: [H, h] for the positions of a beam, h with the new one.
            shared_bias: [B, H or 1, 1, S] for what all beams of a row share.

        Returns:
            [B, W, D] float, the states at the new positions.
        """
        states, origins = inputs, None
        before: list[Tensor | None] = [*self.written] or [None] * len(self.shared)
        if parents is not None and self.written:
            first = torch.arange(len(parents), device=parents.device) * self.written[0].shape[1]
            origins = (parents + first[:, None]).flatten()
        self.written = []
        for block, past, by in zip(self.stack.chain, before, self.shared, strict=True):
            states, behind = block.extend(states, past, origins, own_bias, Shared(by, shared_bias))
            self.written.append(behind)
        final: Tensor = self.stack.final_norm(states)
        return final
