"""A large CSV file to a stored data set: seconds and peak memory against their limits.

    python benchmarks/csv_to_dataset.py [ROWS]

Writes ROWS (20 million) random ratings, imports and stores them in a fresh process, and opens them
in others, one a split, to deal them out, check for leaks and collect all training histories. The
last line is JSON; a ratio of 1 or less keeps the limit: 12 seconds and 3 times the columns' bytes
to import 20 million rows on two cores, 0.2 seconds to reopen, 3 seconds for a split and histories.
Memory counts above what Python and the libraries take.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROWS = 20_000_000
SPLITS = {
    "leave-one-out": "leave-one-out",
    "ratio": "ratio:valid=0.1,test=0.1,by=user,order=time",
    "global-time": "global-time:valid=0.1,test=0.1",
    "held-out-users": "held-out-users:valid=0.1,test=0.1,fold_in=0.8",
    "cold-items": "cold-items:valid=0.1,test=0.1",
}
LIMITS = {"import": 12.0, "reopen": 0.2, **dict.fromkeys(SPLITS, 3.0)}
MEMORY = 3.0


def write_csv(path: Path, rows: int) -> None:
    """MovieLens-like ratings: 138,000 users, 27,000 items with a long tail, 20 years."""
    import pyarrow as pa
    from pyarrow import csv

    rng = np.random.default_rng(0)
    names = ["user", "item", "rating", "timestamp"]
    types = [pa.int64(), pa.int64(), pa.float64(), pa.int64()]
    with csv.CSVWriter(path, pa.schema(zip(names, types, strict=True))) as writer:
        for start in range(0, rows, 1 << 20):
            size = min(1 << 20, rows - start)
            columns = [
                rng.integers(0, 138_000, size),
                (27_000 * rng.random(size) ** 3).astype(np.int64),
                rng.integers(1, 11, size) / 2,
                rng.integers(800_000_000, 1_500_000_000, size),
            ]
            writer.write_batch(pa.record_batch(columns, names=names))


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) * 1024


def import_csv(source: str, folder: str) -> dict[str, float]:
    """Import and store; seconds, bytes of the columns, and peak bytes above the start."""
    import scipy.sparse  # noqa: F401 - what the libraries take is not the import's

    from tastemaker.data import import_files

    base = memory("VmRSS")
    start, worked = time.perf_counter(), time.process_time()
    data = import_files(source, user="user", item="item", label="rating", timestamp="timestamp")
    data.save(folder)
    return {
        "import": time.perf_counter() - start,
        "processor": time.process_time() - worked,
        "columns": data.interactions.nbytes,
        "peak": memory("VmHWM") - base,
    }


def reopen(folder: str, name: str) -> dict[str, float]:
    """Open the stored data set, split it and collect the training histories; seconds of both."""
    from tastemaker.data import Dataset, split

    start = time.perf_counter()
    data = Dataset.open(folder)
    opened = time.perf_counter()
    split(data, SPLITS[name]).train.histories()
    return {"reopen": opened - start, name: time.perf_counter() - opened}


def in_fresh_process(*arguments: str) -> dict[str, float]:
    """One step of the benchmark in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main(rows: int) -> None:
    """Run all steps and print figures and ratios."""
    with tempfile.TemporaryDirectory() as temporary:
        source, folder = f"{temporary}/ratings.csv", f"{temporary}/stored"
        write_csv(Path(source), rows)
        print(f"{rows:,} rows, {Path(source).stat().st_size / 1e6:,.0f} MB of CSV")
        figures = in_fresh_process("import", source, folder)
        for name in SPLITS:
            figures |= in_fresh_process("reopen", folder, name)
    scale = rows / ROWS
    ratios = {
        step: figures[step] / (limit if step == "reopen" else limit * scale)
        for step, limit in LIMITS.items()
    }
    times_columns = figures["peak"] / figures["columns"]
    ratios["memory"] = times_columns / MEMORY
    for step in LIMITS:
        print(f"{step}: {figures[step]:.2f} s, {ratios[step]:.2f} of the limit")
    print(f"import, processor time: {figures['processor']:.2f} s")
    print(
        f"peak memory: {figures['peak'] / 1e6:,.0f} MB, {times_columns:.2f} times the columns' "
        f"{figures['columns'] / 1e6:,.0f} MB, {ratios['memory']:.2f} of the limit"
    )
    print(json.dumps({"rows": rows, **{name: round(ratio, 3) for name, ratio in ratios.items()}}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["import", source, folder]:
            print(json.dumps(import_csv(source, folder)))
        case ["reopen", folder, name]:
            print(json.dumps(reopen(folder, name)))
        case [rows]:
            main(int(rows))
        case _:
            main(ROWS)
