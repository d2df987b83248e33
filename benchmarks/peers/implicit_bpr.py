"""implicit's Bayesian personalised ranking: a whole fit, and NDCG@10 of it."""

import numpy as np
from implicit.cpu.bpr import BayesianPersonalizedRanking

from common import answer, matrix, ndcg, read_log, seconds_of, settings

given = settings()
log = read_log(given)
rows = matrix(log)
model = BayesianPersonalizedRanking(
    factors=given.width,
    learning_rate=given.implicit_learning_rate,
    regularization=given.implicit_regularization,
    iterations=given.implicit_epochs,
    num_threads=given.threads,
    random_state=given.seed,
)
seconds = seconds_of(lambda: model.fit(rows, show_progress=False))
users = np.unique(log.target_users)
known = matrix(log, "known_")[users]
lists, _ = model.recommend(users, known, N=10, filter_already_liked_items=True)
answer(
    {
        "triples_per_second": rows.nnz * given.implicit_epochs / seconds,
        "seconds": seconds,
        "ndcg@10": ndcg(log, users, lists),
    },
    "implicit",
    "numpy",
)
