"""SASRec: supervised targets a second of the training, full softmax, width 64, two blocks.

All have two heads, a feed-forward part of the width, leave-one-out training rows and Adam.
Ours and RecTools train every position of one sequence a user, in batches of as many sequences;
RecBole makes a row of each position, so its batch is given in rows (2,048 is its default; where
rows are 200 events long, so many take a minute, and 256 are given) and it runs one round alone.
Ours computes in bfloat16 where the processor does, which is its default; "ours, float32" is
without.
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
        "num_heads": given.heads,
        "max_length": given.length,
        "batch_size": given.batch_size,
        "precision": given.precision,
    }
    model = created("sasrec", train, settings, given.seed)
    return training_rate(model, train, seconds=given.seconds, warm=given.warm, seed=given.seed)


SETTINGS = {
    "split": "leave-one-out",
    "width": 64,
    "layers": 2,
    "heads": 2,
    "batch_size": 128,
    "seconds": 12,
    "warm": 8,
}
RATE = "targets_per_second"
QUESTION = Question(
    "SASRec training: supervised targets a second",
    cases=[
        Case("ml-100k", {**SETTINGS, "data": "ml-100k", "length": 50, "rows": 2048}),
        Case("ml-1m", {**SETTINGS, "data": "ml-1m", "length": 200, "rows": 256}),
    ],
    sides=[
        Side("ours", ours, settings={"precision": "auto"}),
        Side("ours, float32", ours, settings={"precision": "float32"}),
        Side("RecTools", "rectools_sasrec.py", "n1"),
        Side("RecBole", "recbole_sasrec.py", "n1", rounds=1),
    ],
    targets=[
        Target("SASRec training", RATE, "RecBole", at_least=100),
        Target("SASRec training", RATE, "RecTools", at_least=3),
        Target("SASRec training in float32", RATE, "RecTools", side="ours, float32"),
    ],
    prepare=exported,
    rounds=2,
    quick={"seconds": 2, "warm": 2, "rows": 128},
)

if __name__ == "__main__":
    QUESTION.main()
