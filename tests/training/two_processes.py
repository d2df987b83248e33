"""Run by torchrun in `test_processes.py`: trains the regression toy and prints its losses."""

from __future__ import annotations

import json
import os
import sys

from tastemaker.training import Optimizer, fit
from tests.training.toys import FakeTrainingSet, Points, Regression

validations = 0


def validate() -> dict[str, float]:
    global validations
    validations += 1
    return {"score": float(validations)}


model = Regression(
    dropout=0.0,
    epochs=3,
    points=Points.of(n=90, batch_size=17),
    accumulate=2,
    monitor="score",
    optimizer=Optimizer("sgd", 0.05, momentum=0.5),
)
result = fit(model, FakeTrainingSet(), seed=5, validate=validate, folder=sys.argv[1])
said = {
    "rank": int(os.environ.get("RANK", "0")),
    "losses": [record["loss"] for record in result.records],
    "weights": model.second.weight.flatten().tolist(),
    "validations": validations,
}
os.write(1, f"{json.dumps(said)}\n".encode())  # in one piece: two processes share the pipe
