"""LensKit's item neighbours by cosine: a fit."""

from common import answer, read_log, seconds_of, settings
from lenskit_log import dataset_of, use_threads

given = settings()
use_threads(given)

from lenskit.knn import ItemKNNScorer  # noqa: E402
from lenskit.training import TrainingOptions  # noqa: E402

data = dataset_of(read_log(given))
model = ItemKNNScorer(max_nbrs=20, save_nbrs=given.neighbors, feedback="implicit")
seconds = seconds_of(lambda: model.train(data, TrainingOptions(rng=given.seed)))
answer(
    {"interactions_per_second": data.interaction_count / seconds, "seconds": seconds},
    "lenskit",
    "numpy",
)
