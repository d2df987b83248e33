"""Writing semantic ids under a trie: milliseconds a user, and the share of a step the trie takes.

TIGER with its default network (four layers each of encoder and decoder, width 128) over 12,000
items of four random codes, histories of twenty events, fifty beams. `mask_share` is the part of the
whole decoding that would not be there without a trie: what the excluded items close, the look-up of
which codes may follow, leaving out the others, and the nodes that the chosen codes lead to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch

from harness import Case, Numbers, Question, Side, Target
from tastemaker.content.trie import Children, Trie
from tastemaker.data import Dataset, Histories, Queries, Ragged
from tastemaker.models.generative.tiger import TIGER

N_ITEMS, CODES, LENGTH, BEAMS = 12_000, 256, 20, 50
SMALL = {"hidden_size": 128, "architecture": "decoder-only", "num_layers": 2, "num_heads": 4}
OF_THE_TRIE = [
    (Trie, "closed_to"),
    (Trie, "children"),
    (Children, "scored"),
    (Children, "chosen"),
]
NETWORKS = {"default": {}, "two layers": {**SMALL, "head_size": 32, "feedforward_size": 512}}


def model_of(network: str, seed: int) -> TIGER:
    """An untrained model whose items have random codes."""
    items = np.arange(N_ITEMS)
    log = pl.DataFrame({"user": items // LENGTH, "item": items, "order": items % LENGTH})
    data = Dataset.from_frame(log, user="user", item="item", order="order", name="random")
    model = TIGER.create({"beam_size": BEAMS, **NETWORKS[network]}, data, seed=seed).eval()
    model.take_codes(torch.from_numpy(np.random.default_rng(seed).integers(0, CODES, (N_ITEMS, 3))))
    return model


def timed(call: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The call, adding the seconds it takes to `spent`."""

    def counted(*arguments: Any) -> Any:
        start = time.perf_counter()
        found = call(*arguments)
        spent[0] += time.perf_counter() - start
        return found

    return counted


def ours(given: SimpleNamespace) -> Numbers:
    torch.set_num_threads(given.threads)
    model, draws = model_of(given.network, given.seed), np.random.default_rng(given.seed)
    spent = [0.0]
    for owner, name in OF_THE_TRIE:
        setattr(owner, name, timed(getattr(owner, name), spent))
    seconds, shares = [], []
    for _ in range(given.repeats + 2):
        items = draws.integers(0, N_ITEMS, given.rows * LENGTH)
        history = Ragged.from_lengths(items, np.full(given.rows, LENGTH))
        queries = Queries(np.full(given.rows, -1), Histories(history))
        spent[0], start = 0.0, time.perf_counter()
        model.recommend(queries, 10, exclude=history)
        seconds.append(time.perf_counter() - start)
        shares.append(spent[0] / seconds[-1])
    return {
        "milliseconds_a_user": 1e3 * float(np.median(seconds[2:])) / given.rows,
        "mask_share": float(np.median(shares[2:])),
    }


QUESTION = Question(
    "Constrained decoding: 12,000 items, four codes, fifty beams",
    cases=[
        Case(f"{network}, {rows}", {"network": network, "rows": rows, "repeats": 20})
        for network in NETWORKS
        for rows in (1, 64)
    ],
    sides=[Side("ours", ours)],
    targets=[
        Target(
            "one user",
            "milliseconds_a_user",
            at_most=150,
            cases=[f"{network}, 1" for network in NETWORKS],
        ),
        Target(
            "a batch of 64",
            "milliseconds_a_user",
            at_most=20,
            cases=[f"{network}, 64" for network in NETWORKS],
        ),
        Target("the trie's share", "mask_share", at_most=0.05),
    ],
    quick={"repeats": 2},
)

if __name__ == "__main__":
    QUESTION.main()
