"""EASE: seconds of a fit beside those of its factorisation alone.

"bare" inverts the regularised Gram matrix, which it is given, by Cholesky's factors, in the same
float64; ours counts the pairs first and makes the weights afterwards.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from harness import Case, Numbers, Question, Side, Target
from measuring import created, dealt, seconds_of
from tastemaker.data import Dataset, TrainingSet


def training_rows(given: SimpleNamespace) -> TrainingSet:
    """Public data, or fifty items a user of so many, the first ones the most popular."""
    if given.data:
        return dealt(given).train
    rng = np.random.default_rng(0)
    size = 50 * given.n_users
    items = (given.n_items * rng.random(size) ** 3).astype(np.int64)
    items[: given.n_items] = np.arange(given.n_items)
    log = {"user": np.arange(size) % given.n_users, "item": items}
    return TrainingSet.whole(Dataset.from_frame(log, user="user", item="item", name="random"))


def ours(given: SimpleNamespace) -> Numbers:
    from tastemaker.training import fit

    train = training_rows(given)
    model = created("ease", train, {"regularization": 250.0}, given.seed)
    return {"seconds": seconds_of(lambda: fit(model, train)), "items": train.n_items}


def bare(given: SimpleNamespace) -> Numbers:
    train = training_rows(given)
    matrix = train.matrix()
    gram = torch.from_numpy((matrix.T @ matrix).toarray().astype(np.float64))
    gram.diagonal().add_(250.0)
    return {"seconds": seconds_of(lambda: torch.cholesky_inverse(torch.linalg.cholesky(gram)))}


QUESTION = Question(
    "EASE: seconds of a fit",
    cases=[
        Case("ml-1m", {"data": "ml-1m", "split": "leave-one-out:valid=0"}),
        Case("8,000 items", {"data": "", "n_users": 50_000, "n_items": 8_000}),
    ],
    sides=[Side("ours", ours), Side("bare", bare)],
    targets=[Target("EASE", "seconds", "bare", at_most=1.3)],
    rounds=2,
    quick={"n_users": 500, "n_items": 300},
)

if __name__ == "__main__":
    QUESTION.main()
