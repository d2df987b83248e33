"""implicit's lists of the best items for all users, known ones left out: users a second."""

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from common import answer, matrix, read_log, seconds_of, settings

given = settings()
log = read_log(given)
threadpool_limits(1, "blas")  # as its README asks: its own threads use BLAS
rng = np.random.default_rng(0)
model = AlternatingLeastSquares(factors=given.width, num_threads=given.threads)
model.user_factors = rng.standard_normal((int(log.n_users), given.width), np.float32)
model.item_factors = rng.standard_normal((int(log.n_items), given.width), np.float32)
users = np.unique(log.target_users)
known = matrix(log, "known_")[users]


def lists() -> None:
    model.recommend(users, known, N=given.k, filter_already_liked_items=True)


lists()
best = min(seconds_of(lists) for _ in range(given.repeats))
answer({"users_per_second": len(users) / best}, "implicit", "numpy")
