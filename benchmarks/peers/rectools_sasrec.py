"""RecTools' SASRec with the full softmax: training steps for a while."""

import logging
import time
import warnings
from types import SimpleNamespace
from typing import Any

from common import answer, read_log, settings

warnings.filterwarnings("ignore")
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

from pytorch_lightning import Callback, Trainer, seed_everything  # noqa: E402
from rectools.models import SASRecModel  # noqa: E402

from rectools_log import dataset_of  # noqa: E402

given = settings()


clock = SimpleNamespace(began=0.0, started=0.0, spent=0.0, targets=0, steps=0)


class Clock(Callback):
    """Counts targets and steps after `warm` seconds, and stops after `seconds` more.

    RecTools copies its trainer, so what is counted is kept outside.
    """

    def on_train_start(self, *_: Any) -> None:
        clock.began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, _: Any, __: Any, batch: Any, *___: Any) -> None:
        now = time.perf_counter()
        if not clock.started:
            clock.started = now if now - clock.began >= given.warm else 0.0
            return
        clock.targets, clock.steps = clock.targets + int((batch["y"] != 0).sum()), clock.steps + 1
        if now - clock.started >= given.seconds:
            clock.spent, trainer.should_stop = now - clock.started, True


def trainer() -> Trainer:
    return Trainer(
        max_epochs=1000,
        min_epochs=0,
        accelerator="cpu",
        callbacks=[Clock()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


seed_everything(given.seed, verbose=False)
model = SASRecModel(
    n_blocks=given.layers,
    n_heads=given.heads,
    n_factors=given.width,
    session_max_len=given.length,
    batch_size=given.batch_size,
    loss="softmax",
    lr=2e-3,
    get_trainer_func=trainer,
)
model.fit(dataset_of(read_log(given)))
rates = {"targets_per_second": clock.targets, "steps_per_second": clock.steps}
answer({name: count / clock.spent for name, count in rates.items()}, "rectools", "torch", "numpy")
