"""Import keeps to its memory; how long it takes is asked by benchmarks/csv_to_dataset.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from tastemaker.data import Dataset

ROWS = 4_000_000

IMPORT = """
import json, re, sys
import scipy.sparse
from tastemaker.data import import_files

def memory(field):
    status = open("/proc/self/status").read()
    return int(re.search(field + r":\\s+(\\d+) kB", status).group(1)) * 1024

base = memory("VmRSS")
data = import_files(sys.argv[1], user="user", item="item", label="rating", timestamp="timestamp")
data.save(sys.argv[2])
columns = data.interactions.nbytes
print(json.dumps({"peak": memory("VmHWM") - base, "columns": columns}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_four_million_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "user": rng.integers(0, 60_000, ROWS),
            "item": rng.integers(0, 20_000, ROWS),
            "rating": rng.integers(1, 11, ROWS) / 2,
            "timestamp": rng.integers(800_000_000, 1_500_000_000, ROWS),
        }
    )
    csv.write_csv(table, tmp_path / "log.csv")
    command = [sys.executable, "-c", IMPORT, str(tmp_path / "log.csv"), str(tmp_path / "stored")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = json.loads(output.splitlines()[-1])
    # the reader's fixed memory weighs more than in a large file
    assert figures["peak"] <= 3 * figures["columns"] + (150 << 20)

    stored = Dataset.open(tmp_path / "stored")
    assert stored.column("item").shape == (ROWS,)
    users, times = stored.column("user").astype(np.int64), stored.column("timestamp")
    assert np.all(np.diff(users * 10**10 + times) >= 0)
