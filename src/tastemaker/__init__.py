"""Tastemaker: one system for recommendation, from an interaction log to honest recommendations.

The front door, in five lines:

    import tastemaker as tm
    split = tm.split(tm.load("ml-100k"), "leave-one-out")
    run = tm.fit(split, "sasrec", out="runs/first", seed=0, hidden_size=64)
    print(run.evaluate())
    print(run.recommend(users=["1"], k=10))

Names are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tastemaker.waiting import choose_waiting

if TYPE_CHECKING:
    from tastemaker.data import Dataset, split
    from tastemaker.data.catalog import load
    from tastemaker.experiment.compare import compare
    from tastemaker.experiment.fitting import fit
    from tastemaker.experiment.run import Run, open_run

    dataset = Dataset.from_frame

__all__ = [
    "Dataset",
    "Run",
    "__version__",
    "compare",
    "dataset",
    "fit",
    "load",
    "open_run",
    "split",
]

__version__ = "0.1.0"

choose_waiting()

_HOMES = {
    "Dataset": ("tastemaker.data", "Dataset"),
    "Run": ("tastemaker.experiment.run", "Run"),
    "compare": ("tastemaker.experiment.compare", "compare"),
    "dataset": ("tastemaker.data", "Dataset.from_frame"),
    "fit": ("tastemaker.experiment.fitting", "fit"),
    "load": ("tastemaker.data.catalog", "load"),
    "open_run": ("tastemaker.experiment.run", "open_run"),
    "split": ("tastemaker.data", "split"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tastemaker' has no attribute {name!r}")
    module, path = _HOMES[name]
    value: Any = importlib.import_module(module)
    for step in path.split("."):
        value = getattr(value, step)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
