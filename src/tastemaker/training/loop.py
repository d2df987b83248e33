"""The loop: runs one gradient stage, step by step, from wherever it stands.

Every random draw is a function of (seed, stage, epoch, step), so a resumed training repeats an
uninterrupted one bit for bit, and several processes draw the same batch before each takes its part.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tastemaker.console import Progress
from tastemaker.errors import TastemakerError
from tastemaker.evaluation.pointwise import LOWER_IS_BETTER
from tastemaker.training.checkpoints import (
    Checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
)
from tastemaker.training.optimizers import build_optimizer, learning_rate
from tastemaker.training.placement import World, autocast_dtype
from tastemaker.training.randomness import generator_for, torch_seed
from tastemaker.training.stages import Batch, GradientStage, Hook, Loss, Objective

__all__ = ["GradientLoop", "Record", "TrainingError"]

Record = Mapping[str, Any]


class TrainingError(TastemakerError, ArithmeticError):
    """Training went wrong in a way that more steps cannot mend."""


@dataclass(frozen=True)
class Moment:
    """Where training stands, as hooks are told."""

    seed: int
    stage: str
    epoch: int
    step: int

    @property
    def generator(self) -> np.random.Generator:
        """A generator of this moment."""
        return generator_for(self.seed, self.stage, "hook", self.epoch, self.step)


@dataclass(frozen=True)
class Turn:
    """One optimiser step of each objective of a group, on the same batches."""

    objectives: Sequence[Objective]
    rows: Sequence[np.ndarray]  # row numbers of each batch to accumulate


@dataclass
class Standing:
    """What a stage has reached; all of it is in its checkpoints."""

    epoch: int = 0
    turn: int = 0  # within the epoch
    step: int = 0  # turns done in the stage
    stale: int = 0  # validations without improvement
    best_value: float = -math.inf
    best_epoch: int = -1
    done: bool = False
    loss_sums: dict[str, Tensor] = field(default_factory=dict)  # name -> [loss * weight, weight]
    started: float = 0.0  # seconds spent in the epoch before this process took over


class GradientLoop:
    """Trains a model through one `GradientStage`.

    Args:
        stage: what to do.
        model: whose parameters move.
        seed: of every random stream.
        device: where batches go.
        world: this process and its peers.
        validate: returns validation metrics; `None` when there is no validation part.
    """

    def __init__(
        self,
        stage: GradientStage,
        model: nn.Module,
        *,
        seed: int,
        device: torch.device,
        world: World,
        validate: Callable[[], Mapping[str, float]] | None,
    ) -> None:
        self.stage, self.model, self.seed = stage, model, seed
        self.device, self.world, self.validate = device, world, validate
        self.standing = Standing()
        self.groups = _groups(stage.objectives)
        self.parameters = {entry.name: _parameters(model, entry) for entry in stage.objectives}
        self.optimizers = {
            entry.name: build_optimizer(entry.optimizer, self.parameters[entry.name])
            for entry in stage.objectives
        }
        self.averages = (
            {name: value.detach().clone() for name, value in model.named_parameters()}
            if stage.ema
            else {}
        )
        self.best: dict[str, Tensor] = {}
        dtype = autocast_dtype(stage.precision, device)
        self._autocast: Callable[[], Any] = (
            (lambda: torch.autocast(device.type, dtype)) if dtype else nullcontext
        )
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._total_steps = 0

    def run(self, after_turn: Callable[[], None]) -> Iterator[Record]:
        """Train to the end, giving a record an epoch; `after_turn` may write checkpoints."""
        stage, standing = self.stage, self.standing
        if not self._total_steps:
            self._total_steps = stage.epochs * len(self._turns(0))
        while standing.epoch < stage.epochs and not standing.done:
            yield self._epoch(after_turn)
        if self.best:
            self._put(self.best)
        elif self.averages:
            self._put(self.averages)

    def _epoch(self, after_turn: Callable[[], None]) -> Record:
        stage, standing = self.stage, self.standing
        clock = time.monotonic() - standing.started
        if standing.turn == 0:
            self._call(stage.before_epoch)
        turns = self._turns(standing.epoch)
        n_rows = sum(len(rows) for turn in turns for rows in turn.rows)
        label = f"{stage.name} {standing.epoch + 1}/{stage.epochs}"
        self.model.train()
        with Progress(label, n_rows, unit="rows") as progress:
            progress.start_at(sum(len(r) for turn in turns[: standing.turn] for r in turn.rows))
            for turn in turns[standing.turn :]:
                self._step(turn)
                standing.turn += 1
                standing.step += 1
                standing.started = time.monotonic() - clock
                progress.advance(sum(len(rows) for rows in turn.rows), self._loss_note)
                after_turn()
        seconds = time.monotonic() - clock
        losses = self._mean_losses()
        record = {
            "stage": stage.name,
            "epoch": standing.epoch,
            "step": standing.step,
            **losses,
            "learning_rate": self._rate(stage.objectives[0]),
            "seconds": round(seconds, 3),
            "rows_per_second": round(n_rows / max(seconds, 1e-9), 1),
        }
        self._refuse_nonfinite(losses)
        standing.loss_sums = {}
        valid = self._validation()
        standing.epoch, standing.turn, standing.started = standing.epoch + 1, 0, 0.0
        return {**record, "valid": valid} if valid else record

    def _turns(self, epoch: int) -> list[Turn]:
        """The optimiser steps of an epoch, in order."""
        plans = []
        for group in self.groups:
            batches = group[0].batches
            assert batches is not None
            generator = generator_for(self.seed, self.stage.name, group[0].name, "plan", epoch)
            plan = batches.plan(generator)
            size = self.stage.accumulate
            plans.append([Turn(group, plan[at : at + size]) for at in range(0, len(plan), size)])
        if self.stage.alternate == "epoch":
            return [turn for plan in plans for turn in plan]
        longest = max(len(plan) for plan in plans)
        return [plan[at] for at in range(longest) for plan in plans if at < len(plan)]

    def _step(self, turn: Turn) -> None:
        """One turn: gather, differentiate, exchange, clip, move."""
        standing, stage = self.standing, self.stage
        source = turn.objectives[0].batches
        assert source is not None
        where = (stage.name, turn.objectives[0].name, standing.epoch, standing.turn)
        generator = generator_for(self.seed, "batch", *where)
        parts = []
        for rows in turn.rows:
            batch = source.gather(rows, generator)
            parts.append(batch.part(*self.world.share(len(batch))).to(self.device))
        self._reseed(torch_seed(self.seed, "step", *where, self.world.rank))
        for objective in turn.objectives:
            self._differentiate(objective, parts)
            self._move(objective)
        if self.averages:
            live = [value.detach() for _, value in self.model.named_parameters()]
            torch._foreach_lerp_(list(self.averages.values()), live, 1 - stage.ema)
        self._call(stage.after_step)

    def _reseed(self, seed: int) -> None:
        """Seed torch; `torch.manual_seed` records the stack for every GPU that is not there yet."""
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _differentiate(self, objective: Objective, parts: Sequence[Batch]) -> None:
        """Leave the gradient of the mean loss over all targets, here and elsewhere, in `.grad`."""
        parameters = self.parameters[objective.name]
        for value in parameters:
            value.grad = None
        reference: Tensor | None = None  # weight of the first part, in whose units gradients add
        total = torch.zeros((), device=self.device)
        for part in parts:
            if not len(part):
                continue
            with self._autocast():
                loss = objective.loss(part)
            weight = torch.as_tensor(loss.weight, dtype=torch.float32, device=self.device)
            scaled = loss.value if reference is None else loss.value * (weight / reference)
            reference = weight if reference is None else reference
            torch.autograd.backward(self._scaler.scale(scaled), inputs=list(parameters))
            total = total + weight
            self._count(objective.name, loss, weight)
        if len(parts) > 1 or self.world.size > 1:
            self._average(parameters, total if reference is None else reference, total)

    def _average(
        self, parameters: Sequence[nn.Parameter], reference: Tensor, total: Tensor
    ) -> None:
        """Turn sums of reference-scaled gradients into the mean over every target there is."""
        total = total.clone()
        self.world.sum([total])
        if self.world.size > 1:
            for value in parameters:
                if value.grad is None:
                    value.grad = torch.zeros_like(value)
        gradients = [value.grad for value in parameters if value.grad is not None]
        torch._foreach_mul_(gradients, reference / total)
        self.world.sum(gradients)

    def _move(self, objective: Objective) -> None:
        parameters, optimizer = self.parameters[objective.name], self.optimizers[objective.name]
        self._scaler.unscale_(optimizer)
        self._call(self.stage.after_backward)
        if self.stage.clip_norm:
            nn.utils.clip_grad_norm_(parameters, self.stage.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = self._rate(objective)
        self._scaler.step(optimizer)
        self._scaler.update()

    def _rate(self, objective: Objective) -> float:
        return learning_rate(objective.optimizer, self.standing.step, self._total_steps)

    def _call(self, hooks: Sequence[Hook]) -> None:
        standing = self.standing
        for hook in hooks:
            hook(Moment(self.seed, self.stage.name, standing.epoch, standing.step))

    def _count(self, name: str, loss: Loss, weight: Tensor) -> None:
        """Add to the epoch's sums, on the device: nothing waits for a number here."""
        named = {"loss" if len(self.stage.objectives) == 1 else f"{name}_loss": loss.value}
        for key, number in {**named, **loss.parts}.items():
            amount = torch.stack([number.detach().float() * weight, weight])
            sums = self.standing.loss_sums
            sums[key] = sums[key] + amount if key in sums else amount

    def _mean_losses(self) -> dict[str, float]:
        sums = {key: value.clone() for key, value in sorted(self.standing.loss_sums.items())}
        self.world.sum(list(sums.values()))
        return {key: float(value[0] / value[1]) for key, value in sums.items()}

    def _loss_note(self) -> str:
        sums = self.standing.loss_sums
        return " ".join(f"{key} {float(value[0] / value[1]):.4f}" for key, value in sums.items())

    def _refuse_nonfinite(self, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"stage {self.stage.name!r}, epoch {self.standing.epoch}: {name} is {value}; "
                    "lower learning_rate, set clip_norm=1, or set precision=float32"
                )

    def _validation(self) -> dict[str, float]:
        """Validate when it is time to, keep the best weights, decide whether to go on."""
        stage, standing = self.stage, self.standing
        due = (standing.epoch + 1) % stage.validate_every == 0 or standing.epoch + 1 == stage.epochs
        if self.validate is None or not due:
            return {}
        live = self._put(self.averages) if self.averages else {}
        metrics: Mapping[str, float] = {}
        if self.world.leads:
            self.model.eval()
            metrics = self.validate()
        metrics = self.world.agree(metrics)
        if stage.monitor is not None:
            self._compare(self._monitored(metrics))
        if live:
            self._put(live)
        return dict(metrics)

    def _monitored(self, metrics: Mapping[str, float]) -> float:
        monitor = self.stage.monitor
        assert monitor is not None
        if monitor not in metrics:
            known = ", ".join(sorted(metrics))
            raise TrainingError(f"monitor {monitor!r} is not among the validation metrics: {known}")
        return -metrics[monitor] if monitor in LOWER_IS_BETTER else metrics[monitor]

    def _compare(self, value: float) -> None:
        standing = self.standing
        if value > standing.best_value:
            standing.best_value, standing.best_epoch, standing.stale = value, standing.epoch, 0
            self.best = {
                name: weight.detach().to("cpu", copy=True)
                for name, weight in self.model.state_dict(keep_vars=True).items()
            }
        else:
            standing.stale += 1
            standing.done = 0 < self.stage.patience <= standing.stale

    def _put(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put weights into the model and return those that were there."""
        own = self.model.state_dict(keep_vars=True)
        previous = {name: own[name].detach().clone() for name in weights}
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)
        return previous

    def checkpoint(self) -> Checkpoint:
        """Everything `restore` needs to continue from here bit for bit."""
        standing = self.standing
        tensors: dict[str, Mapping[str, Tensor]] = {
            "average": self.averages,
            "best": self.best,
            "loss_sums": standing.loss_sums,
        }
        for name, optimizer in self.optimizers.items():
            tensors[f"optimizer.{name}"] = optimizer_tensors(optimizer)
        state = {
            name: getattr(standing, name)
            for name in ("epoch", "turn", "step", "stale", "best_epoch", "done", "started")
        }
        best = standing.best_value
        state |= {"best_value": best if math.isfinite(best) else None}
        return Checkpoint({**state, "scaler": self._scaler.state_dict()}, tensors)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint stood; the model's own tensors are restored by the caller."""
        state, tensors = dict(checkpoint.state), checkpoint.tensors
        scaler = state.pop("scaler")
        if scaler:
            self._scaler.load_state_dict(scaler)
        best_value = state.pop("best_value")
        self.standing = Standing(
            **state,
            best_value=-math.inf if best_value is None else best_value,
            loss_sums={
                name: value.to(self.device) for name, value in tensors.get("loss_sums", {}).items()
            },
        )
        self.best = dict(tensors.get("best", {}))
        for name, value in tensors.get("average", {}).items():
            self.averages[name].copy_(value)
        for name, optimizer in self.optimizers.items():
            load_optimizer_tensors(optimizer, tensors.get(f"optimizer.{name}", {}))


def _groups(objectives: Sequence[Objective]) -> list[list[Objective]]:
    """Objectives that share batches, in order."""
    groups: list[list[Objective]] = []
    for objective in objectives:
        if objective.batches is not None:
            groups.append([objective])
        elif groups:
            groups[-1].append(objective)
        else:
            raise ValueError(f"the first objective, {objective.name!r}, has no batches")
    return groups


def _parameters(model: nn.Module, objective: Objective) -> list[nn.Parameter]:
    chosen = model.parameters() if objective.parameters is None else objective.parameters()
    found = [value for value in chosen if value.requires_grad]
    if not found:
        raise ValueError(f"objective {objective.name!r} has no trainable parameters")
    return found
