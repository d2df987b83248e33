"""Writing tuples code by code: constrained beam search, and exact scores of a whole trie.

A writer gives log-probabilities of the next code; the trie says which codes lead to an item. What
the trie forbids is left out after the softmax, so an item's score is its log-probability as the
writer sees it, the same in a beam, alone, and in the full ranking.

Of equally good prefixes the one goes first that comes first in the trie, whatever the batch. Cost:
H steps of the writer on B x W prefixes, and a selection among B x W x C candidates each, C the
most children of a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tastemaker.content.trie import Closed, Trie

__all__ = ["Beams", "Writer", "beam_search", "free_beam_search", "score_all", "score_tuples"]


class Writer(Protocol):
    """A decoding under way, for B queries: it remembers the prefixes it was told."""

    def first(self) -> Tensor:
        """Log-probabilities of the first code, [B, 1, V] float."""
        ...

    def extend(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Log-probabilities of what follows W prefixes, each one before with one more code.

        Args:
            parents: [B, W] int64, which of the prefixes before each one continues.
            codes: [B, W] int64, the code it adds.

        Returns:
            [B, W, V] float.
        """
        ...


@dataclass(frozen=True)
class Beams:
    """The W best tuples of each query, best first.

    Attributes:
        items: [B, W] int64; -1 where there are fewer.
        scores: [B, W] float32 sums of log-probabilities; -inf where `items` is -1.
    """

    items: Tensor
    scores: Tensor


def beam_search(
    writer: Writer, trie: Trie, width: int, n_rows: int, closed: list[Closed] | None = None
) -> Beams:
    """The best items, keeping the `width` best prefixes at each level.

    A query gets min(width, items it may have) items, because every prefix that is kept leads to
    one. With a width of the whole trie the ranking is exact.

    Args:
        writer: about to write the first code.
        trie: what may be written; not empty.
        width: W.
        n_rows: B.
        closed: what queries may not enter (`Trie.closed_to`).
    """
    device = trie.items.device
    nodes = torch.zeros(n_rows, 1, dtype=torch.int64, device=device)
    scores = torch.zeros(n_rows, 1, device=device)
    log_probabilities = writer.first()
    for depth in range(trie.num_levels):
        found = trie.children(depth, nodes)
        added = found.scored(log_probabilities, None if closed is None else closed[depth])
        scores, places = _best((scores[:, :, None] + added).flatten(1), width)
        parents, nodes, codes = found.chosen(places)
        nodes.masked_fill_(scores == -torch.inf, -1)
        if depth + 1 < trie.num_levels:
            log_probabilities = writer.extend(parents, codes)
    items = trie.items[nodes.clamp(min=0)].masked_fill_(nodes < 0, -1)
    return Beams(items, scores)


def free_beam_search(
    writer: Writer, num_levels: int, width: int, n_rows: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The best tuples of any codes: [B, W, H] int64 and their scores [B, W] float32."""
    tuples = torch.zeros(n_rows, 1, 0, dtype=torch.int64, device=device)
    scores = torch.zeros(n_rows, 1, device=device)
    log_probabilities = writer.first()
    for depth in range(num_levels):
        size = log_probabilities.shape[2]
        candidates = (scores[:, :, None] + log_probabilities.float()).flatten(1)
        scores, places = _best(candidates, width)
        parents, codes = places.div(size, rounding_mode="floor"), places % size
        before = tuples.gather(1, parents[:, :, None].expand(-1, -1, depth))
        tuples = torch.cat([before, codes[:, :, None]], 2)
        if depth + 1 < num_levels:
            log_probabilities = writer.extend(parents, codes)
    return tuples, scores


def score_all(writer: Writer, trie: Trie, n_rows: int) -> Tensor:
    """The exact score of every leaf, [B, number of leaves] float32: the trie walked in full."""
    log_probabilities = writer.first()
    scores = torch.zeros(n_rows, 1, device=trie.items.device)
    for depth in range(trie.num_levels):
        parents = trie.parents[depth].expand(n_rows, -1)
        codes = trie.codes[depth].expand(n_rows, -1)
        of_parents = log_probabilities.flatten(1)
        added = of_parents.gather(1, parents * log_probabilities.shape[2] + codes)
        scores = scores.gather(1, parents) + added.float()
        if depth + 1 < trie.num_levels:
            log_probabilities = writer.extend(parents, codes)
    return scores


def score_tuples(writer: Writer, tuples: Tensor) -> Tensor:
    """The scores of given tuples [B, C, H] int64 (teacher forcing), [B, C] float32."""
    n_rows, n_tuples, n_levels = tuples.shape
    log_probabilities = writer.first().expand(-1, n_tuples, -1)
    scores = torch.zeros(n_rows, n_tuples, device=tuples.device)
    parents = torch.zeros(n_rows, n_tuples, dtype=torch.int64, device=tuples.device)
    for depth in range(n_levels):
        codes = tuples[:, :, depth]
        scores = scores + log_probabilities.float().gather(2, codes[:, :, None]).squeeze(2)
        if depth + 1 < n_levels:
            log_probabilities = writer.extend(parents, codes)
            parents = torch.arange(n_tuples, device=tuples.device).expand(n_rows, -1)
    return scores


def _best(candidates: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The `width` largest of each row, fewer when rows are shorter; equal ones in their order."""
    width = min(width, candidates.shape[1])
    values, places = candidates.topk(min(width + 1, candidates.shape[1]), dim=1)
    tied = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)
    rows = tied.any(1).nonzero().squeeze(1)
    values, places = values[:, :width], places[:, :width]
    if len(rows):
        ordered = candidates[rows].sort(dim=1, descending=True, stable=True)
        values, places = values.clone(), places.clone()
        values[rows], places[rows] = ordered.values[:, :width], ordered.indices[:, :width]
    return values, places
