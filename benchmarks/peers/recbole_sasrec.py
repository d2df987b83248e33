"""RecBole's SASRec with the full softmax: training steps for a while."""

from common import answer, settings
from recbole_log import prepared, training_rate, written

given = settings()
written(given)
trainer, train, _ = prepared(
    given,
    "SASRec",
    hidden_size=given.width,
    inner_size=given.width,
    n_layers=given.layers,
    n_heads=given.heads,
    MAX_ITEM_LIST_LENGTH=given.length,
    loss_type="CE",
    train_neg_sample_args=None,
    train_batch_size=given.rows,
    eval_args={"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
)
answer(training_rate(given, trainer, train), "recbole", "torch", "numpy")
