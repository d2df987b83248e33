"""Attention without a softmax: every key has a weight of its own, moved by distance and time.

From "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", ICML 2024, arXiv 2402.17152; code meta-recsys/generative-recommenders. Query i
weighs key j by SiLU(q_i . k_j + position[distance] + time[bucket of the gap between them]). Weights
do not compete for a total of one, so they can say how strong an interest is, and leaving a key out
is the same as never having had it.

What we changed: only distances that causal order allows have a weight. Scores are computed in
blocks of query rows, backwards once more, so nothing of size L x L is kept but the bucket numbers
(where they are few), which all layers share.

Cost: O(B H L^2 (K + V)) time, half of it saved by the causal order; O(B H L (K + V)) memory, a
block, and four bytes a pair for the buckets while there are few pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["N_TIME_BUCKETS", "TimeGaps", "pointwise_attention", "time_buckets"]

N_TIME_BUCKETS = 129
_BUCKET_WIDTH = 0.301  # of the natural logarithm: buckets grow by 1.35 (reference code)

# Scores in a block of query rows: on the CPU, more than fit its caches take longer.
_BLOCK = {"cpu": 1 << 21}
_GPU_BLOCK = 1 << 24
_WIDTHS = 8  # numbers of keys that blocks may have: kernels are made anew for every shape
_KEPT_PAIRS = 1 << 26  # bucket numbers that are kept; beyond it they are made again in each layer


def time_buckets(asking: Tensor, asked: Tensor) -> Tensor:
    """Buckets of the time gaps: floor(ln(max(|gap|, 1)) / 0.301), at most 128.

    Gaps are taken before anything is rounded: seconds since 1970 do not fit a float32.

    Args:
        asking: [B, M] int64 or float64 seconds, the times of queries.
        asked: [B, L] of the same type, the times of keys.

    Returns:
        [B, M, L] int32.
    """
    gaps = (asking[:, :, None] - asked[:, None, :]).abs_().clamp_(min=1).float()
    return gaps.log_().div_(_BUCKET_WIDTH).clamp_(max=N_TIME_BUCKETS - 1).int()


@dataclass(frozen=True)
class TimeGaps:
    """The times of queries and keys, as buckets of their gaps where they are asked for.

    Attributes:
        asking: [B, M] int64 or float64 seconds.
        asked: [B, L] of the same type.
    """

    asking: Tensor
    asked: Tensor
    _made: dict[tuple[int, int, int], Tensor] = field(default_factory=dict, repr=False)

    def buckets(self, start: int, stop: int, n_keys: int) -> Tensor:
        """[B, stop - start, n_keys] int32, of some queries and the first keys."""
        block = start, stop, n_keys
        if block in self._made:
            return self._made[block]
        made = time_buckets(self.asking[:, start:stop], self.asked[:, :n_keys])
        if self.asking.numel() * self.asked.shape[1] <= _KEPT_PAIRS:
            self._made[block] = made
        return made


def pointwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position: Tensor,
    *,
    time: Tensor | None = None,
    gaps: TimeGaps | None = None,
    first: int = 0,
    places: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Sum of `scale` SiLU(q_i . k_j + bias_ij) v_j over the keys j that query i sees.

    The bias is `position` of the distance between query and key, plus `time` of the bucket of the
    gap between them.

    Args:
        query: [B, H, M, K] float.
        key: [B, H, L, K] float.
        value: [B, H, L, V] float.
        position: [n] float, a weight for each distance, shared by the heads.
        time: [129] float, a weight for each bucket; needs `gaps`.
        gaps: times of the M queries and L keys.
        first: where the first query stands among the keys; query i sees its own key, first + i,
            and those before. Used when there are no `places`.
        places: [B, M] int64 in 0..L, where each query stands; it sees the keys before alone. [B, 1]
            when all queries of a row stand there and, with `gaps` of as many, ask at one time.
        scale: of the sum, one over the longest length.

    Returns:
        [B, H, M, V] in the type of `query`.
    """
    result: Tensor = _PointwiseAttention.apply(  # type: ignore[no-untyped-call]
        query.flatten(0, 1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        position,
        time,
        _Sight(query.shape[1], first, places, gaps),
        scale,
    )
    return result.view(*query.shape[:3], value.shape[3])


class _PointwiseAttention(torch.autograd.Function):
    """In blocks of query rows; the backward pass computes a block's scores again.

    Blocks use the same memory one after another: fresh memory costs more than the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        position: Tensor,
        time: Tensor | None,
        sight: _Sight,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, position, time)
        ctx.sight, ctx.scale = sight, scale
        mixed = value.new_empty(*query.shape[:2], value.shape[2])
        with torch.autocast(query.device.type, enabled=False):
            for rows, seen, memory in sight.blocks(query, key, query.dtype):
                scores = sight.scores(query, key, position, time, rows, seen, memory[0])
                mixed[:, rows] = F.silu(scores, inplace=True) @ value[:, :seen]
        return mixed.mul_(scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, position, time = ctx.saved_tensors
        sight: _Sight = ctx.sight
        wide = torch.promote_types(query.dtype, torch.float32)  # of what blocks are summed in
        by_query = torch.empty_like(query)
        by_key, by_value = (torch.zeros_like(part, dtype=wide) for part in (key, value))
        by_position = torch.zeros_like(position, dtype=wide)
        by_time = None if time is None else torch.zeros_like(time, dtype=wide)
        gradient = gradient.to(query.dtype) * ctx.scale
        kinds = (query.dtype, query.dtype, wide)
        for rows, seen, (scores, weights, by_bias) in sight.blocks(query, key, *kinds):
            sight.scores(query, key, position, time, rows, seen, scores)
            torch.sigmoid(scores, out=weights).mul_(scores)  # SiLU
            by_value[:, :seen] += weights.mT @ gradient[:, rows]
            by_scores = torch.bmm(gradient[:, rows], value[:, :seen].mT, out=weights)
            torch.ops.aten.silu_backward.grad_input(by_scores, scores, grad_input=by_scores)
            by_query[:, rows] = by_scores @ key[:, :seen]
            by_key[:, :seen] += by_scores.mT @ query[:, rows]
            by_bias = sight.sum_of_heads(by_scores, by_bias)
            sight.add_position_gradient(by_position, by_bias, rows)
            if by_time is not None:
                buckets = sight.buckets(rows, seen).flatten()
                by_time += torch.bincount(buckets, by_bias.flatten(), N_TIME_BUCKETS)
        found = (by_query, by_key, by_value, by_position, by_time)
        return (
            *(
                None if own is None or asked is None else own.to(asked.dtype)
                for own, asked in zip(found, ctx.saved_tensors, strict=True)
            ),
            None,
            None,
        )


@dataclass(frozen=True)
class _Sight:
    """Which keys queries see, and what lies between; heads are folded into rows, B * H of them."""

    heads: int
    first: int
    places: Tensor | None
    gaps: TimeGaps | None

    @property
    def together(self) -> bool:
        """Whether all queries of a row stand at one place."""
        return self.places is not None and self.places.shape[1] == 1

    def blocks(
        self, query: Tensor, key: Tensor, *kinds: torch.dtype
    ) -> Iterator[tuple[slice, int, list[Tensor]]]:
        """Blocks of queries of nearly equal size, each with the number of keys it may see.

        With every block comes memory for [B * H, rows, seen] numbers of each of the kinds.
        """
        asking, asked = query.shape[1], key.shape[1]
        pairs = len(query) * asking * asked
        count = max(1, -(-pairs // _BLOCK.get(query.device.type, _GPU_BLOCK)))
        step = max(1, -(-asking // count))
        unit = -(-asked // _WIDTHS)
        size = len(query) * step * asked
        memory = [torch.empty(size, dtype=kind, device=query.device) for kind in kinds]
        for start in range(0, asking, step):
            rows = slice(start, min(start + step, asking))
            seen = asked
            if self.places is None:
                seen = min(-(-(self.first + rows.stop) // unit) * unit, asked)
            shape = len(query), rows.stop - rows.start, seen
            yield rows, seen, [part[: math.prod(shape)].view(shape) for part in memory]

    def scores(
        self,
        query: Tensor,
        key: Tensor,
        position: Tensor,
        time: Tensor | None,
        rows: slice,
        seen: int,
        scores: Tensor,
    ) -> Tensor:
        """Fill [B * H, rows, seen]: products of queries and keys plus the bias that heads share.

        SiLU and its slope are zero at the lowest numbers, which hidden keys get.
        """
        bias = self._position_bias(position.to(query.dtype), rows, seen)
        if time is not None:
            buckets = self.buckets(rows, seen)
            own = scores if scores.shape == buckets.shape else scores.new_empty(buckets.shape)
            torch.index_select(time.to(query.dtype), 0, buckets.flatten(), out=own.view(-1))
            bias = own.add_(bias)
        asking, asked = query[:, rows], key[:, :seen].mT
        if bias.ndim == 2 or self.heads == 1:
            return torch.baddbmm(bias, asking, asked, out=scores)
        torch.bmm(asking, asked, out=scores)
        self._by_row(scores).add_(bias[:, None])
        return scores

    def buckets(self, rows: slice, seen: int) -> Tensor:
        """[B, rows, seen] int32 buckets of the time gaps; one row for all that stand together."""
        assert self.gaps is not None
        rows = slice(0, 1) if self.together else rows
        return self.gaps.buckets(rows.start, rows.stop, seen)

    def sum_of_heads(self, by_scores: Tensor, memory: Tensor) -> Tensor:
        """The gradient of the bias, [B, rows, seen] or [B, 1, seen] when all stand together."""
        first, *others = self._by_row(by_scores).unbind(1)
        total = memory[: len(first)].copy_(first)
        for other in others:
            total += other
        return total.sum(1, keepdim=True) if self.together else total

    def _by_row(self, scores: Tensor) -> Tensor:
        """[B * H, ...] as [B, H, ...], the same memory."""
        return scores.view(len(scores) // self.heads, self.heads, *scores.shape[1:])

    def _position_bias(self, position: Tensor, rows: slice, seen: int) -> Tensor:
        """[rows, seen], or [B, rows, seen] with places."""
        first, count, nearest = self._table(rows, seen)
        # Row i holds the distances first + i - j: a window that moves along one line of weights.
        low = first - seen + 1
        line = position[max(low, nearest) : first + count]
        hidden = max(nearest - low, 0)
        line = F.pad(line, (hidden, 0), value=torch.finfo(position.dtype).min / 2)
        table = line.unfold(0, seen, 1).flip(1)
        return table if self.places is None else F.embedding(self._places(rows), table)

    def add_position_gradient(self, by_position: Tensor, by_bias: Tensor, rows: slice) -> None:
        """Add to the gradient [n] of the position weights that of the bias [B, rows, seen]."""
        seen = by_bias.shape[2]
        first, count, nearest = self._table(rows, seen)
        if self.places is None:
            by_table = by_bias.sum(0)
        else:
            by_table = by_bias.new_zeros(count, seen)
            by_table.index_add_(0, self._places(rows).flatten(), by_bias.flatten(0, 1))
        # Sums along diagonals: rows that are one too wide shift by one each when read as a line.
        width = count + seen - 1
        line = F.pad(by_table.flip(1), (0, count)).flatten()[: count * width]
        low = first - seen + 1
        sums = line.view(count, width).sum(0)[max(nearest - low, 0) :]
        by_position[max(low, nearest) : first + count] += sums

    def _places(self, rows: slice) -> Tensor:
        assert self.places is not None
        return self.places if self.together else self.places[:, rows]

    def _table(self, rows: slice, seen: int) -> tuple[int, int, int]:
        """The first place of a table of distances, its number of places, the least distance."""
        if self.places is not None:
            return 0, seen + 1, 1
        return self.first + rows.start, rows.stop - rows.start, 0
