"""The evaluator alone: every metric with its interval and all slices, from lists already made.

    python benchmarks/metrics.py [QUERIES]

Evaluates QUERIES (200,000) queries with histories of 20 and 1 to 9 targets on lists of 100 of
20,000 items in 18 categories; and pytrec_eval on the first 5,000, the six accuracy metrics only
and no intervals. The last line is JSON: `ratio` is the time a million queries take (extrapolated
from the growth between half and all of QUERIES) over the limit of 10 seconds, so 1 or less keeps
it; `times_pytrec_eval` is queries per second over pytrec_eval's. Seconds are of the processor; the
evaluator uses one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytrec_eval
import torch

from tastemaker.data import Dataset, Histories, Part, Queries, Ragged, TrainingSet
from tastemaker.evaluation import LIST_METRICS, evaluate

LIMIT = 10.0  # seconds for a million queries
N_ITEMS, K = 20_000, 100


@dataclass(frozen=True)
class Lists:
    items: torch.Tensor


@dataclass(frozen=True)
class Ready:
    """A model whose lists are made."""

    lists: torch.Tensor
    n_items: int = N_ITEMS

    def recommend(self, queries: Queries, k: int, **_: Any) -> Lists:
        return Lists(self.lists[torch.from_numpy(queries.users), :k])

    def score(self, queries: Queries, items: torch.Tensor | None = None) -> torch.Tensor:
        raise NotImplementedError


def seconds(job: Callable[[], Any]) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def make_training_set(rng: np.random.Generator) -> TrainingSet:
    names = np.array([f"category {number}" for number in range(18)])
    chosen = [names[rng.choice(18, rng.integers(1, 4), False)].tolist() for _ in range(N_ITEMS)]
    items = {"item": np.arange(N_ITEMS), "categories": chosen}
    popular = (N_ITEMS * rng.random(300_000) ** 3).astype(np.int64)
    log = {"user": rng.integers(0, 1000, len(popular)), "item": popular}
    return TrainingSet.whole(
        Dataset.from_frame(
            log, user="user", item="item", items=items, item_columns={"categories": "categories"}
        )
    )


def make_lists(rng: np.random.Generator, n_queries: int) -> np.ndarray:
    """[n_queries, K] distinct items: windows of a few shuffled catalogs."""
    shuffled = rng.permuted(np.tile(np.arange(N_ITEMS), (64, 1)), axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(shuffled, K, axis=1)
    rows, starts = np.arange(n_queries) % 64, rng.integers(0, N_ITEMS - K, n_queries)
    return windows[rows, starts]


def make_part(rng: np.random.Generator, lists: np.ndarray) -> Part:
    """A third of the targets are in the lists."""
    n_queries = len(lists)
    lengths = rng.integers(1, 10, n_queries)
    targets = Ragged.from_lengths(rng.integers(0, N_ITEMS, lengths.sum()), lengths)
    listed = rng.random(len(targets.values)) < 1 / 3
    places = rng.integers(0, K, listed.sum())
    targets.values[listed] = lists[targets.row_index()[listed], places]
    history = Ragged.from_lengths(rng.integers(0, N_ITEMS, 20 * n_queries), np.full(n_queries, 20))
    users = np.arange(n_queries)
    queries = Queries(users, Histories(history))
    return Part(queries, targets, users, np.arange(len(targets.values)))


def first_queries(part: Part, n_queries: int) -> Part:
    rows = slice(0, n_queries)
    targets = part.targets.take(rows)
    return Part(
        part.queries.take(rows), targets, part.users[rows], part.rows[: len(targets.values)]
    )


def time_pytrec_eval(part: Part, lists: np.ndarray, n_queries: int) -> float:
    qrel = {
        str(row): {str(item): 1 for item in part.targets.row(row).tolist()}
        for row in range(n_queries)
    }
    run = {
        str(row): {str(item): -float(rank) for rank, item in enumerate(lists[row].tolist())}
        for row in range(n_queries)
    }
    names = {f"{name}.{K}" for name in ("ndcg_cut", "recall", "success", "map_cut", "P")}
    evaluator = pytrec_eval.RelevanceEvaluator(qrel, names | {"recip_rank"})
    return seconds(lambda: evaluator.evaluate(run))


def main(n_queries: int) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    train, lists = make_training_set(rng), make_lists(rng, n_queries)
    part, model = make_part(rng, lists), Ready(torch.from_numpy(lists))
    kinds: dict[str, list[str] | None] = {
        "accuracy": ["ndcg", "recall", "hr", "mrr", "map", "precision"],
        "exposure": ["coverage", "gini"],
        "novelty": ["novelty"],
        "popularity_lift": ["popularity_lift"],
        "diversity": ["diversity"],
        "calibration": ["calibration"],
    }
    evaluate(model, first_queries(part, 1000), train=train)  # pays for imports
    found: dict[str, float] = {}
    for name, metrics in kinds.items():
        found[name] = seconds(
            lambda metrics=metrics: evaluate(
                model, part, train=train, metrics=metrics, ks=(K,), slices={}
            )
        )
        print(f"{name:>20}  {found[name]:6.2f} s", flush=True)
    whole = seconds(lambda: evaluate(model, part, train=train, ks=(K,)))
    half = seconds(
        lambda: evaluate(model, first_queries(part, n_queries // 2), train=train, ks=(K,))
    )
    print(f"{'all, with slices':>20}  {whole:6.2f} s for {len(LIST_METRICS)} metrics")
    peer_queries = min(5_000, n_queries)
    peer = time_pytrec_eval(part, lists, peer_queries) / peer_queries
    print(f"{'pytrec_eval':>20}  {peer * n_queries:6.2f} s, extrapolated, for accuracy alone")
    ratio = (whole + (1e6 - n_queries) * (whole - half) / (n_queries - n_queries // 2)) / LIMIT
    times = peer / (found["accuracy"] / n_queries)
    print(f"a million queries: {ratio * LIMIT:.1f} s, {ratio:.2f} of the limit")
    print(f"accuracy with intervals: {times:.1f} times as fast as pytrec_eval without")
    summary = {"queries": n_queries, "seconds": whole, "ratio": ratio, "times_pytrec_eval": times}
    print(json.dumps({**summary, "parts": found}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
