"""SASRec: seconds of training until NDCG@10 has a level on the validation and the test part.

The level is .17 on MovieLens-1M and .085 on MovieLens-100K. Ours trains with its preset or
defaults and is asked after each epoch, which is not counted. RecTools has the same width, blocks,
heads and length and its own defaults otherwise, is asked for the test part alone, and is given
`cap` seconds. Where that is not enough, `reached` is 0 and its `seconds` are a lower bound: those
of an epoch times `epochs`, after which it was below the level when it was given the time. On
MovieLens-1M, with a `cap` of 1,500, it had .1499 after 14 epochs and 1,504 seconds. `ndcg@10` is
what the test part has when the clock stops.
"""

from __future__ import annotations

import time
from contextlib import suppress
from types import SimpleNamespace

from harness import Case, Numbers, Question, Side, Target
from measuring import created, dealt, exported, ndcg


class Reached(Exception):  # noqa: N818 - it is none
    """The level is reached."""


def ours(given: SimpleNamespace) -> Numbers:
    from tastemaker.training import fit

    split = dealt(given)
    model = created("sasrec", split.train, given.ours, given.seed)
    asked, found = [0.0], {"ndcg@10": 0.0, "reached": 0.0, "epochs": 0.0}

    def validate() -> dict[str, float]:
        began = time.perf_counter()
        valid, found["ndcg@10"] = ndcg(model, split.valid), ndcg(model, split.test)
        found["epochs"] += model.config.validate_every
        if min(valid, found["ndcg@10"]) >= given.level:
            found["reached"] = 1.0
        asked[0] += time.perf_counter() - began
        if found["reached"]:
            raise Reached
        return {"ndcg@10": valid}

    began = time.perf_counter()
    with suppress(Reached):
        fit(model, split.train, seed=given.seed, validate=validate)
    return {"seconds": time.perf_counter() - began - asked[0], **found}


SETTINGS = {"split": "leave-one-out", "layers": 2, "heads": 2, "batch_size": 128}
QUESTION = Question(
    "SASRec: seconds of training until NDCG@10 has a level",
    cases=[
        Case(
            "ml-1m",
            {
                **SETTINGS,
                "data": "ml-1m",
                "level": 0.17,
                "ours": {"preset": "ml-1m"},
                "width": 128,
                "length": 200,
                "cap": 240,
                "epochs": 14,
            },
        ),
        Case(
            "ml-100k",
            {
                **SETTINGS,
                "data": "ml-100k",
                "level": 0.085,
                "ours": {"max_length": 50, "validate_every": 1},
                "width": 64,
                "length": 50,
                "cap": 90,
                "epochs": 1,
            },
        ),
    ],
    sides=[Side("ours", ours), Side("RecTools", "rectools_quality.py", "n1")],
    targets=[
        Target("SASRec to NDCG@10 .17", "seconds", at_most=600, cases=["ml-1m"]),
        Target("SASRec to NDCG@10 .17", "seconds", "RecTools", at_most=0.2, cases=["ml-1m"]),
        Target("SASRec to its level", "seconds", "RecTools", cases=["ml-100k"]),
        Target("SASRec to its level", "reached", at_least=1),
        Target("SASRec, quality when the clock stops", "ndcg@10", "RecTools", at_least=1),
    ],
    prepare=exported,
    rounds=1,
    limit=1800,
    quick={"data": "ml-100k", "ours": {"epochs": 2}, "length": 50, "cap": 5, "width": 64},
)

if __name__ == "__main__":
    QUESTION.main()
