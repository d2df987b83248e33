"""Fitting: the stages of a method run in order, each checkpointed and resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from tastemaker.console import say
from tastemaker.data.training_set import TrainingSet
from tastemaker.errors import RunError
from tastemaker.training.artifacts import product_of
from tastemaker.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from tastemaker.training.loop import GradientLoop, Record
from tastemaker.training.placement import World, choose_device, joined_world
from tastemaker.training.randomness import seeded
from tastemaker.training.stages import ComputeStage, GradientStage, Stage

__all__ = ["CHECKPOINT", "FitResult", "Trainable", "fit"]

CHECKPOINT = "checkpoint.safetensors"  # in the folder of a fit that is under way


class Trainable(Protocol):
    """What fitting asks of a model, beside being a `torch.nn.Module`."""

    def stages(self, data: TrainingSet) -> Sequence[Stage]:
        """The training, in order."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything learned, on the CPU."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take over a stored state."""
        ...


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Attributes:
        seconds: spent training and validating, summed over resumed parts.
        records: the metrics log, one record an epoch or compute stage.
        best: stage name -> epoch (from 0) whose weights were kept, for monitored stages.
    """

    seconds: float
    records: Sequence[Record] = field(repr=False)
    best: Mapping[str, int]


def fit(
    model: nn.Module,
    data: TrainingSet,
    *,
    seed: int = 0,
    device: str = "auto",
    validate: Callable[[], Mapping[str, float]] | None = None,
    folder: Path | str | None = None,
    checkpoint_seconds: float = 60.0,
    listeners: Sequence[Callable[[Record], None]] = (),
) -> FitResult:
    """Train `model` on `data`, continuing from the checkpoint in `folder` if there is one.

    Started by `torchrun`, the processes train one model together: each computes its part of every
    batch, the leading one validates and writes.

    Args:
        model: a `Trainable` module.
        data: what to train on.
        seed: of every random stream; same seed, same device, same weights.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, ...
        validate: called with the model in eval mode; returns metrics by name.
        folder: where `metrics.jsonl` and checkpoints are kept; `None` keeps nothing on disk.
        checkpoint_seconds: time between checkpoints within a stage.
        listeners: called with each record in the leading process; may raise to stop the fit.

    Raises:
        RunError: when `folder` holds a checkpoint of a different training or a damaged one.
    """
    place = choose_device(device)
    with joined_world(place) as world, seeded(seed, "fit"):
        fitting = _Fitting(
            model.to(place),
            data,
            seed=seed,
            device=place,
            world=world,
            validate=validate,
            folder=None if folder is None else Path(folder),
            checkpoint_seconds=checkpoint_seconds,
            listeners=listeners,
        )
        return fitting.run()


class _Fitting:
    """One fit under way: which stage it is in, its log, its clock."""

    def __init__(
        self,
        model: Any,
        data: TrainingSet,
        *,
        seed: int,
        device: torch.device,
        world: World,
        validate: Callable[[], Mapping[str, float]] | None,
        folder: Path | None,
        checkpoint_seconds: float,
        listeners: Sequence[Callable[[Record], None]],
    ) -> None:
        self.model, self.data, self.seed, self.device = model, data, seed, device
        self.world, self.validate, self.listeners = world, validate, listeners
        self.folder, self.checkpoint_seconds = folder, checkpoint_seconds
        self.stages = list(model.stages(data))
        self.records: list[Record] = []
        self.best: dict[str, int] = {}
        self.stage_index = 0
        self.seconds_before = 0.0
        self._started = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self._started

    def run(self) -> FitResult:
        inside = self._resume()
        for index in range(self.stage_index, len(self.stages)):
            self.stage_index = index
            stage = self.stages[index]
            if isinstance(stage, ComputeStage):
                self._compute(stage)
            else:
                self._train(stage, inside)
            inside = None
            self._save(Checkpoint({}, {}), stage_index=index + 1)
        self.model.eval()
        return FitResult(self.seconds, self.records, self.best)

    def _compute(self, stage: ComputeStage) -> None:
        started = time.monotonic()
        self.model.eval()
        product: Mapping[str, Tensor] = {}
        if stage.key is None or self.world.leads:
            with seeded(self.seed, stage.name):
                product = product_of(stage)
        self.world.wait()
        if stage.key is not None and not self.world.leads:
            product = product_of(stage)
        stage.apply({name: value.to(self.device) for name, value in product.items()})
        self._note({"stage": stage.name, "seconds": round(time.monotonic() - started, 3)})

    def _train(self, stage: GradientStage, inside: Checkpoint | None) -> None:
        loop = GradientLoop(
            stage,
            self.model,
            seed=self.seed,
            device=self.device,
            world=self.world,
            validate=self.validate,
        )
        if inside is not None:
            loop.restore(inside)
            standing = loop.standing
            say(f"resuming {stage.name} at epoch {standing.epoch + 1}, step {standing.step}")

        def after_turn() -> None:
            if time.monotonic() - self._saved >= self.checkpoint_seconds:
                self._save(loop.checkpoint(), stage_index=self.stage_index)

        for record in loop.run(after_turn):
            self._note(record)
            after_turn()
        if loop.best:
            self.best[stage.name] = loop.standing.best_epoch

    def _note(self, record: Record) -> None:
        """Log a record: to the caller, the file, the terminal, the listeners."""
        self.records.append(record)
        if not self.world.leads:
            return
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
        say(_line(record))
        for listener in self.listeners:
            listener(record)

    def _save(self, inside: Checkpoint, *, stage_index: int) -> None:
        """Write the checkpoint of this moment."""
        if self.folder is None or not self.world.leads:
            return
        state = {
            "stages": [stage.name for stage in self.stages],
            "stage_index": stage_index,
            "seed": self.seed,
            "data": self.data.fingerprint,
            "seconds": self.seconds,
            "records": len(self.records),
            "best": self.best,
            "inside": dict(inside.state),
        }
        write_checkpoint(
            self.folder / CHECKPOINT,
            Checkpoint(state, {"model": self.model.state(), **inside.tensors}),
        )
        self._saved = time.monotonic()

    def _resume(self) -> Checkpoint | None:
        """Take over the checkpoint in the folder; returns where inside a stage it was taken."""
        found = None if self.folder is None else read_checkpoint(self.folder / CHECKPOINT)
        if found is None:
            self._rewind_log(0)
            return None
        mine = {
            "stages": [stage.name for stage in self.stages],
            "seed": self.seed,
            "data": self.data.fingerprint,
        }
        for name, value in mine.items():
            if found.state[name] != value:
                raise RunError(
                    f"{self.folder} holds a checkpoint of another training: its {name} is "
                    f"{found.state[name]!r}, this one's is {value!r}; choose another folder"
                )
        tensors = dict(found.tensors)
        self.model.load_state(tensors.pop("model", {}))
        self.stage_index = found.state["stage_index"]
        self.seconds_before = found.state["seconds"]
        self.best = dict(found.state["best"])
        self._rewind_log(found.state["records"])
        inside = found.state["inside"]
        return Checkpoint(inside, tensors) if inside else None

    def _rewind_log(self, n_records: int) -> None:
        """Drop log lines written after the checkpoint: their epochs are trained again."""
        path = None if self.folder is None else self.folder / "metrics.jsonl"
        if path is None or not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines()[:n_records]
        self.records = [json.loads(line) for line in lines]
        if self.world.leads:
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _line(record: Record) -> str:
    """A record as one line for a person."""
    words = [str(record["stage"])]
    if "epoch" in record:
        words.append(f"epoch {record['epoch'] + 1}")
        words += [f"{name} {record[name]:.4f}" for name in record if name.endswith("loss")]
        words.append(f"{record['rows_per_second']:,.0f} rows/s")
    words.append(f"{record['seconds']:.1f} s")
    words += [f"{name} {value:.4f}" for name, value in record.get("valid", {}).items()]
    return "  ".join(words)
