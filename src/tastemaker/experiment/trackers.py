"""Mirrors of the metrics log: the run folder is the truth, TensorBoard and MLflow may follow it.

A tracker is a listener of the training: it is called with each record of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import ConfigError, nearest
from tastemaker.extras import require

if TYPE_CHECKING:
    from tastemaker.training.loop import Record

__all__ = ["TRACKERS", "following"]

Listener = Callable[["Record"], None]


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record worth a curve: `"<stage>/loss"`, `"valid/ndcg@10"`, ..."""
    stage = record["stage"]
    found = {
        f"{stage}/{name}": float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and name not in ("epoch", "step")
    }
    return found | {f"valid/{name}": float(v) for name, v in record.get("valid", {}).items()}


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Listener]:
    """Event files under the run's `tensorboard/`."""
    require("tensorboard", extra="track", purpose="--track tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    opened: list[SummaryWriter] = []  # at the first record, when the run has claimed its folder

    def listen(record: Record) -> None:
        if not opened:
            opened.append(SummaryWriter(str(folder / "tensorboard")))
        for name, value in scalars(record).items():
            opened[0].add_scalar(name, value, record.get("step", 0))

    try:
        yield listen
    finally:
        for writer in opened:
            writer.close()


@contextmanager
def _mlflow(folder: Path) -> Iterator[Listener]:
    """A run named like the folder, where MLFLOW_TRACKING_URI points."""
    mlflow = require("mlflow", extra="track", purpose="--track mlflow")

    def listen(record: Record) -> None:
        if mlflow.active_run() is None:
            mlflow.start_run(run_name=folder.name)
        # MLflow does not take "@" in names.
        values = {name.replace("@", "_at_"): v for name, v in scalars(record).items()}
        mlflow.log_metrics(values, step=record.get("step", 0))

    try:
        yield listen
    finally:
        mlflow.end_run()


TRACKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow}


@contextmanager
def following(names: Sequence[str], folder: Path) -> Iterator[list[Listener]]:
    """Listeners that mirror a training into the named trackers.

    Raises:
        ConfigError: for an unknown tracker.
        MissingExtraError: when its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(
                f"unknown tracker {name!r}{nearest(name, TRACKERS)}; known: {', '.join(TRACKERS)}"
            )
    with ExitStack() as open_trackers:
        yield [open_trackers.enter_context(TRACKERS[name](folder)) for name in names]
