"""Full ranking: selecting the best items and measuring them, beside the matrix product.

    python benchmarks/full_ranking.py [THREADS]

First `top_k` (k = 20) on three shapes and several kinds of scores, beside `torch.topk` and NumPy's
`argpartition`, which break ties as they like; then a whole evaluation of a factor model of width
64 and 20,000 items, seen items masked, beside its matrix product alone. The last line is JSON;
`times_topk` is torch.topk's time over ours, `product_share` the product's share of the evaluation,
and `times_implicit` scores per second over the 474 million of implicit's top-10 on two cores.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tastemaker.data import Histories, Part, Queries, Ragged
from tastemaker.evaluation import evaluate
from tastemaker.layers.selection import top_k

SHAPES = ((256, 3_706), (256, 20_000), (64, 100_000))
K, WIDTH, N_QUERIES, N_ITEMS = 20, 64, 10_240, 20_000
IMPLICIT = 474e6  # scores a second, width 64, 20,000 items


def best_time(job: Callable[[], Any], repeats: int = 7) -> float:
    """The quickest of some runs, in seconds: other work on the machine only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return min(times)


def score_kinds(n_rows: int, n_items: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((n_rows, n_items), generator=generator)
    counts = (torch.rand(n_items, generator=generator) ** -0.7).floor()
    return {
        "distinct": noise,
        "popularity": counts.repeat(n_rows, 1),
        "few not zero": torch.where(noise < 8 / n_items, noise, 0.0),
        "constant": torch.ones_like(noise),
        "1.5 % tied first": (noise < 0.015).float(),
    }


def time_selection() -> dict[str, dict[str, float]]:
    """Microseconds a row are printed; torch.topk's time over ours is returned."""
    ratios: dict[str, dict[str, float]] = {}
    for n_rows, n_items in SHAPES:
        keys = torch.arange(n_rows)
        name = f"{n_rows} x {n_items}"
        ratios[name] = {}
        for kind, scores in score_kinds(n_rows, n_items).items():
            array = scores.numpy()
            ours = best_time(lambda: top_k(scores, K, keys))  # noqa: B023
            topk = best_time(lambda: torch.topk(scores, K))  # noqa: B023
            partition = best_time(lambda: np.argpartition(array, -K, axis=1))  # noqa: B023
            ratios[name][kind] = topk / ours
            micro = [1e6 * seconds / n_rows for seconds in (ours, topk, partition)]
            print(
                f"{name:>14} {kind:>17}  top_k {micro[0]:6.1f}  torch.topk {micro[1]:6.1f}  "
                f"argpartition {micro[2]:6.1f} us/row  {topk / ours:5.2f} times as fast",
                flush=True,
            )
    return ratios


class Lists:
    def __init__(self, items: torch.Tensor) -> None:
        self.items = items


class Factors:
    """Scores are products of user and item vectors."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.n_items = N_ITEMS
        self.users = torch.randn((N_QUERIES, WIDTH), generator=generator)
        self.items = torch.randn((N_ITEMS, WIDTH), generator=generator)

    def score(self, queries: Queries, _: torch.Tensor | None = None) -> torch.Tensor:
        return self.users[torch.from_numpy(queries.users)] @ self.items.T

    def recommend(
        self, queries: Queries, k: int, *, exclude: Ragged | None = None, **_: Any
    ) -> Lists:
        scores = self.score(queries)
        if exclude is not None:
            rows = torch.from_numpy(exclude.row_index())
            scores[rows, torch.from_numpy(exclude.values)] = -torch.inf
        return Lists(top_k(scores, k, torch.from_numpy(queries.tie_keys()))[0])


def time_evaluation() -> tuple[float, float]:
    """Seconds of the matrix product in blocks, and of the evaluation that contains it."""
    rng = np.random.default_rng(0)
    model, users = Factors(), np.arange(N_QUERIES)
    history = Ragged.from_lengths(rng.integers(0, N_ITEMS, 20 * N_QUERIES), np.full(N_QUERIES, 20))
    targets = Ragged.from_lengths(rng.integers(0, N_ITEMS, N_QUERIES), np.ones(N_QUERIES, np.int64))
    queries = Queries(users, Histories(history))
    part = Part(queries, targets, users, users)
    blocks = [queries.take(slice(start, start + 256)) for start in range(0, N_QUERIES, 256)]
    with torch.inference_mode():
        product = best_time(lambda: [model.score(block) for block in blocks], 3)
    return product, best_time(lambda: evaluate(model, part, batch_size=256), 3)


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    ratios = time_selection()
    product, whole = time_evaluation()
    rate = N_QUERIES * N_ITEMS / whole
    print(
        f"evaluation: {N_QUERIES / whole:,.0f} queries/s, {rate / 1e6:,.0f} M scores/s, "
        f"{product / whole:.0%} of it the matrix product"
    )
    summary = {
        "threads": threads,
        "times_topk": ratios,
        "queries_per_second": N_QUERIES / whole,
        "product_share": product / whole,
        "times_implicit": rate / IMPLICIT,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
