"""RecBole's evaluation of a factor model, all items ranked: users a second."""

import numpy as np

from common import answer, read_log, seconds_of, settings
from recbole_log import prepared, written

given = settings()
log = read_log(given)
written(given)
trainer, _, test = prepared(
    given,
    "BPR",
    embedding_size=given.width,
    eval_batch_size=given.eval_rows or given.block * (int(log.n_items) + 1),
    metrics=["NDCG", "Recall"],
    topk=[given.k],
    eval_args={
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "mode": "full",
        "group_by": "user",
    },
)
n_users = len(np.unique(log.target_users))


def evaluation() -> None:
    trainer.evaluate(test, load_best_model=False)


evaluation()
best = min(seconds_of(evaluation) for _ in range(given.repeats))
answer({"users_per_second": n_users / best}, "recbole", "torch", "numpy")
