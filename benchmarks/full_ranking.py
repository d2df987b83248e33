"""Full ranking: users a second of a whole evaluation, every item ranked, seen ones masked.

The model is a table of vectors a user and an item, width 64, not trained: its speed does not
depend on what it learned. Ours makes top-10 lists and NDCG and recall with their intervals;
RecBole the two metrics without, with its default batch, which is one user here, and with 256 users
at a time; implicit lists alone.
"bare" is what cannot be left out: the product of 256 users at a time with all items, the mask, the
selection of ten. A second number of ours is that of lists alone.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from harness import Case, Numbers, Question, Side, Target
from measuring import created, dealt, export, seconds_of
from tastemaker.data import Dataset, Split, split

K, BLOCK, REPEATS = 10, 256, 3


def log_of(given: SimpleNamespace) -> Split:
    """Public data, or random users with histories of twenty over `n_items` items."""
    if given.data:
        return dealt(given)
    rng = np.random.default_rng(0)
    n_rows = 21 * given.n_users
    items = np.concatenate([np.arange(given.n_items), rng.integers(0, given.n_items, n_rows)])
    users = np.arange(len(items)) % given.n_users
    log = {"user": users, "item": items, "time": np.arange(len(items))}
    dataset = Dataset.from_frame(log, user="user", item="item", timestamp="time", name="random")
    return split(dataset, "leave-one-out:valid=0")


def prepare(given: SimpleNamespace) -> None:
    export(log_of(given), given.folder)


def ours(given: SimpleNamespace) -> Numbers:
    from tastemaker.evaluation import evaluate

    found = log_of(given)
    model = created("bpr-mf", found.train, {"hidden_size": given.width}, given.seed).eval()
    part = found.test

    def lists() -> None:
        for start in range(0, len(part), BLOCK):
            queries = part.queries.take(slice(start, start + BLOCK))
            model.recommend(queries, K, exclude=queries.histories.items)

    def evaluation() -> None:
        evaluate(model, part, metrics=["ndcg", "recall"], ks=(K,), slices={})

    evaluation()
    best = {name: best_of(job) for name, job in (("whole", evaluation), ("lists", lists))}
    return {
        "users_per_second": len(part) / best["whole"],
        "lists_per_second": len(part) / best["lists"],
    }


def bare(given: SimpleNamespace) -> Numbers:
    """The product of tiles, the mask and the selection, in torch alone."""
    found = log_of(given)
    known, n_items = found.test.queries.histories.items, found.train.n_items
    generator = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn((size, given.width), generator=generator) for size in (len(known), n_items)
    )
    blocks = [slice(start, start + BLOCK) for start in range(0, len(known), BLOCK)]
    masks = [
        (torch.from_numpy(rows.row_index()), torch.from_numpy(rows.values))
        for rows in map(known.take, blocks)
    ]

    def select() -> None:
        for block, mask in zip(blocks, masks, strict=True):
            scores = users[block] @ items.T
            scores[mask] = -torch.inf
            torch.topk(scores, K)

    with torch.inference_mode():
        select()
        return {"users_per_second": len(known) / best_of(select)}


def best_of(job: Callable[[], None]) -> float:
    """The quickest of some runs: other work on the machine only ever adds."""
    return min(seconds_of(job) for _ in range(REPEATS))


RATE = "users_per_second"
SETTINGS = {"width": 64, "k": K, "block": BLOCK, "repeats": REPEATS}
QUESTION = Question(
    "Full ranking: users a second of a whole evaluation",
    cases=[
        Case("ml-1m", {**SETTINGS, "data": "ml-1m", "split": "leave-one-out:valid=0"}),
        Case("20,000 items", {**SETTINGS, "data": "", "n_users": 10_240, "n_items": 20_000}),
    ],
    sides=[
        Side("ours", ours),
        Side("bare", bare),
        Side("implicit", "implicit_lists.py", "n2"),
        Side("RecBole", "recbole_evaluation.py", "n1", {"eval_rows": 4096}, rounds=1),
        Side("RecBole, 256", "recbole_evaluation.py", "n1", {"eval_rows": None}, rounds=1),
    ],
    targets=[
        Target("full ranking", RATE, "RecBole", at_least=10),
        Target("full ranking", RATE, "RecBole, 256", at_least=10),
        Target("full ranking", RATE, "implicit", at_least=1.0),
        Target("full ranking", RATE, "bare", at_least=1 / 1.5),
    ],
    prepare=prepare,
    rounds=2,
    quick={"n_users": 1024, "n_items": 2_000},
)

if __name__ == "__main__":
    QUESTION.main()
