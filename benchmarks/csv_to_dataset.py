"""A large CSV file to a stored data set: seconds and peak memory.

Twenty million random ratings. Ours imports the file and stores the columns; "reopened" opens what
was stored and, for each way to split, deals the rows out, checks for leaks and collects the
training histories. RecTools reads the file with pandas and builds its data set, RecBole builds its
own from the same rows in its format; neither stores anything. Memory counts above what Python and
the libraries take; `times_columns` is the peak over the bytes of the columns.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from harness import Case, Numbers, Question, Side, Target
from measuring import peak_memory, seconds_of

SPLITS = {
    "leave_one_out": "leave-one-out",
    "ratio": "ratio:valid=0.1,test=0.1,by=user,order=time",
    "global_time": "global-time:valid=0.1,test=0.1",
    "held_out_users": "held-out-users:valid=0.1,test=0.1,fold_in=0.8",
    "cold_items": "cold-items:valid=0.1,test=0.1",
}


def prepare(given: SimpleNamespace) -> None:
    """MovieLens-like ratings: 138,000 users, 27,000 items with a long tail, 20 years."""
    import pyarrow as pa
    from pyarrow import csv

    rng = np.random.default_rng(given.seed)
    names = ["user", "item", "rating", "timestamp"]
    types = [pa.int64(), pa.int64(), pa.float64(), pa.int64()]
    path, theirs = Path(given.folder) / "ratings.csv", Path(given.folder) / "dataset" / "log"
    with csv.CSVWriter(path, pa.schema(zip(names, types, strict=True))) as writer:
        for start in range(0, given.rows, 1 << 20):
            size = min(1 << 20, given.rows - start)
            columns = [
                rng.integers(0, 138_000, size),
                (27_000 * rng.random(size) ** 3).astype(np.int64),
                rng.integers(1, 11, size) / 2,
                rng.integers(800_000_000, 1_500_000_000, size),
            ]
            writer.write_batch(pa.record_batch(columns, names=names))
    theirs.mkdir(parents=True)
    header = "user_id:token,item_id:token,rating:float,timestamp:float\n"
    with path.open("rb") as source, (theirs / "log.inter").open("wb") as target:
        source.readline()
        target.write(header.encode())
        while block := source.read(1 << 24):
            target.write(block)


def ours(given: SimpleNamespace) -> Numbers:
    import scipy.sparse  # noqa: F401 - what the libraries take is not the import's

    from tastemaker.data import import_files

    folder = Path(given.folder)
    base = peak_memory("VmRSS")
    started, worked = time.perf_counter(), time.process_time()
    source = folder / "ratings.csv"
    data = import_files(source, user="user", item="item", label="rating", timestamp="timestamp")
    data.save(folder / "stored", replace=True)
    seconds, peak = time.perf_counter() - started, peak_memory() - base
    return {
        "rows_per_second": given.rows / seconds,
        "seconds": seconds,
        "processor_seconds": time.process_time() - worked,
        "peak_megabytes": peak / 1e6,
        "times_columns": peak / data.interactions.nbytes,
    }


def reopened(given: SimpleNamespace) -> Numbers:
    from tastemaker.data import Dataset, split

    opened = seconds_of(lambda: Dataset.open(Path(given.folder) / "stored"))
    data = Dataset.open(Path(given.folder) / "stored")
    spent = {
        f"{name}_seconds": seconds_of(lambda spec=spec: split(data, spec).train.histories())
        for name, spec in SPLITS.items()
    }
    return {"open_seconds": opened, **spent}


QUESTION = Question(
    "CSV to Dataset: rows a second",
    cases=[Case("20 M rows", {"rows": 20_000_000})],
    sides=[
        Side("ours", ours),
        Side("reopened", reopened),
        Side("RecTools", "rectools_import.py", "n1", rounds=1),
        Side("RecBole", "recbole_import.py", "n1", rounds=1),
    ],
    targets=[
        Target("CSV to Dataset", "seconds", at_most=12),
        Target("CSV to Dataset, memory", "times_columns", at_most=3),
        Target("CSV to Dataset", "rows_per_second", "RecTools", at_least=10),
        Target("CSV to Dataset", "rows_per_second", "RecBole", at_least=10),
        Target("stored data set", "open_seconds", at_most=0.2, side="reopened"),
        *(Target("split", f"{name}_seconds", at_most=3, side="reopened") for name in SPLITS),
    ],
    prepare=prepare,
    rounds=2,
    quick={"rows": 200_000},
)

if __name__ == "__main__":
    QUESTION.main()
