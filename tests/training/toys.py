"""Small models for the tests of the loop: real stages, no recommendation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tastemaker.training import Batch, ComputeStage, GradientStage, Loss, Objective, Optimizer
from tastemaker.training.batches import shuffled


@dataclass(frozen=True)
class FakeTrainingSet:
    """Stands in for a training set where only its fingerprint is asked."""

    fingerprint: str = "f" * 64


@dataclass(frozen=True)
class Points:
    """A regression problem as batches; `noise` is drawn in `gather` like negatives are."""

    inputs: np.ndarray
    outputs: np.ndarray
    batch_size: int

    @classmethod
    def of(cls, n: int = 96, width: int = 4, batch_size: int = 16) -> Points:
        generator = np.random.default_rng(1)
        inputs = generator.normal(size=(n, width)).astype(np.float32)
        outputs = inputs @ generator.normal(size=(width, 1)).astype(np.float32)
        return cls(inputs, outputs, batch_size)

    def plan(self, generator: np.random.Generator) -> list[np.ndarray]:
        return shuffled(len(self.inputs), self.batch_size, generator)

    def gather(self, rows: np.ndarray, generator: np.random.Generator) -> Batch:
        noise = generator.normal(scale=0.1, size=(len(rows), 1)).astype(np.float32)
        # Weights differ from row to row, as the number of targets does in real batches.
        weights = 1.0 + (rows % 3).astype(np.float32)
        return Batch(
            {
                "inputs": torch.from_numpy(self.inputs[rows]),
                "outputs": torch.from_numpy(self.outputs[rows] + noise),
                "weights": torch.from_numpy(weights),
            }
        )


class Regression(nn.Module):
    """A two-layer regression with dropout; stage options are passed through."""

    def __init__(self, *, dropout: float = 0.2, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 1)
        self.dropout = nn.Dropout(dropout)
        self.points = options.pop("points", None) or Points.of()
        self.optimizer = options.pop("optimizer", Optimizer(learning_rate=1e-2))
        self.options = {"epochs": 4, "monitor": None, "precision": "float32", **options}

    def loss(self, batch: Batch) -> Loss:
        predicted = self.second(torch.tanh(self.dropout(self.first(batch["inputs"]))))
        squares = (predicted - batch["outputs"]).square().squeeze(1)
        weights = batch["weights"]
        return Loss((squares * weights).sum() / weights.sum(), weights.sum())

    def stages(self, data: Any) -> Sequence[Any]:
        objective = Objective("loss", self.loss, self.points, self.optimizer)
        return [GradientStage("train", [objective], **self.options)]

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> Regression:
        self.load_state_dict(dict(state))
        return self


class TwoStages(Regression):
    """A cached compute stage that fixes the first layer, then a gradient stage."""

    computed = 0

    def stages(self, data: Any) -> Sequence[Any]:
        def compute() -> dict[str, Tensor]:
            TwoStages.computed += 1
            return {"weight": torch.full((8, 4), 0.5)}

        def apply(product: Mapping[str, Tensor]) -> None:
            with torch.no_grad():
                self.first.weight.copy_(product["weight"])

        stage = ComputeStage("first-layer", compute, apply, key={"value": 0.5, "data": "toy"})
        return [stage, *super().stages(data)]


class Adversary(Regression):
    """Two objectives with their own parameters and optimisers."""

    def __init__(self, *, shared: bool = True, alternate: str = "step") -> None:
        super().__init__(alternate=alternate, epochs=2)
        self.shift = nn.Parameter(torch.zeros(4))
        self.shared = shared
        self.turns: list[str] = []

    def loss(self, batch: Batch) -> Loss:
        self.turns.append("fit")
        moved = replace(batch, rows={**batch.rows, "inputs": batch["inputs"] + self.shift})
        return super().loss(moved)

    def attack(self, batch: Batch) -> Loss:
        self.turns.append("attack")
        found = super().loss(
            replace(batch, rows={**batch.rows, "inputs": batch["inputs"] + self.shift})
        )
        return Loss(self.shift.square().sum() - found.value, found.weight)

    def stages(self, data: Any) -> Sequence[Any]:
        network = [*self.first.parameters(), *self.second.parameters()]
        return [
            GradientStage(
                "train",
                [
                    Objective("fit", self.loss, self.points, self.optimizer, lambda: network),
                    Objective(
                        "attack",
                        self.attack,
                        None if self.shared else Points.of(48),
                        Optimizer("sgd", 1e-2),
                        lambda: [self.shift],
                    ),
                ],
                **self.options,
            )
        ]
