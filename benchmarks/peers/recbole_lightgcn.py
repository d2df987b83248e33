"""RecBole's LightGCN: training steps for a while."""

from typing import Any

from scipy.sparse import dok_matrix

from common import answer, read_log, settings
from recbole_log import prepared, training_rate, written_in_parts


def update(self: Any, entries: dict[tuple[int, int], float]) -> None:
    """RecBole's graph is filled by a method of SciPy that 1.13 took away."""
    self._dict.update(entries)


dok_matrix._update = update
given = settings()
trainer, train, _ = prepared(
    given,
    "LightGCN",
    **written_in_parts(given),
    embedding_size=given.width,
    n_layers=given.layers,
    train_batch_size=given.batch_size,
)
rates = training_rate(given, trainer, train)
epoch = len(read_log(given).users) / rates["targets_per_second"]
answer({**rates, "epoch_seconds": epoch}, "recbole", "torch", "numpy")
