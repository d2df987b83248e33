"""Softmax losses over a catalog: full, chunked (never more than a chunk of logits) and sampled.

All take T states with their target items and return the mean of -log p(target | state). A score is
the dot product of a state and an item's row (their cosine with `cosine`), divided by
`temperature`, plus the item's bias. Under autocast the products run in the lower precision and
everything that accumulates in float32.

The chunked form follows "Cut Your Losses in Large-Vocabulary Language Models" (ICLR 2025, arXiv
2411.09009) and Liger's fused linear cross entropy (arXiv 2410.10989): a mean loss knows its
gradient as soon as it knows its probabilities, so one pass over the chunks computes the loss and
both gradients, and no logit is written to memory twice or computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["candidate_scores", "chunked_softmax", "full_softmax", "sampled_softmax"]

_ROW_STEP = 64  # rows of a chunk are padded to a multiple of it
_CHUNK = 1 << 22  # logits held at once: large enough for the matrix units, small enough for cache
_BLOCK = 1 << 16  # items whose gradients are added at once, out of cache


def full_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    cosine: bool = False,
) -> Tensor:
    """Cross-entropy over all items with all T x N logits in memory: the plain form.

    Args:
        states: [T, D] float.
        table: [N, D] float, one row an item.
        targets: [T] int64 item codes.
        bias: [N] float added to the scores.
        temperature: divides the dot products.
        cosine: whether states and rows are scaled to length one first.

    Returns:
        Scalar mean loss, float32 (float64 for float64 input).
    """
    states, table = _comparable(states, table, temperature, cosine)
    logits = states @ table.T
    if bias is not None:
        logits = logits + bias
    return F.cross_entropy(_widened(logits), targets)


def chunked_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    cosine: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """The same value and gradients as `full_softmax`, holding a chunk of logits at a time.

    A chunk holds whole rows of N logits, at least one. Each chunk reads and writes tensors of the
    table's size, so few rows a chunk are slow. Time and memory besides: 6 T N D operations with
    gradients, one float32 [N, D]. A target whose probability underflows reads as
    a loss of 87 (its gradient is right). Gradients of gradients are not available.

    Args:
        states, table, targets, bias, temperature, cosine: as in `full_softmax`.
        chunk: logits in memory at once; by default four million, or 64 rows where that is more.
    """
    states, table = _comparable(states, table, temperature, cosine)
    rows = max(_ROW_STEP, _CHUNK // len(table)) if chunk is None else max(1, chunk // len(table))
    loss: Tensor = _ChunkedSoftmax.apply(states, table, targets, bias, rows)  # type: ignore[no-untyped-call]
    return loss


def candidate_scores(
    states: Tensor,
    table: Tensor,
    items: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    cosine: bool = False,
) -> Tensor:
    """Scores of chosen items at every position: targets, or negatives shared at any level.

    Args:
        states: [B, L, D] float.
        table: [N, D] float.
        items: int64, [S] shared by all, [B, S] by the positions of a row, or [B, L, S].
        bias, temperature, cosine: as in `full_softmax`.

    Returns:
        [B, L, S] float32 (float64 for float64 input).
    """
    states, rows = _comparable(states, F.embedding(items, table), temperature, cosine)
    own_rows = items.ndim == 3  # one state against rows of its own
    scores = (rows @ states[:, :, :, None]).squeeze(3) if own_rows else states @ rows.mT
    scores = _widened(scores)
    if bias is None:
        return scores
    added = bias[items]
    return scores + (added[:, None] if items.ndim == 2 else added)


def sampled_softmax(
    positive: Tensor,
    negatives: Tensor,
    *,
    hits: Tensor | None = None,
    positive_log_q: Tensor | None = None,
    negative_log_q: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each target against its sampled negatives only.

    With the log probabilities of having been drawn, scores are corrected by them (Bengio and
    Senecal, IEEE TNN 2008): the gradient then estimates the full softmax's. Constants cancel, so
    uniform negatives need none.

    Args:
        positive: [T] float scores of the targets.
        negatives: [T, S] float scores of their negatives.
        hits: [T, S] bool, negatives to leave out because they are the target.
        positive_log_q: [T] or scalar float, log probability of drawing each target.
        negative_log_q: [T, S] or [S] float, the same of the negatives.

    Returns:
        Scalar mean loss.
    """
    if positive_log_q is not None:
        positive = positive - positive_log_q
    if negative_log_q is not None:
        negatives = negatives - negative_log_q
    if hits is not None:
        negatives = negatives.masked_fill(hits, -torch.inf)
    return F.softplus(negatives.logsumexp(1) - positive).mean()


def _comparable(
    states: Tensor, table: Tensor, temperature: float, cosine: bool
) -> tuple[Tensor, Tensor]:
    """States and rows whose dot products are the scores."""
    if cosine:
        states, table = F.normalize(states, dim=-1), F.normalize(table, dim=-1)
    return (states / temperature if temperature != 1.0 else states), table


def _widened(values: Tensor) -> Tensor:
    """Half precision as float32; everything else as it is."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


class _ChunkedSoftmax(torch.autograd.Function):
    """Mean cross-entropy whose forward pass leaves the gradients behind."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, table: Tensor, targets: Tensor, bias: Tensor | None, rows: int
    ) -> Tensor:
        device = states.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        learns = any(ctx.needs_input_grad)
        with torch.autocast(device, enabled=False):
            loss, gradients = _loss_and_gradients(
                states.detach(), table.detach(), targets, bias, rows, narrow, learns
            )
        ctx.save_for_backward(*gradients)
        ctx.dtypes = states.dtype, table.dtype, None if bias is None else bias.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, table, *bias = (
            (saved * gradient).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=False)
        )
        return states, table, None, bias[0] if bias else None, None


def _loss_and_gradients(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    rows: int,
    narrow: torch.dtype | None,
    learns: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The mean loss, and its gradients by states, table and bias when `learns`."""
    count, n_items = len(states), len(table)
    wide = torch.float64 if states.dtype == torch.float64 else torch.float32
    # Zero rows round the count up: kernels compiled per shape then meet few shapes.
    step = _ROW_STEP if rows >= _ROW_STEP else 1
    padded, rows = -(-count // step) * step, rows // step * step
    inputs = F.pad(states.to(narrow or states.dtype), (0, 0, 0, padded - count))
    chosen = F.pad(targets, (0, padded - count))
    weights = table.to(inputs.dtype)
    losses = torch.empty(padded, dtype=wide, device=states.device)
    by_states = torch.empty(
        padded if learns else 0, states.shape[1], dtype=wide, device=losses.device
    )
    by_table = torch.zeros(states.shape[1], n_items, dtype=wide, device=losses.device)  # transposed
    by_bias = None if bias is None else torch.zeros(n_items, dtype=wide, device=losses.device)
    blocks = [slice(at, at + _BLOCK) for at in range(0, n_items, _BLOCK)]
    buffer = inputs.new_empty(min(rows, padded), n_items)
    second = torch.empty_like(buffer)
    for start in range(0, padded, rows):
        some = slice(start, min(start + rows, padded))
        part = inputs[some]
        logits, probabilities = buffer[: len(part)], second[: len(part)]
        torch.mm(part, weights.T, out=logits)
        if bias is not None:
            logits += bias
        torch.softmax(logits, 1, out=probabilities)
        losses[some] = probabilities.gather(1, chosen[some, None]).squeeze(1)
        if learns:
            by_states[some] = probabilities @ weights
            for block in blocks:
                by_table[:, block] += part.T @ probabilities[:, block]
            if by_bias is not None:
                by_bias += probabilities[: count - start].sum(0, dtype=wide)
        del logits, probabilities  # views, which keep the buffers
    del buffer, second, weights  # before the table's gradient is copied
    losses = losses[:count]
    loss = -losses.clamp_min_(torch.finfo(wide).tiny).log_().mean()
    if not learns:
        return loss, []
    by_states = (by_states[:count] - table[targets]) / count
    by_table = by_table.T.contiguous()
    by_table = by_table.index_add_(0, targets, states.to(wide), alpha=-1).div_(count)
    gradients = [by_states, by_table]
    if by_bias is not None:
        ones = torch.ones_like(losses)
        gradients.append(by_bias.index_add_(0, targets, ones, alpha=-1).div_(count))
    return loss, gradients
