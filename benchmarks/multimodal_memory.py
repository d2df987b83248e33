"""What do item features cost a graph method: seconds to join items, seconds an epoch, memory.

    python benchmarks/multimodal_memory.py [DATA]

Each method trains for two epochs in a process of its own. `graph` is the stage before training
(for FREEDOM the nearest items of every item), `peak` what the process holds at most beyond what it
held with the data loaded, `kept` the size of the trained parameters. Item vectors come from the
cache, where the first run puts them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

from tastemaker.console import set_quiet
from tastemaker.data import load, split
from tastemaker.models.catalog import find
from tastemaker.training import fit

METHODS = ("lightgcn", "freedom", "bm3")
SETTINGS = {"num_layers": 2, "batch_size": 8192, "epochs": 2, "monitor": None}


def peak() -> float:
    """Most bytes this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(data: str, method: str) -> dict[str, object]:
    """One training."""
    set_quiet(True)
    train = split(load(data), "leave-one-out").train
    model = find(method).load().create(SETTINGS, train.dataset, seed=0)
    before, began = peak(), time.perf_counter()
    records = fit(model, train, seed=0, device="cpu").records
    epochs = [record["seconds"] for record in records if "epoch" in record]
    return {
        "method": method,
        "graph": time.perf_counter() - began - sum(epochs),
        "epoch": epochs[-1],
        "peak": peak() - before,
        "kept": sum(value.nbytes for value in model.parameters()) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", default="microlens-50k")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.method:
        print(json.dumps(measure(given.data, given.method)))
        return
    for method in METHODS:
        command = [sys.executable, __file__, given.data, "--method", method]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{method}: before training {found['graph']:.1f} s, epoch {found['epoch']:.1f} s, "
            f"peak {found['peak']:.0f} MiB, parameters {found['kept']:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
