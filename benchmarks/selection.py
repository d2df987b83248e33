"""Selecting the twenty best of a row: rows a second, by the kind of scores.

Ours breaks ties by a rule; `torch.topk` and NumPy's `argpartition` break them as they like.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from harness import Case, Numbers, Question, Side, Target
from measuring import seconds_of
from tastemaker.layers.selection import top_k

K, REPEATS = 20, 7


def score_kinds(given: SimpleNamespace) -> dict[str, torch.Tensor]:
    n_rows, n_items = given.rows, given.n_items
    generator = torch.Generator().manual_seed(given.seed)
    noise = torch.rand((n_rows, n_items), generator=generator)
    counts = (torch.rand(n_items, generator=generator) ** -0.7).floor()
    return {
        "distinct": noise,
        "popularity": counts.repeat(n_rows, 1),
        "few_not_zero": torch.where(noise < 8 / n_items, noise, 0.0),
        "constant": torch.ones_like(noise),
        "tied_first": (noise < 0.015).float(),  # 1.5 %
    }


def rates(given: SimpleNamespace, select: Callable[[torch.Tensor], object]) -> Numbers:
    """Rows a second, the quickest of some runs."""
    torch.set_num_threads(given.threads)
    return {
        kind: given.rows
        / min(seconds_of(lambda scores=scores: select(scores)) for _ in range(REPEATS))
        for kind, scores in score_kinds(given).items()
    }


def ours(given: SimpleNamespace) -> Numbers:
    keys = torch.arange(given.rows)
    return rates(given, lambda scores: top_k(scores, K, keys))


def torch_topk(given: SimpleNamespace) -> Numbers:
    return rates(given, lambda scores: torch.topk(scores, K))


def argpartition(given: SimpleNamespace) -> Numbers:
    return rates(given, lambda scores: np.argpartition(scores.numpy(), -K, axis=1))


KINDS = ("distinct", "popularity", "few_not_zero", "constant", "tied_first")
QUESTION = Question(
    "Selecting the best of a row: rows a second",
    cases=[
        Case(f"{rows} x {n_items:,}", {"rows": rows, "n_items": n_items})
        for rows, n_items in ((256, 3_706), (256, 20_000), (64, 100_000))
    ],
    sides=[
        Side("ours", ours),
        Side("torch.topk", torch_topk),
        Side("argpartition", argpartition),
    ],
    targets=[Target("selection", kind, "torch.topk") for kind in KINDS],
    quick={"rows": 16},
)

if __name__ == "__main__":
    QUESTION.main()
