"""What share of the machine's arithmetic training uses: SASRec, HSTU and LightGCN on ml-1m.

Operations of a target are counted over some batches, forward and backward, by torch's counter
(matrix products and attention), and for LightGCN the sparse products by hand: two operations an
edge, column and direction, forward and backward. Times the targets a second of the real loop they
make operations a second; `utilisation` is their share of a large square matrix product in the
arithmetic of the training (bfloat16 where the processor has it, float32 for LightGCN), measured in
the same process.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness import Case, Numbers, Question, Side, Target
from measuring import created, dealt, seconds_of, training_rate
from tastemaker.data import TrainingSet
from tastemaker.models.base import Recommender
from tastemaker.training.placement import autocast_dtype
from tastemaker.training.stages import GradientStage

SIZE = 2048  # of the square matrices


def arithmetic(precision: str) -> tuple[torch.dtype, AbstractContextManager[object]]:
    """What a setting of `precision` computes in here."""
    dtype = autocast_dtype(precision, torch.device("cpu"))
    if dtype is None:
        return torch.float32, nullcontext()
    return dtype, torch.autocast("cpu", dtype)


def peak(dtype: torch.dtype) -> float:
    """Operations a second of a matrix product, the best of some."""
    left, right = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    return 2 * SIZE**3 / min(seconds_of(lambda: left @ right) for _ in range(10))


def operations(model: Recommender, data: TrainingSet, batches: int) -> float:
    """Operations of a target, forward and backward."""
    stage = next(s for s in model.train().stages(data) if isinstance(s, GradientStage))
    (objective,) = stage.objectives
    generator, targets = np.random.default_rng(0), 0.0
    counter = FlopCounterMode(display=False)
    _, autocast = arithmetic(model.config.precision)
    plan = list(objective.batches.plan(generator))[:batches]
    with counter, autocast:
        for rows in plan:
            loss = objective.loss(objective.batches.gather(rows, generator))
            loss.value.backward()
            targets += float(loss.weight)
    return counter.get_total_flops() / targets


def ours(given: SimpleNamespace) -> Numbers:
    torch.set_num_threads(given.threads)
    train = dealt(given).train
    model = created(given.model, train, given.settings, given.seed)
    if given.model == "lightgcn":
        with_edges = 2 * len(train) * model.config.hidden_size  # both directions of each row
        sparse = 2 * 2 * with_edges * model.config.num_layers / model.config.batch_size
        model.prepare(train)
    else:
        sparse = 0.0
    each = operations(model, train, given.batches) + sparse
    rate = training_rate(model, train, seconds=given.seconds, warm=given.warm, seed=given.seed)
    dtype, _ = arithmetic(model.config.precision)
    achieved, most = each * rate["targets_per_second"], peak(dtype)
    return {
        **rate,
        "gigaflops": achieved / 1e9,
        "peak_gigaflops": most / 1e9,
        "utilisation": achieved / most,
    }


COMMON = {"data": "ml-1m", "split": "leave-one-out", "seconds": 15, "warm": 8, "batches": 5}
SEQUENCES = {"hidden_size": 64, "num_layers": 2, "max_length": 200, "batch_size": 64}
WIDE = {**SEQUENCES, "hidden_size": 256}
QUESTION = Question(
    "Share of the machine's arithmetic that training uses",
    cases=[
        Case("sasrec", {**COMMON, "model": "sasrec", "settings": SEQUENCES}),
        Case(
            "sasrec, width 256",
            {**COMMON, "model": "sasrec", "settings": WIDE},
        ),
        Case("hstu", {**COMMON, "model": "hstu", "settings": SEQUENCES}),
        Case("lightgcn", {**COMMON, "model": "lightgcn", "settings": {"batch_size": 2048}}),
    ],
    sides=[Side("ours", ours)],
    targets=[Target("model flops utilisation", "utilisation", at_least=0.4)],
    rounds=2,
    quick={"data": "ml-100k", "seconds": 2, "warm": 1, "batches": 2},
)

if __name__ == "__main__":
    QUESTION.main()
