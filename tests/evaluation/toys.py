"""Models and parts that are tables of numbers, for the tests of the evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tastemaker.data.queries import Histories, Queries, Ragged
from tastemaker.data.splits import Part
from tastemaker.layers.selection import top_k


@dataclass(frozen=True)
class Lists:
    items: torch.Tensor
    scores: torch.Tensor


class TableModel:
    """Scores item i for user u by `table[u, i]`; `calls` are the batch sizes it was asked."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.from_numpy(table.astype(np.float32))
        self.n_items = table.shape[1]
        self.calls: list[int] = []

    def score(self, queries: Queries, items: torch.Tensor | None = None) -> torch.Tensor:
        scores = self.table[torch.from_numpy(queries.users)]
        return scores.clone() if items is None else scores.gather(1, items)

    def recommend(
        self,
        queries: Queries,
        k: int,
        *,
        exclude: Ragged | None = None,
        allow: np.ndarray | None = None,
    ) -> Lists:
        self.calls.append(len(queries))
        scores = self.score(queries)
        if exclude is not None:
            scores[exclude.row_index(), exclude.values] = -torch.inf
        found, values = top_k(scores, min(k, self.n_items), torch.from_numpy(queries.tie_keys()))
        items = torch.full((len(queries), k), -1)
        items[:, : found.shape[1]] = found
        return Lists(items, values)


def make_part(
    targets: Sequence[Sequence[int]],
    histories: Sequence[Sequence[int]] | None = None,
    labels: Sequence[float] | None = None,
) -> Part:
    """One query a row, of users 0, 1, ..."""
    ragged = Ragged.from_lists(targets)
    users = np.arange(len(targets), dtype=np.int64)
    known = Ragged.from_lists(histories if histories is not None else [[] for _ in targets])
    return Part(
        queries=Queries(users, Histories(known)),
        targets=ragged,
        users=users,
        rows=np.arange(len(ragged.values), dtype=np.int64),
        labels=None if labels is None else np.array(labels, np.float32),
    )


def random_rows(
    rng: np.random.Generator, n_rows: int, n_items: int, longest: int
) -> list[list[int]]:
    """Rows of distinct items, some of them empty."""
    return [
        rng.choice(n_items, rng.integers(0, longest + 1), replace=False).tolist()
        for _ in range(n_rows)
    ]
