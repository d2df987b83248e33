"""What our sides of the questions have in common: data, clocks, memory, steps a second."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tastemaker.data import Part, Split, TrainingSet
    from tastemaker.models.base import Recommender
    from tastemaker.training.loop import GradientLoop
    from tastemaker.training.placement import World

__all__ = [
    "created",
    "dealt",
    "export",
    "exported",
    "ndcg",
    "peak_memory",
    "seconds_of",
    "training_rate",
    "training_step",
]


def dealt(given: SimpleNamespace) -> Split:
    """The data set named `given.data`, split by `given.split`."""
    import tastemaker

    return tastemaker.split(tastemaker.load(given.data), given.split)


def exported(given: SimpleNamespace) -> None:
    """Write the split of `given.data` for the peers, see `export`."""
    export(dealt(given), given.folder)


def export(split: Split, folder: str) -> None:
    """Write `log.npz`: pairs of user and item codes, by user and time, as the peers read them.

    It has `n_users` and `n_items`; `users`, `items` and `moments` (0, 1, ... within a user) of the
    training rows; `known_users` and `known_items`, what is known when the test part is asked; and
    `target_users` and `target_items`, what came.
    """
    train, test = split.train, split.test
    assert test is not None
    known = test.queries.histories.items
    np.savez(
        Path(folder) / "log.npz",
        n_users=train.n_users,
        n_items=train.n_items,
        users=train.users,
        items=train.items,
        moments=np.arange(len(train)) - train.offsets[train.users],
        known_users=test.users[known.row_index()],
        known_items=known.values,
        target_users=test.users[test.targets.row_index()],
        target_items=test.targets.values,
    )


def created(name: str, data: TrainingSet, settings: Mapping[str, Any], seed: int) -> Recommender:
    """A fresh model of the catalog."""
    from tastemaker.models.catalog import find

    return find(name).load().create(settings, data.dataset, seed=seed)


def seconds_of(job: Callable[[], Any]) -> float:
    """Seconds of the clock on the wall."""
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def peak_memory(field: str = "VmHWM") -> int:
    """Bytes this process had at most, or has now with `"VmRSS"` (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def ndcg(model: Recommender, part: Part, k: int = 10) -> float:
    """NDCG@k of full ranking, seen items masked."""
    from tastemaker.evaluation import evaluate

    found = evaluate(model, part, metrics=["ndcg"], ks=(k,), slices={})
    return float(found.values[f"ndcg@{k}"].value)


class _Enough(Exception):  # noqa: N818 - it is none
    """The loop has run as long as was asked for."""


def training_rate(
    model: Recommender, data: TrainingSet, *, seconds: float, warm: float, seed: int = 0
) -> dict[str, float]:
    """Steps of a model's gradient stage by the real loop, for a while.

    The first `warm` seconds are not counted: kernels are compiled per shape.

    Returns:
        `targets_per_second` (what the loss counts: targets, triples, rows) and `steps_per_second`.
    """
    loop, weights = _counting_loop(model, data, seed)
    clock: list[float] = []  # when it was warm, when it was enough
    first = 0
    began = time.perf_counter()

    def after_turn() -> None:
        nonlocal first
        now = time.perf_counter()
        if not clock and now - began >= warm:
            targets_so_far(weights)  # waits for the device
            first = len(weights)
            clock.append(time.perf_counter())
        elif clock and now - clock[0] >= seconds:
            raise _Enough

    try:
        for _ in loop.run(after_turn):
            pass
    except _Enough:
        targets = targets_so_far(weights[first:])
        spent = time.perf_counter() - clock[0]
    return {
        "targets_per_second": targets / spent,
        "steps_per_second": (len(weights) - first) / spent,
    }


def training_step(
    model: Recommender,
    data: TrainingSet,
    *,
    steps: int,
    warm: int,
    seed: int = 0,
    world: World | None = None,
) -> dict[str, float]:
    """A number of steps of a model's gradient stage by the real loop, after `warm` others.

    Args:
        model: what trains.
        data: on which rows.
        steps: how many are timed; all processes of a world make as many.
        warm: how many are not: kernels are compiled per shape.
        seed: of the loop.
        world: this process among those that train together; alone by default.

    Returns:
        `milliseconds` of a step, the median, and `targets_per_second` of all processes at it.
    """
    import torch

    loop, weights = _counting_loop(model, data, seed, world)
    clock: list[float] = []  # when each step from the last warm one ended

    def after_turn() -> None:
        if loop.device.type == "cuda":
            torch.cuda.synchronize()
        if len(weights) >= warm:
            clock.append(time.perf_counter())
        if len(weights) == warm + steps:
            raise _Enough

    with suppress(_Enough):
        for _ in loop.run(after_turn):
            pass
    targets = torch.tensor(targets_so_far(weights[warm:]) / steps)
    loop.world.sum([targets])
    median = float(np.median(np.diff(clock)))
    return {"milliseconds": 1e3 * median, "targets_per_second": float(targets) / median}


def _counting_loop(
    model: Recommender, data: TrainingSet, seed: int, world: World | None = None
) -> tuple[GradientLoop, list[Any]]:
    """The loop of a model's gradient stage, and the targets of each of its steps."""
    from tastemaker.training.loop import GradientLoop
    from tastemaker.training.placement import World, choose_device
    from tastemaker.training.stages import Batch, GradientStage, Loss

    device = choose_device("auto")
    stage = next(s for s in model.to(device).stages(data) if isinstance(s, GradientStage))
    (objective,) = stage.objectives
    weights: list[Any] = []  # on the device

    def counted(batch: Batch) -> Loss:
        loss = objective.loss(batch)
        weights.append(loss.weight)
        return loss

    stage = replace(stage, objectives=[replace(objective, loss=counted)], epochs=10_000)
    world = world or World()
    loop = GradientLoop(stage, model, seed=seed, device=device, world=world, validate=None)
    return loop, weights


def targets_so_far(weights: Sequence[Any]) -> float:
    """The sum of numbers or tensors."""
    return float(sum(weights))
