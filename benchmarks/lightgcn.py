"""LightGCN: training pairs a second, three layers, width 64, one negative, batches of 2,048.

Every batch propagates the whole graph, so an epoch takes as many propagations as there are batches.
`epoch_seconds` is the number of training rows over the rate.
"""

from __future__ import annotations

from types import SimpleNamespace

from harness import Case, Numbers, Question, Side, Target
from measuring import created, dealt, exported, training_rate


def ours(given: SimpleNamespace) -> Numbers:
    train = dealt(given).train
    settings = {
        "hidden_size": given.width,
        "num_layers": given.layers,
        "num_negatives": 1,
        "batch_size": given.batch_size,
    }
    model = created("lightgcn", train, settings, given.seed)
    rates = training_rate(model, train, seconds=given.seconds, warm=given.warm, seed=given.seed)
    return {**rates, "epoch_seconds": len(train) / rates["targets_per_second"]}


SETTINGS = {"width": 64, "layers": 3, "batch_size": 2048, "seconds": 10, "warm": 3}
QUESTION = Question(
    "LightGCN training: pairs a second",
    cases=[
        Case("ml-1m", {**SETTINGS, "data": "ml-1m", "split": "leave-one-out:valid=0"}),
        Case("gowalla", {**SETTINGS, "data": "gowalla", "split": "column"}),
    ],
    sides=[Side("ours", ours), Side("RecBole", "recbole_lightgcn.py", "n1")],
    targets=[Target("LightGCN", "targets_per_second", "RecBole", at_least=3)],
    prepare=exported,
    rounds=2,
    quick={"seconds": 1, "warm": 0.5, "data": "ml-100k", "split": "leave-one-out:valid=0"},
)

if __name__ == "__main__":
    QUESTION.main()
