"""Semantic ids: every item as a short tuple of codes, no two alike.

A quantiser may give several items the same codes. As in GRID (arXiv 2507.22224) a last digit
tells them apart: 0 where the codes are an item's own, else 1, 2, ... in item order. What was
given stays: items added later get the next free digit of their codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.errors import ConfigError

__all__ = ["SemanticIds", "TokenizerReport", "report_on"]


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """The tuples of a catalog.

    Attributes:
        codes: [N, H] int64, all rows different; the last column is the digit.
        sizes: vocabulary size of each of the H columns.
    """

    codes: NDArray[np.int64]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        codes, sizes = self.codes, np.asarray(self.sizes)
        if codes.ndim != 2 or codes.shape[1] != len(sizes):
            raise ValueError(f"codes are {codes.shape}, but there are {len(sizes)} column sizes")
        if len(codes) and ((codes < 0).any() or (codes.max(0) >= sizes).any()):
            raise ValueError(f"codes leave their columns' sizes, {self.sizes}")
        if len(self._order[1]) and not self._order[1].all():
            raise ValueError("two items have the same tuple; give each its own digit")

    @classmethod
    def of(cls, codes: NDArray[np.int64], codebook_size: int, *, digits: int) -> SemanticIds:
        """Tell items of equal codes apart by one more digit.

        Args:
            codes: [N, L] int64 below `codebook_size`.
            codebook_size: vocabulary size of each level.
            digits: vocabulary size of the digit.

        Raises:
            ConfigError: when more items share their codes than there are digits.
        """
        digit = _digits(codes)
        if digit.max(initial=0) >= digits:
            raise ConfigError(
                f"{digit.max()} items share one tuple of codes, but the last digit has {digits} "
                f"values; set num_digits to {digit.max() + 1} or more, or give the items "
                "features that differ"
            )
        return cls(np.column_stack([codes, digit]), (*[codebook_size] * codes.shape[1], digits))

    def __len__(self) -> int:
        return len(self.codes)

    def extended(self, codes: NDArray[np.int64]) -> SemanticIds:
        """With M new items of codes [M, L] behind the old ones, whose tuples stay.

        Raises:
            ConfigError: when the digits of some codes are used up.
        """
        old, levels = self.codes, self.codes.shape[1] - 1
        groups = np.unique(np.vstack([old[:, :levels], codes]), axis=0, return_inverse=True)[1]
        groups = groups.reshape(-1)
        highest = np.full(groups.max(initial=-1) + 1, -1, np.int64)
        np.maximum.at(highest, groups[: len(old)], old[:, levels])
        digit = highest[groups[len(old) :]] + 1 + _ranks(groups[len(old) :])
        if digit.max(initial=0) >= self.sizes[-1]:
            raise ConfigError(
                f"a new item would be number {digit.max()} of its tuple, but the last digit has "
                f"{self.sizes[-1]} values; tokenise the catalog anew with more"
            )
        return SemanticIds(np.vstack([old, np.column_stack([codes, digit])]), self.sizes)

    def items_of(self, tuples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The item of each tuple [B, H], or -1 where it is nobody's; [B] int64."""
        if not len(self):
            return np.full(len(tuples), -1, np.int64)
        order, _ = self._order
        ranks = np.unique(np.vstack([self.codes, tuples]), axis=0, return_inverse=True)[1]
        ranks = ranks.reshape(-1)
        owned = ranks[: len(self)][order]  # rising
        asked = ranks[len(self) :]
        place = np.searchsorted(owned, asked).clip(max=len(owned) - 1)
        return np.where(owned[place] == asked, order[place], -1)

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Items in the order of their tuples, and whether each differs from the one before."""
        order = np.lexsort(self.codes.T[::-1])
        rows = self.codes[order]
        return order, (rows[1:] != rows[:-1]).any(1)


def _ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each member within its group, from 0, in order of appearance."""
    order = np.argsort(groups, kind="stable")
    new = np.ones(len(groups), bool)
    new[1:] = groups[order][1:] != groups[order][:-1]
    starts = np.maximum.accumulate(np.where(new, np.arange(len(groups)), 0))
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - starts
    return ranks


def _digits(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N] int64: 0 for codes of one item, else 1, 2, ... in item order."""
    _, groups, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    groups = groups.reshape(-1)
    return np.where(counts[groups] > 1, _ranks(groups) + 1, 0)


@dataclass(frozen=True)
class TokenizerReport:
    """How well codes describe a catalog.

    Attributes:
        collision_rate: share of items that cannot have a tuple of their own,
            (N - distinct tuples) / N.
        colliding: share of items whose codes are another item's, too.
        largest_group: most items of one tuple.
        utilisation: share of codes in use, a level each.
        perplexity: exp(entropy in nats) of the codes, a level each; at most K.
        coherence: mean cosine of two items that share the first 1, 2, ... codes; `nan` where
            no two do.
    """

    collision_rate: float
    colliding: float
    largest_group: int
    utilisation: tuple[float, ...]
    perplexity: tuple[float, ...]
    coherence: tuple[float, ...]

    def __str__(self) -> str:
        def row(values: tuple[float, ...], form: str) -> str:
            return " ".join(format(value, form) for value in values)

        return (
            f"collisions {self.collision_rate:.4f} (largest group {self.largest_group}), "
            f"utilisation {row(self.utilisation, '.3f')}, "
            f"perplexity {row(self.perplexity, '.1f')}, coherence {row(self.coherence, '.3f')}"
        )


def report_on(
    codes: NDArray[np.int64], codebook_size: int, vectors: NDArray[np.float32]
) -> TokenizerReport:
    """Measure codes [N, L] of item vectors [N, D]."""
    _, counts = np.unique(codes, axis=0, return_counts=True)
    utilisation, perplexity = [], []
    for level in codes.T:
        shares = np.bincount(level, minlength=codebook_size) / len(codes)
        used = shares[shares > 0]
        utilisation.append(len(used) / codebook_size)
        perplexity.append(float(np.exp(-(used * np.log(used)).sum())))
    unit = F.normalize(torch.from_numpy(vectors), dim=1)
    return TokenizerReport(
        collision_rate=1 - len(counts) / len(codes),
        colliding=float(counts[counts > 1].sum() / len(codes)),
        largest_group=int(counts.max()),
        utilisation=tuple(utilisation),
        perplexity=tuple(perplexity),
        coherence=tuple(_coherence(codes[:, : level + 1], unit) for level in range(codes.shape[1])),
    )


def _coherence(prefixes: NDArray[np.int64], unit: Tensor) -> float:
    """Mean cosine over all pairs of rows of `unit` that share a prefix.

    The cosines of a group's pairs add up to (|sum of its vectors|^2 - its size) / 2.
    """
    groups = np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(groups).astype(np.float64)
    sums = torch.zeros(len(sizes), unit.shape[1]).index_add_(0, torch.from_numpy(groups), unit)
    cosines = sums.double().square().sum().item() - unit.double().square().sum().item()
    pairs = (sizes * (sizes - 1)).sum()
    return cosines / pairs if pairs else float("nan")
