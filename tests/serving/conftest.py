"""A few runs to serve, trained once."""

from __future__ import annotations

import pytest

from tastemaker.data import split
from tastemaker.experiment.fitting import fit
from tastemaker.serving.loaded import LoadedRun
from tastemaker.testing import tiny_dataset

SMALL = {"epochs": 3, "hidden_size": 16, "batch_size": 16}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Name -> run folder, on the tiny data set."""
    place = tmp_path_factory.mktemp("runs")
    dealt = split(tiny_dataset(), "leave-one-out")
    settings = {"ease": {}, "popularity": {}, "sasrec": SMALL}
    for name, given in settings.items():
        fit(dealt, name, out=place / name, device="cpu", **given)
    return {name: place / name for name in settings}


@pytest.fixture(scope="session")
def loaded(folders):
    """Name -> loaded run."""
    return {name: LoadedRun.open(name, folder, device="cpu") for name, folder in folders.items()}
