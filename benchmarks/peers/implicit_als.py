"""implicit's alternating least squares: a whole fit, and NDCG@10 of it."""

import numpy as np
from threadpoolctl import threadpool_limits

from common import answer, matrix, ndcg, read_log, seconds_of, settings

given = settings()
log = read_log(given)
threadpool_limits(1, "blas")  # as its README asks: its own threads use BLAS

from implicit.cpu.als import AlternatingLeastSquares  # noqa: E402

rows = matrix(log)
model = AlternatingLeastSquares(
    factors=given.width,
    regularization=given.implicit_regularization,
    alpha=given.implicit_alpha,
    iterations=given.epochs,
    num_threads=given.threads,
    random_state=given.seed,
)
seconds = seconds_of(lambda: model.fit(rows, show_progress=False))
users = np.unique(log.target_users)
lists, _ = model.recommend(
    users, matrix(log, "known_")[users], N=10, filter_already_liked_items=True
)
answer(
    {
        "interactions_per_second": rows.nnz * given.epochs / seconds,
        "seconds": seconds,
        "ndcg@10": ndcg(log, users, lists),
    },
    "implicit",
    "numpy",
)
