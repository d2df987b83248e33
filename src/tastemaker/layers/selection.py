"""Top-k selection over scores: exact, fast on wide rows, ties broken by a documented rule.

Equal scores are ordered by a pseudo-random permutation of the catalog, one for each query: the
same for a query alone and in any batch, and different from query to query. A constant scorer
therefore gets the metrics of a random order, neither those of the catalog's order nor of a lucky
one. The permutation can be walked from its start, so the first few of many equal items are found
without looking at all of them.

On a CPU this takes about one pass over the scores, and ties add little to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["tie_order", "top_k"]

_BLOCK = 16  # columns per block maximum: wide enough to shrink the row, narrow enough to gather
_SPARE = 8  # entries looked at beyond k: ties that end among them need no walk
_ROUNDS = 4  # of the permutation; three leave traces of the item codes
_LEAST_BITS = 10  # permutations of fewer numbers are too few to look random
_ROWS, _WALK = 256, 1 << 15  # rows and steps walked at once: what they need stays in the cache


def top_k(scores: Tensor, k: int, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest entries of each row, largest first, ties in the order of `tie_order`.

    Entries of -inf are never returned as items: their places hold item -1 and score -inf.

    Args:
        scores: [B, N] float.
        k: how many, at most N.
        keys: [B] int64 tie keys, one a query (`Queries.tie_keys`).

    Returns:
        items [B, k] int64 and scores [B, k] of the dtype of `scores`.

    Raises:
        ValueError: when k is out of range, or a score is NaN.
    """
    n_items = scores.shape[1]
    if not 0 < k <= n_items:
        raise ValueError(f"k is {k}, but there are {n_items} items to choose from")
    values, items = _largest(scores, min(k + _SPARE, n_items))
    if values[:, 0].isnan().any():  # NaN sorts above every number
        raise ValueError("a score is NaN; did training diverge, or the model divide by zero?")
    # The first k are decided by scores alone unless two of the first k + 1 are equal.
    first, second = values[:, :k], values[:, 1 : k + 1]
    tied = (first[:, : second.shape[1]] == second) & (second > -torch.inf)
    rows = tied.any(1).nonzero().squeeze(1)
    if len(rows):
        items[rows] = _by_value_and_order(values[rows], items[rows], keys[rows], n_items)
    # Ties that go on beyond what was looked at: the rest of their items is not known yet.
    is_open = (values[:, -1] == values[:, k - 1]) & (values[:, -1] > -torch.inf)
    rows = is_open.nonzero().squeeze(1)
    values, items = values[:, :k].contiguous(), items[:, :k].contiguous()
    if k + _SPARE < n_items:
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            items[some] = _walk(scores, some, values[some], items[some], keys[some])
    return items.masked_fill_(values == -torch.inf, -1), values


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk`, but through block maxima when a row is much wider than k blocks.

    The k largest entries lie in the k blocks with the largest maxima, so a vectorised maximum
    over blocks leaves k * `_BLOCK` candidates for the selection, which is the slow part. A block
    is a column of the row laid out as [`_BLOCK`, n_blocks]: such maxima run along the memory.
    """
    n_rows, n_items = scores.shape
    if scores.device.type != "cpu" or n_items < 4 * k * _BLOCK:
        return torch.topk(scores, k, dim=1)
    n_blocks = n_items // _BLOCK
    maxima = scores[:, : n_blocks * _BLOCK].view(n_rows, _BLOCK, n_blocks).amax(1)
    blocks = torch.topk(maxima, k, dim=1, sorted=False).indices  # [B, k]
    columns = (blocks[:, None, :] + torch.arange(_BLOCK)[:, None] * n_blocks).flatten(1)
    tail = torch.arange(n_blocks * _BLOCK, n_items).expand(n_rows, -1)
    columns = torch.cat([columns, tail], 1)  # [B, k * _BLOCK + tail]
    values, places = torch.topk(scores.gather(1, columns), k, dim=1)
    return values, columns.gather(1, places)


def _by_value_and_order(values: Tensor, items: Tensor, keys: Tensor, n_items: int) -> Tensor:
    """Items [R, W] of falling values [R, W], equal ones put in the order of the permutation."""
    by_order = _Permutation.of(keys, n_items).places(items).argsort(1)
    by_value = values.gather(1, by_order).sort(dim=1, descending=True, stable=True).indices
    return items.gather(1, by_order.gather(1, by_value))


def _walk(scores: Tensor, chosen: Tensor, values: Tensor, items: Tensor, keys: Tensor) -> Tensor:
    """Items [R, k] with those of the last value replaced by the first such in the permutation.

    Walks each row's permutation until enough items of the last value are met: on average
    k * N / (number of tied items) steps, and never more than 2 * N (or 1024).

    Args:
        scores: [B, N].
        chosen: [R], the rows of `scores` to walk.
        values: [R, k] falling.
        items: [R, k].
        keys: [R].
    """
    n_items, k = scores.shape[1], values.shape[1]
    is_last = values == values[:, -1:]
    wanted, met = is_last.sum(1), torch.zeros(len(values), dtype=torch.int64, device=keys.device)
    rows = torch.arange(len(values), device=keys.device)  # those that are not done
    permutation = _Permutation.of(keys, n_items)
    start, steps = 0, 4 * k
    while len(rows):
        places = torch.arange(start, start + steps, device=keys.device)[None]
        visited = permutation.take(rows).items(places)  # [rows, steps]
        inside = visited < n_items
        seen = scores[chosen[rows, None], visited.where(inside, 0)]
        ties = inside & (seen == values[rows, -1:])
        ordinals = ties.cumsum(1) + met[rows, None]
        row, step = (ties & (ordinals <= wanted[rows, None])).nonzero(as_tuple=True)
        column = k - 1 - wanted[rows[row]] + ordinals[row, step]
        items[rows[row], column] = visited[row, step]
        met[rows] = ordinals[:, -1]
        rows = rows[met[rows] < wanted[rows]]
        start, steps = start + steps, max(4 * k, min(2 * steps, _WALK // max(len(rows), 1)))
    return items


def tie_order(keys: Tensor, n_items: int) -> Tensor:
    """The place of every item in each query's permutation; of equal scores the lower one wins.

    Args:
        keys: [B] int64.
        n_items: N, at most 2**31.

    Returns:
        [B, N] int64, distinct in a row, below the next power of two of N (at least 1024).
    """
    items = torch.arange(n_items, device=keys.device)[None]
    return _Permutation.of(keys, n_items).places(items)


@dataclass(frozen=True)
class _Permutation:
    """For each of R rows a permutation of the numbers of so many bits, item codes among them.

    Rounds of x * factor + summand and x ^ (x >> half), all on the low bits; each step can be
    undone, and products stay below 2**62.

    Attributes:
        mask: 2**bits - 1.
        half: half of the bits, rounded up.
        factors: a round each, [R, 1] int64, odd.
        summands: a round each, [R, 1] int64.
    """

    mask: int
    half: int
    factors: tuple[Tensor, ...]
    summands: tuple[Tensor, ...]

    @classmethod
    def of(cls, keys: Tensor, n_items: int) -> _Permutation:
        """Drawn from keys [R] by SplitMix64."""
        bits = max((n_items - 1).bit_length(), _LEAST_BITS)
        mask = (1 << bits) - 1
        factors, summands = [], []
        for _ in range(_ROUNDS):
            keys = keys + -7046029254386353131
            mixed = keys[:, None]
            for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
                mixed = (mixed ^ ((mixed >> shift) & ((1 << (64 - shift)) - 1))) * factor
            factors.append(((mixed >> 33) & mask) | 1)
            summands.append(mixed & mask)
        return cls(mask, (bits + 1) // 2, tuple(factors), tuple(summands))

    def take(self, rows: Tensor) -> _Permutation:
        """The permutations of the chosen rows."""
        factors = tuple(factor[rows] for factor in self.factors)
        return _Permutation(
            self.mask, self.half, factors, tuple(summand[rows] for summand in self.summands)
        )

    def places(self, items: Tensor) -> Tensor:
        """Where items [R, W] stand."""
        for factor, summand in zip(self.factors, self.summands, strict=True):
            items = (items * factor + summand) & self.mask
            items = items ^ (items >> self.half)
        return items

    def items(self, places: Tensor) -> Tensor:
        """What stands at places [R, W]: items, or numbers beyond them."""
        for factor, summand in zip(self.factors[::-1], self.summands[::-1], strict=True):
            inverse = factor  # modulo 8; each step doubles the bits that are right
            for _ in range(4):
                inverse = (inverse * ((2 - factor * inverse) & self.mask)) & self.mask
            places = places ^ (places >> self.half)
            places = ((places - summand) * inverse) & self.mask
        return places
