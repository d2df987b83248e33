"""LensKit's implicit-feedback matrix factorisation: a whole fit, and NDCG@10 of it."""

import numpy as np

from common import answer, factor_lists, ndcg, read_log, seconds_of, settings
from lenskit_log import dataset_of, use_threads

given = settings()
use_threads(given)

from lenskit.als import ImplicitMFScorer  # noqa: E402
from lenskit.training import TrainingOptions  # noqa: E402

log = read_log(given)
data = dataset_of(log)
model = ImplicitMFScorer(embedding_size=given.width, epochs=given.epochs)
seconds = seconds_of(lambda: model.train(data, TrainingOptions(rng=given.seed)))
users = np.unique(log.target_users)
lists = factor_lists(log, users, np.array(model.user_embeddings), np.array(model.item_embeddings))
answer(
    {
        "interactions_per_second": data.interaction_count * given.epochs / seconds,
        "seconds": seconds,
        "ndcg@10": ndcg(log, users, lists),
    },
    "lenskit",
    "numpy",
)
