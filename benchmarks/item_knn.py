"""ItemKNN: training interactions over the seconds of a fit, a hundred neighbours by cosine."""

from __future__ import annotations

from types import SimpleNamespace

from harness import Case, Numbers, Question, Side, Target
from measuring import created, dealt, exported, ndcg, seconds_of


def ours(given: SimpleNamespace) -> Numbers:
    import scipy.sparse  # noqa: F401 - the peers have it before their clocks start

    from tastemaker.training import fit

    split = dealt(given)
    settings = {"num_neighbors": given.neighbors, "similarity": "cosine", "shrink": 0.0}
    model = created("item-knn", split.train, settings, given.seed)
    seconds = seconds_of(lambda: fit(model, split.train, seed=given.seed))
    return {
        "interactions_per_second": split.train.matrix().nnz / seconds,
        "seconds": seconds,
        "ndcg@10": ndcg(model, split.test),
    }


QUESTION = Question(
    "ItemKNN: interactions a second of a fit",
    cases=[
        Case("ml-1m", {"data": "ml-1m", "split": "leave-one-out:valid=0", "neighbors": 100}),
        Case("gowalla", {"data": "gowalla", "split": "column", "neighbors": 100}),
    ],
    sides=[
        Side("ours", ours),
        Side("implicit", "implicit_knn.py", "n2"),
        Side("LensKit", "lenskit_knn.py", "n2"),
    ],
    targets=[
        Target("ItemKNN", "interactions_per_second", "implicit", at_least=1.0),
        Target("ItemKNN", "interactions_per_second", "LensKit", at_least=1.0),
        Target("ItemKNN, quality", "ndcg@10", "implicit"),
    ],
    prepare=exported,
    quick={"data": "ml-100k", "split": "leave-one-out:valid=0"},
)

if __name__ == "__main__":
    QUESTION.main()
