"""Several processes train one model: the same trajectory as one process, validated once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder, *launcher):
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *launcher, str(Path(__file__).with_name("two_processes.py")), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_two_processes_follow_the_trajectory_of_one(tmp_path):
    (alone,) = run(tmp_path / "alone")
    together = run(
        tmp_path / "together",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
    )
    assert sorted(process["rank"] for process in together) == [0, 1]
    for process in together:
        assert process["losses"] == pytest.approx(alone["losses"], abs=1e-5)
        assert process["weights"] == pytest.approx(alone["weights"], abs=1e-5)
        assert process["validations"] == (3 if process["rank"] == 0 else 0)
    log = (tmp_path / "together" / "metrics.jsonl").read_text().splitlines()
    assert len(log) == 3
