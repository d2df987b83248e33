"""A small world for the experiment tests: forty users who mostly walk a ring of thirty items."""

from __future__ import annotations

import csv

import numpy as np
import polars as pl
import pytest

from tastemaker import console
from tastemaker.data import Dataset

QUICK = {"epochs": 2, "hidden_size": 8, "max_length": 8, "num_layers": 1, "batch_size": 16}


def interactions() -> pl.DataFrame:
    rng = np.random.default_rng(7)
    rows = []
    for user in range(40):
        start = int(rng.integers(30))
        for step in range(12):
            hop = int(rng.integers(30)) if rng.random() < 0.1 else start + step
            rows.append((f"u{user:02d}", f"i{hop % 30:02d}", 1_600_000_000 + 100 * step + user))
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


def titles() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item": [f"i{item:02d}" for item in range(30)],
            "title": [f"Stop <{item}> & more" for item in range(30)],
        }
    )


@pytest.fixture
def quick():
    return dict(QUICK)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return Dataset.from_frame(
        interactions(), user="user", item="item", timestamp="time", items=titles(), name="ring"
    )


@pytest.fixture(autouse=True)
def _messages_as_before():
    quiet = console.is_quiet()
    yield
    console.set_quiet(quiet)


@pytest.fixture(scope="session")
def csv_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    for name, frame in (("log.csv", interactions()), ("items.csv", titles())):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(frame.columns)
            writer.writerows(frame.rows())
    return folder
