"""Memory of training SASRec over a million items, beside that of its table and optimiser state.

Width 64, float32: the table takes 256 MB, Adam's two averages twice as much, and none of the losses
may hold a score for every target and item. `ratio` is what the process held at most beyond what it
held after the same work on a thousand items, with all libraries loaded, over the three tables.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl

from harness import Case, Numbers, Question, Side, Target
from measuring import created, peak_memory, training_rate
from tastemaker.data import Dataset, TrainingSet

WIDTH, LENGTH = 64, 50
LOSSES = {
    "sampled": {"loss": "sampled", "num_negatives": 512, "batch_size": 64},
    "chunked": {"loss": "chunked", "batch_size": 4},
}


def random_log(n_items: int) -> TrainingSet:
    """Histories of fifty events in which every item occurs."""
    items = np.random.default_rng(0).permutation(n_items)
    log = pl.DataFrame({"user": items // LENGTH, "item": items, "order": items % LENGTH})
    data = Dataset.from_frame(log, user="user", item="item", order="order", name="random")
    return TrainingSet.whole(data)


def ours(given: SimpleNamespace) -> Numbers:
    settings = {"hidden_size": WIDTH, "max_length": LENGTH, **LOSSES[given.case.split(",")[0]]}
    few, data = random_log(1_000), random_log(given.items)
    training_rate(created("sasrec", few, settings, given.seed), few, seconds=1.0, warm=0.5)
    before = peak_memory("VmRSS")
    model = created("sasrec", data, settings, given.seed)
    rate = training_rate(model, data, seconds=given.seconds, warm=given.seconds / 4)
    tables = 3 * 4 * WIDTH * given.items
    held = peak_memory() - before
    return {**rate, "megabytes": held / 2**20, "ratio": held / tables}


QUESTION = Question(
    "SASRec over a million items: peak memory over the table and its optimiser state",
    cases=[
        Case(f"{loss}, {items:,}", {"items": items, "seconds": 20.0})
        for loss in LOSSES
        for items in (250_000, 1_000_000)
    ],
    sides=[Side("ours", ours)],
    targets=[
        Target(
            "memory of a million items",
            "ratio",
            at_most=2.0,
            cases=[f"{loss}, 1,000,000" for loss in LOSSES],
        )
    ],
    rounds=1,
    quick={"items": 50_000, "seconds": 3.0},
)

if __name__ == "__main__":
    QUESTION.main()
