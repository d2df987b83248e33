"""What the peers' scripts share: the settings they are given, the data, the line they print.

It runs in every environment, so it needs nothing but NumPy, whatever its version.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["answer", "factor_lists", "matrix", "ndcg", "read_log", "seconds_of", "settings"]


def settings() -> SimpleNamespace:
    """What the harness says."""
    return SimpleNamespace(**json.loads(sys.argv[1]))


def answer(numbers: dict[str, float], *packages: str) -> None:
    """Print the numbers and the packages' versions as the last line."""
    versions = {package: version(package) for package in packages}
    print("\n" + json.dumps({**numbers, "versions": versions}))


def read_log(given: SimpleNamespace) -> Any:
    """The arrays that `measuring.exported` wrote, by name."""
    with np.load(Path(given.folder) / "log.npz") as stored:
        return SimpleNamespace(**{name: stored[name] for name in stored.files})


def matrix(log: Any, part: str = "") -> Any:
    """[n_users, n_items] SciPy CSR of ones: the training rows, or those with `part` "known_"."""
    from scipy.sparse import csr_matrix

    users, items = getattr(log, f"{part}users"), getattr(log, f"{part}items")
    shape = (int(log.n_users), int(log.n_items))
    found = csr_matrix((np.ones(len(users), np.float32), (users, items)), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1.0
    return found


def seconds_of(job: Callable[[], Any]) -> float:
    """Seconds of the clock on the wall."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def ndcg(log: Any, users: np.ndarray, lists: np.ndarray) -> float:
    """Mean NDCG@k of the lists [B, k] of these users [B], targets of gain one."""
    n_items, k = int(log.n_items), lists.shape[1]
    keys = log.target_users.astype(np.int64) * n_items + log.target_items
    found = np.isin(users[:, None].astype(np.int64) * n_items + lists, keys)
    gains = 1 / np.log2(np.arange(2, k + 2))
    counts = np.bincount(log.target_users, minlength=int(log.n_users))[users]
    ideal = np.cumsum(gains)[np.minimum(counts, k) - 1]
    return float(((found * gains).sum(1) / ideal).mean())


def factor_lists(
    log: Any, users: np.ndarray, user_factors: np.ndarray, item_factors: np.ndarray, k: int = 10
) -> np.ndarray:
    """The k items [B, k] with the greatest products for these users, known ones left out."""
    scores = user_factors[users] @ item_factors.T
    rows = np.full(int(log.n_users), -1)
    rows[users] = np.arange(len(users))
    chosen = rows[log.known_users] >= 0
    scores[rows[log.known_users[chosen]], log.known_items[chosen]] = -np.inf
    best = np.argpartition(-scores, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
    return np.take_along_axis(best, order, 1)
