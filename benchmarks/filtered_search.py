"""What does approximate search find and cost under filters, and from which size does it pay?

    python benchmarks/filtered_search.py [--items 1000000] [--sizes 10000,30000,100000,300000]

Item vectors are those of a next-item method in shape: width 64, in clusters of uneven size within
wider ones, frequent items longer. A query is the vector of a history: two items of a cluster or
two, and noise. Filters allow 1 %, 10 % and all items, spread evenly or, as a category would, whole
clusters. Printed are the share of the true ten best found, the median time of a request, of both
searches, and what the index takes to make; then the sizes at which the index begins to pay.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import faiss
import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from tastemaker.data import Queries
from tastemaker.models.base import Recommender
from tastemaker.serving.search import VectorSearch

WIDTH = 64
SHARES = (0.01, 0.1, 1.0)


class Vectors(Recommender):
    """Clustered item vectors; a query's vector is the mean of its last two items, shaken."""

    def __init__(self, n_items: int, width: int = WIDTH) -> None:
        torch.nn.Module.__init__(self)
        generator = torch.Generator().manual_seed(0)
        n_clusters = max(20, n_items // 200)
        wide = torch.randn(max(5, n_clusters // 50), width, generator=generator)
        own = torch.randint(len(wide), (n_clusters,), generator=generator)
        centres = wide[own] + 0.7 * torch.randn(n_clusters, width, generator=generator)
        drawn = torch.rand(n_items, generator=generator)
        self.cluster = (n_clusters * drawn.square()).long()  # the first ones are the largest
        table = centres[self.cluster]
        table += 0.5 * torch.randn(n_items, width, generator=generator)
        length = torch.exp(0.2 * torch.randn(n_items, 1, generator=generator))
        self.table = table * length
        self.n_users, self.n_items = 1, n_items

    def stages(self, data: object) -> list:
        raise NotImplementedError(data)

    def query_vectors(self, queries: Queries) -> torch.Tensor:
        last = torch.from_numpy(queries.histories.items.padded(2, 0))
        shaken = torch.randn(len(last), WIDTH, generator=torch.Generator().manual_seed(1))
        return self.table[last].mean(1)[:, : self.table.shape[1]] + 0.3 * shaken

    def item_vectors(self) -> torch.Tensor:
        return self.table

    def score(self, queries: Queries, items: torch.Tensor | None = None) -> torch.Tensor:
        assert items is None
        return self.query_vectors(queries) @ self.table.T

    def histories(self, count: int, seed: int) -> Queries:
        """Queries of two items each, half of them from one cluster."""
        generator = np.random.default_rng(seed)
        first = generator.integers(0, self.n_items, count)
        other = generator.integers(0, self.n_items, count)
        order = np.argsort(self.cluster.numpy(), kind="stable")
        place = np.argsort(order, kind="stable")[first]
        near = order[np.clip(place + generator.integers(-20, 20, count), 0, self.n_items - 1)]
        second = np.where(generator.random(count) < 0.5, near, other)
        return Queries.from_histories(np.stack([first, second], 1).tolist())

    def allowed(self, share: float, kind: str) -> NDArray[np.int64] | None:
        """Items that a filter allows: evenly spread, or whole clusters."""
        if share == 1:
            return None
        generator = np.random.default_rng(2)
        if kind == "spread":
            return np.sort(generator.choice(self.n_items, int(share * self.n_items), replace=False))
        counts = np.bincount(self.cluster.numpy())
        shuffled = generator.permutation(len(counts))
        chosen = shuffled[: np.searchsorted(np.cumsum(counts[shuffled]), share * self.n_items) + 1]
        return np.flatnonzero(np.isin(self.cluster.numpy(), chosen))


@dataclass(frozen=True)
class Found:
    """Share of the true ten best found, and median seconds of a request of both searches."""

    recall: float
    index: float
    exact: float


def measure(
    model: Vectors, search: VectorSearch, asked: Queries, allow: NDArray[np.int64] | None
) -> Found:
    """Ask both, one request at a time, seen items left out."""
    lists, seconds = [], []
    for searcher in (search, model):  # one behind the other: each would empty the other's cache
        items, times = [], []
        for row in range(len(asked)):
            one = asked.take(slice(row, row + 1))
            began = time.perf_counter()
            found = searcher.recommend(one, 10, exclude=one.histories.items, allow=allow)
            times.append(time.perf_counter() - began)
            items.append(found.items[0].numpy())
        lists.append(items)
        seconds.append(float(np.median(times)))
    shares = [np.isin(best, got).mean() for got, best in zip(*lists, strict=True)]
    return Found(float(np.mean(shares)), *seconds)


def build(n_items: int) -> tuple[Vectors, VectorSearch, float, float]:
    """A model, its index, and what the index took: seconds and MiB."""
    model, process = Vectors(n_items), psutil.Process()
    before, began = process.memory_info().rss, time.perf_counter()
    search = VectorSearch(model, model.histories(256, seed=3))
    return model, search, time.perf_counter() - began, (process.memory_info().rss - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--sizes", default="10000,30000,100000,300000")
    parser.add_argument("--queries", type=int, default=200)
    given = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, faiss {faiss.__version__}")
    print("items      build      memory   must see  filter          recall@10  index    exact")
    for n_items in [*(int(size) for size in given.sizes.split(",")), given.items]:
        model, search, seconds, memory = build(n_items)
        made = f"{n_items:<9,} {seconds:6.1f} s {memory:7.0f} MiB {search.seen[0]:8,.0f}"
        asked = model.histories(given.queries, seed=4)
        for share in SHARES if n_items == given.items else (1.0,):
            for kind in ("spread", "clusters") if share < 1 else ("",):
                found = measure(model, search, asked, model.allowed(share, kind))
                print(
                    f"{made}  {share:4.0%} {kind:<10} {found.recall:9.3f} "
                    f"{found.index * 1e3:7.2f} ms {found.exact * 1e3:7.2f} ms",
                    flush=True,
                )
                assert found.recall >= 0.95, "the index finds too few of the best"


if __name__ == "__main__":
    main()
