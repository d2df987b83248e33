"""DCN V2: training rows a second, and the share of a step that prepares the batch.

Twenty fields of 5,000 values each (100,000 rows of the embedding table), vectors of width 16, three
cross layers beside a deep part of 128 and 64. A batch is gathered from arrays of codes, so
preparing it should cost a few hundredths of the step; `network_share` is the time of the network
alone, its input given, as a share of the whole step: the rest is what fields, their table and its
optimiser cost. Arithmetic is that of `precision="auto"`.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import numpy as np
import polars as pl
import torch
from torch import nn

from harness import Case, Numbers, Question, Side, Target
from tastemaker.data import Dataset, TrainingSet
from tastemaker.layers.cross import CrossNetwork
from tastemaker.layers.mlp import MLP
from tastemaker.models.ranking.dcnv2 import DCNv2
from tastemaker.training.optimizers import build_optimizer
from tastemaker.training.placement import autocast_dtype

FIELDS, VALUES, WIDTH = 20, 5_000, 16
SETTINGS = {
    "hidden_size": WIDTH,
    "num_layers": 3,
    "hidden_sizes": (128, 64),
    "dropout": 0.0,
    "regularization": 0.0,
}


def arithmetic() -> AbstractContextManager[object]:
    """Autocast as the training loop would have it here."""
    dtype = autocast_dtype("auto", torch.device("cpu"))
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype)


def click_log(n_rows: int) -> Dataset:
    """Random rows of a user, an item and eighteen contexts; values follow a power law."""
    generator = np.random.default_rng(0)
    draws = (generator.pareto(1.0, (FIELDS, n_rows)) * 20).astype(np.int64) % VALUES
    draws[:, :VALUES] = np.arange(VALUES)  # every value occurs
    names = ["user", "item", *(f"context{number}" for number in range(FIELDS - 2))]
    frame = pl.DataFrame(dict(zip(names, draws, strict=True)))
    frame = frame.with_columns(label=pl.Series(generator.integers(0, 2, n_rows)))
    columns = dict.fromkeys(names[2:], "categorical")
    return Dataset.from_frame(
        frame, user="user", item="item", label="label", columns=columns, name="clicks"
    )


def seconds_of_parts(data: TrainingSet, batch_size: int, steps: int) -> dict[str, float]:
    """Median seconds of a step's parts: batch, gradients, optimiser."""
    model = DCNv2.create({**SETTINGS, "batch_size": batch_size}, data.dataset).train()
    (stage,) = model.stages(data)
    (objective,) = stage.objectives
    assert objective.batches is not None
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = build_optimizer(objective.optimizer, parameters)
    generator = np.random.default_rng(0)
    plan = list(objective.batches.plan(generator))
    taken: dict[str, list[float]] = {"batch": [], "gradients": [], "optimiser": []}
    for rows in (plan * (1 + steps // len(plan)))[: steps + 3]:
        clock = [time.perf_counter()]
        batch = objective.batches.gather(rows, generator)
        clock.append(time.perf_counter())
        optimizer.zero_grad(set_to_none=True)
        with arithmetic():
            loss = objective.loss(batch).value
        loss.backward()
        clock.append(time.perf_counter())
        nn.utils.clip_grad_norm_(parameters, stage.clip_norm)
        optimizer.step()
        clock.append(time.perf_counter())
        for name, spent in zip(taken, np.diff(clock), strict=True):
            taken[name].append(float(spent))
    return {name: float(np.median(values[3:])) for name, values in taken.items()}


def seconds_of_network(batch_size: int, steps: int) -> float:
    """Median seconds of a step of the network alone, its input given."""
    width = FIELDS * WIDTH
    cross, deep = CrossNetwork(width, 3), MLP(width, (128, 64), None)
    output = nn.Linear(width + 64, 1)
    inputs, taken = torch.randn(batch_size, width), []
    optimizer = torch.optim.Adam(
        [*cross.parameters(), *deep.parameters(), *output.parameters()], fused=True
    )
    for _ in range(steps + 3):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with arithmetic():
            loss = output(torch.cat([cross(inputs), deep(inputs)], -1)).float().mean()
        loss.backward()
        optimizer.step()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[3:]))


def ours(given: SimpleNamespace) -> Numbers:
    data = TrainingSet.whole(click_log(given.rows))
    parts = seconds_of_parts(data, given.batch_size, given.steps)
    whole = sum(parts.values())
    network = seconds_of_network(given.batch_size, given.steps)
    return {
        "rows_per_second": given.batch_size / whole,
        "batch_share": parts["batch"] / whole,
        "gradients_share": parts["gradients"] / whole,
        "optimiser_share": parts["optimiser"] / whole,
        "network_share": network / whole,
    }


QUESTION = Question(
    "DCN V2: training rows a second",
    cases=[Case("20 fields", {"rows": 200_000, "batch_size": 4096, "steps": 40})],
    sides=[Side("ours", ours)],
    targets=[
        Target("CTR training", "rows_per_second", at_least=100_000),
        Target("CTR input pipeline", "batch_share", at_most=0.15),
    ],
    quick={"rows": 20_000, "steps": 5},
)

if __name__ == "__main__":
    QUESTION.main()
