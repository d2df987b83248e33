"""implicit's item neighbours by cosine: a fit, and NDCG@10 of it."""

import numpy as np
from implicit.nearest_neighbours import CosineRecommender

from common import answer, matrix, ndcg, read_log, seconds_of, settings

given = settings()
log = read_log(given)
rows = matrix(log)
model = CosineRecommender(K=given.neighbors, num_threads=given.threads)
seconds = seconds_of(lambda: model.fit(rows, show_progress=False))
users = np.unique(log.target_users)
known = matrix(log, "known_")[users]
lists, _ = model.recommend(users, known, N=10, filter_already_liked_items=True)
answer(
    {
        "interactions_per_second": rows.nnz / seconds,
        "seconds": seconds,
        "ndcg@10": ndcg(log, users, lists),
    },
    "implicit",
    "numpy",
)
