"""Lists for every user of a run, in one Parquet file, however many there are.

Users are answered in shards. A shard is a file that appears whole; an interrupted command finds
those that are there and goes on with the rest. Memory is that of one shard, in each process.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from tastemaker.console import Progress
from tastemaker.data.queries import Ragged
from tastemaker.errors import ConfigError
from tastemaker.experiment.answers import known_users
from tastemaker.experiment.cluster import HERE, Engine
from tastemaker.experiment.run import Run, open_run
from tastemaker.files import writing_file

__all__ = ["BatchJob", "recommend_everybody"]

_SHARD = 1 << 15  # users of a shard


@dataclass(frozen=True)
class BatchJob:
    """What is asked of a run for all of its users.

    Attributes:
        run: folder of the run.
        out: the Parquet file to make.
        k: length of a list.
        include_seen: whether items of the history may come.
        device: where the model answers.
        shard: users answered into one file.
    """

    run: Path
    out: Path
    k: int = 10
    include_seen: bool = False
    device: str = "auto"
    shard: int = _SHARD

    @property
    def folder(self) -> Path:
        """Where shards wait; named after what was asked, so that another job finds none."""
        state = (self.run / "run.json").read_bytes()
        asked = json.dumps([self.k, self.include_seen, self.shard]).encode()
        digest = hashlib.sha256(state + asked).hexdigest()[:16]
        return self.out.with_name(f".{self.out.name}.{digest}.shards")

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:06d}.parquet"

    def missing(self, n_users: int) -> list[int]:
        """Shards that are not there yet."""
        n_shards = -(-n_users // self.shard)
        return [number for number in range(n_shards) if not self.path(number).exists()]

    def answer(self, run: Run, number: int) -> int:
        """Write one shard; returns how many users it has."""
        first = number * self.shard
        users = np.arange(first, min(first + self.shard, run.dataset.n_users), dtype=np.int64)
        with writing_file(self.path(number)) as temporary:
            pq.write_table(_lists(run, users, self), temporary, compression="zstd")
        return len(users)


def recommend_everybody(job: BatchJob, engine: Engine = HERE) -> int:
    """Answer every user of a run into `job.out`; returns how many there are.

    Columns: user and item (raw ids, in their own types), rank from 1, score (float32). Rows are in
    the order of the users' codes and of the ranks. A user gets fewer rows where fewer items are
    left.

    Raises:
        ConfigError: when k is below 1, or the file is there already.
        RunError: when there is no finished run.
    """
    n_users = _prepare(job)
    missing = job.missing(n_users)
    with Progress("recommending", n_users, unit="users") as progress:
        progress.advance(n_users - sum(_size(job, number, n_users) for number in missing))
        shards = engine.spread(_answer, job, missing, folder=job.folder)
        for size in shards:
            progress.advance(size)
    join_shards(job, n_users)
    _opened.cache_clear()
    return n_users


def _prepare(job: BatchJob) -> int:
    """Begin a job or go on with it; returns how many users there are."""
    if job.k < 1:
        raise ConfigError(f"k is {job.k}; ask for at least one item")
    if job.out.exists():
        raise ConfigError(f"{job.out} is there already; remove it, or name another file")
    n_users = _opened(job.run, job.device, job.folder).dataset.n_users
    job.folder.mkdir(parents=True, exist_ok=True)
    return n_users


@lru_cache(maxsize=1)
def _opened(folder: Path, device: str, _: Path) -> Run:
    """The run, opened once by a process that answers many shards of one job."""
    return open_run(folder, device=device)


def _answer(job: BatchJob, number: int) -> int:
    return job.answer(_opened(job.run, job.device, job.folder), number)


def join_shards(job: BatchJob, n_users: int) -> None:
    """Make the one file of all shards, shard by shard, and remove them."""
    paths = [job.path(number) for number in range(-(-n_users // job.shard))]
    with writing_file(job.out) as temporary:
        schema = pq.read_schema(paths[0])
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for table in _tables(paths):
                writer.write_table(table)
    shutil.rmtree(job.folder)


def _tables(paths: Sequence[Path]) -> Iterator[pa.Table]:
    for path in paths:
        yield pq.read_table(path)


def _size(job: BatchJob, number: int, n_users: int) -> int:
    return min(job.shard, n_users - number * job.shard)


def _lists(run: Run, users: NDArray[np.int64], job: BatchJob) -> pa.Table:
    """The lists of some users as a table."""
    queries = known_users(run.split.train, users)
    exclude: Ragged | None = None if job.include_seen else queries.histories.items
    with torch.inference_mode():
        found = run.model.recommend(queries, job.k, exclude=exclude)
    items, scores = found.items.cpu().numpy(), found.scores.float().cpu().numpy()
    kept = items >= 0
    rows, ranks = np.nonzero(kept)
    return pa.table(
        {
            "user": run.dataset.user_ids.decode(users[rows]),
            "rank": pa.array((ranks + 1).astype(np.int32)),
            "item": run.dataset.item_ids.decode(items[kept]),
            "score": pa.array(scores[kept]),
        }
    )
