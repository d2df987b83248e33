"""Cornac's Bayesian personalised ranking: a whole fit, and NDCG@10 of it."""

import numpy as np
from cornac.data import Dataset
from cornac.models import BPR

from common import answer, factor_lists, ndcg, read_log, seconds_of, settings

given = settings()
log = read_log(given)
rows = zip(log.users.tolist(), log.items.tolist(), np.ones(len(log.users)).tolist(), strict=True)
data = Dataset.from_uir(list(rows))
model = BPR(
    k=given.width,
    max_iter=given.cornac_epochs,
    learning_rate=given.cornac_learning_rate,
    lambda_reg=given.cornac_regularization,
    num_threads=given.threads,  # with a seed it would use one thread alone
)
seconds = seconds_of(lambda: model.fit(data))

# It numbers users and items by their first rows; a bias is one more column of its factors.
user_factors = np.zeros((int(log.n_users), given.width + 1), np.float32)
item_factors = np.zeros((int(log.n_items), given.width + 1), np.float32)
item_factors[:, -1] = -1e9  # items without rows are never the best
user_factors[list(data.uid_map), :] = np.pad(model.u_factors, ((0, 0), (0, 1)), constant_values=1)
item_factors[list(data.iid_map), :] = np.column_stack([model.i_factors, model.i_biases])
users = np.unique(log.target_users)
answer(
    {
        "triples_per_second": data.num_ratings * given.cornac_epochs / seconds,
        "seconds": seconds,
        "ndcg@10": ndcg(log, users, factor_lists(log, users, user_factors, item_factors)),
    },
    "cornac",
    "numpy",
)
