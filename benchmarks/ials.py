"""Alternating least squares: interactions a second, a whole fit of sixteen alternations.

An interaction is worked on once in each alternation. implicit and ours take three
conjugate-gradient steps a half-step, LensKit solves exactly. Regularisation differs between the
three, so NDCG@10 of each is shown beside its speed.
"""

from __future__ import annotations

from types import SimpleNamespace

from harness import Case, Numbers, Question, Side, Target
from measuring import created, dealt, exported, ndcg, seconds_of


def ours(given: SimpleNamespace) -> Numbers:
    from tastemaker.training import fit

    split = dealt(given)
    settings = {"hidden_size": given.width, "epochs": given.epochs, **given.ours}
    model = created("ials", split.train, settings, given.seed)
    seconds = seconds_of(lambda: fit(model, split.train, seed=given.seed))
    return {
        "interactions_per_second": split.train.matrix().nnz * given.epochs / seconds,
        "seconds": seconds,
        "ndcg@10": ndcg(model, split.test),
    }


SETTINGS = {
    "width": 64,
    "epochs": 16,
    "ours": {},
    "implicit_regularization": 0.01,  # its default
    "implicit_alpha": 1.0,  # its default
}
QUESTION = Question(
    "Alternating least squares: interactions a second",
    cases=[
        Case("ml-1m", {"data": "ml-1m", "split": "leave-one-out:valid=0", **SETTINGS}),
        Case("gowalla", {"data": "gowalla", "split": "column", **SETTINGS}),
    ],
    sides=[
        Side("ours", ours),
        Side("implicit", "implicit_als.py", "n2"),
        Side("LensKit", "lenskit_als.py", "n2", rounds=1),
    ],
    targets=[
        Target("iALS", "interactions_per_second", "implicit", at_least=1.0),
        Target("iALS", "interactions_per_second", "LensKit", at_least=1.0),
        Target("iALS, quality", "ndcg@10", "implicit"),
        Target("iALS, quality", "ndcg@10", "LensKit"),
    ],
    prepare=exported,
    rounds=2,
    quick={"data": "ml-100k", "split": "leave-one-out:valid=0", "epochs": 2},
)

if __name__ == "__main__":
    QUESTION.main()
