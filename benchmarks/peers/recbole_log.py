"""A log as RecBole reads it, and its training steps for a while."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from common import read_log

__all__ = ["prepared", "training_rate", "written", "written_in_parts"]

SETTINGS = {
    "data_path": "dataset",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "show_progress": False,
    "state": "ERROR",
    "use_gpu": False,
    "reproducibility": False,
}


def written(given: SimpleNamespace) -> None:
    """An atomic file of what is known and what came, for RecBole to leave the last ones out."""
    log = read_log(given)
    users = np.concatenate([log.known_users, log.target_users])
    items = np.concatenate([log.known_items, log.target_items])
    order = np.argsort(users, kind="stable")  # targets behind what is known
    write("log", users[order], items[order])


def written_in_parts(given: SimpleNamespace) -> dict[str, list[str]]:
    """Atomic files of the training rows and of what came; returns the setting that names them."""
    log = read_log(given)
    write("log.train", log.users, log.items)
    write("log.valid", log.target_users[:1], log.target_items[:1])
    write("log.test", log.target_users, log.target_items)
    return {"benchmark_filename": ["train", "valid", "test"]}


def write(name: str, users: np.ndarray, items: np.ndarray) -> None:
    """Rows by user, their places as times."""
    folder = Path("dataset/log")
    folder.mkdir(parents=True, exist_ok=True)
    moments = np.arange(len(users)) - np.searchsorted(users, users)
    header = "user_id:token\titem_id:token\ttimestamp:float"
    lines = np.column_stack([users, items, moments])
    np.savetxt(folder / f"{name}.inter", lines, "%d", "\t", header=header, comments="")


def prepared(given: SimpleNamespace, model: str, **settings: Any) -> tuple[Any, Any, Any]:
    """The trainer of a fresh model, with the loaders of its training and test parts."""
    sys.argv = sys.argv[:1]  # RecBole takes settings from there
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    logging.disable(logging.WARNING)
    chosen = {"seed": given.seed, **SETTINGS, **settings}
    config = Config(model=model, dataset="log", config_dict=chosen)
    init_seed(config["seed"], config["reproducibility"])
    train, _, test = data_preparation(config, create_dataset(config))
    made = get_model(config["model"])(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, made)
    return trainer, train, test


class Timed:
    """Batches of a loader, again and again, until `seconds` have passed after `warm` ones."""

    def __init__(self, loader: Any, warm: float, seconds: float) -> None:
        self.loader, self.warm, self.seconds = loader, warm, seconds
        self.targets, self.steps, self.spent = 0, 0, 0.0
        self.shuffle = False

    def __iter__(self) -> Iterator[Any]:
        began, started = time.perf_counter(), None
        while True:
            for batch in self.loader:
                now = time.perf_counter()
                if started is None and now - began >= self.warm and self.steps:
                    started, self.targets, self.steps = now, 0, 0
                elif started is not None and now - started >= self.seconds:
                    self.spent = now - started
                    return
                yield batch
                self.targets, self.steps = self.targets + len(batch), self.steps + 1


def training_rate(given: SimpleNamespace, trainer: Any, train: Any) -> dict[str, float]:
    """Steps of RecBole's own epoch; at least one before the clock starts and one after."""
    timed = Timed(train, given.warm, given.seconds)
    trainer._train_epoch(timed, 0)
    return {
        "targets_per_second": timed.targets / timed.spent,
        "steps_per_second": timed.steps / timed.spent,
    }
