"""Data whose item features are known: groups of items that like users take."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tastemaker.data import Dataset, TrainingSet, read_folder
from tests.models.toys import random_matrix


def featured(
    matrix: np.ndarray | None = None, *, missing: tuple[int, ...] = (), noise: bool = False
) -> TrainingSet:
    """The training set of a 0/1 matrix [U, N]; item i belongs to group i % 5.

    Its features are near those of its group in the embedding columns `shape` [6] and `sound` [3],
    or of no group with `noise`; items in `missing` have zeros and no title. Titles name the group.
    """
    matrix = random_matrix(40, 30) if matrix is None else matrix
    n_users, n_items = matrix.shape
    generator = np.random.default_rng(0)
    columns = {}
    for name, width in (("shape", 6), ("sound", 3)):
        centres = generator.normal(size=(5, width))[np.arange(n_items) % 5]
        near = centres * (not noise) + 0.1 * generator.normal(size=(n_items, width))
        near[list(missing)] = 0
        columns[name] = near.astype(np.float32)
    every = np.arange(max(n_users, n_items))  # a log that fixes the codes: first come, first coded
    dataset = Dataset.from_frame(
        pl.DataFrame({"user": every.clip(max=n_users - 1), "item": every.clip(max=n_items - 1)}),
        user="user",
        item="item",
        items=pl.DataFrame(
            {
                "item": np.arange(n_items),
                "title": [
                    "" if item in missing else f"number {item} of group {'abcde'[item % 5]}"
                    for item in range(n_items)
                ],
                **columns,
            }
        ),
        item_id="item",
        name="featured",
    )
    return TrainingSet.whole(dataset.with_interactions(*np.nonzero(matrix), {}))


def published(name: str) -> Dataset:
    """A real data set, found in TASTEMAKER_DATA."""
    for root in filter(None, os.environ.get("TASTEMAKER_DATA", "").split(os.pathsep)):
        if (Path(root) / name / "dataset.toml").is_file():
            return read_folder(Path(root) / name)
    pytest.skip(f"{name} is in no folder of TASTEMAKER_DATA")
