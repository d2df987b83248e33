"""RecTools' SASRec, epoch by epoch until NDCG@10 is `level` or `cap` seconds are spent."""

import logging
import time
import warnings

import numpy as np

from common import answer, ndcg, read_log, settings

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

from pytorch_lightning import Trainer, seed_everything  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.models import SASRecModel  # noqa: E402

from rectools_log import dataset_of  # noqa: E402

given = settings()
log = read_log(given)
train, known = dataset_of(log), dataset_of(log, "known_")
users = np.unique(log.target_users)


def trainer() -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def quality(model: SASRecModel) -> float:
    """NDCG@10 of the test part; places that no item has are filled with none."""
    found = model.recommend(users, known, k=10, filter_viewed=True, on_unsupported_targets="ignore")
    rows, columns = np.searchsorted(users, found[Columns.User]), found[Columns.Rank] - 1
    lists = np.full((len(users), 10), -1)
    lists[rows, columns] = found[Columns.Item]
    return ndcg(log, users, lists)


seed_everything(given.seed, verbose=False)
model = SASRecModel(
    n_blocks=given.layers,
    n_heads=given.heads,
    n_factors=given.width,
    session_max_len=given.length,
    batch_size=given.batch_size,
    loss="softmax",
    get_trainer_func=trainer,
)
spent, epochs, value = 0.0, 0, 0.0
while spent < given.cap and value < given.level:
    began = time.perf_counter()
    model.fit_partial(train, 1, 1)
    spent, epochs = spent + time.perf_counter() - began, epochs + 1
    value = quality(model)
reached = value >= given.level
answer(
    {
        "seconds": spent if reached else spent / epochs * max(epochs, given.epochs),
        "epoch_seconds": spent / epochs,
        "epochs": epochs,
        "reached": float(reached),
        "ndcg@10": value,
    },
    "rectools",
    "torch",
)
