"""The evaluator alone: every metric with its interval and all slices, from lists already made.

Queries have histories of 20 and 1 to 9 targets; lists are 100 of 20,000 items in 18 categories.
`seconds_of_a_million` is extrapolated from the growth between half and all of the queries, with
every metric and slice. `queries_per_second` is that of the six accuracy metrics: ours with
intervals, pytrec_eval without and on the first 5,000 queries. Seconds are of the processor; the
evaluator uses one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytrec_eval
import torch

from harness import Case, Numbers, Question, Side, Target
from tastemaker.data import Dataset, Histories, Part, Queries, Ragged, TrainingSet
from tastemaker.evaluation import evaluate

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


KINDS: dict[str, list[str]] = {
    "accuracy": ["ndcg", "recall", "hr", "mrr", "map", "precision"],
    "exposure": ["coverage", "gini"],
    "novelty": ["novelty"],
    "popularity_lift": ["popularity_lift"],
    "diversity": ["diversity"],
    "calibration": ["calibration"],
}


def ours(given: SimpleNamespace) -> Numbers:
    torch.set_num_threads(1)
    rng = np.random.default_rng(given.seed)
    train, lists = make_training_set(rng), make_lists(rng, given.queries)
    part, model = make_part(rng, lists), Ready(torch.from_numpy(lists))
    evaluate(model, first_queries(part, 1000), train=train)  # pays for imports
    found: dict[str, float] = {}
    for name, metrics in KINDS.items():
        found[f"{name}_seconds"] = seconds(
            lambda metrics=metrics: evaluate(
                model, part, train=train, metrics=metrics, ks=(K,), slices={}
            )
        )
    some = given.queries // 2
    whole, half = (
        seconds(lambda asked=asked: evaluate(model, asked, train=train, ks=(K,)))
        for asked in (part, first_queries(part, some))
    )
    return {
        "queries_per_second": given.queries / found["accuracy_seconds"],
        "seconds_of_a_million": whole + (1e6 - given.queries) * (whole - half) / some,
        **found,
    }


def trec(given: SimpleNamespace) -> Numbers:
    rng = np.random.default_rng(given.seed)
    lists = make_lists(rng, given.queries)
    n_queries = min(5_000, given.queries)
    spent = time_pytrec_eval(make_part(rng, lists), lists, n_queries)
    return {"queries_per_second": n_queries / spent}


QUESTION = Question(
    "Metrics: queries a second from lists already made",
    cases=[Case("lists of 100", {"queries": 200_000})],
    sides=[Side("ours", ours), Side("pytrec_eval", trec)],
    targets=[
        Target("all metrics with intervals", "seconds_of_a_million", at_most=10),
        Target("accuracy metrics", "queries_per_second", "pytrec_eval"),
    ],
    quick={"queries": 4_000},
)

if __name__ == "__main__":
    QUESTION.main()
