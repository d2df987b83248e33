"""How a run's model is measured: lists of items ranked, or labels predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tastemaker.evaluation import evaluate, evaluate_pointwise

if TYPE_CHECKING:
    from tastemaker.data import Part, TrainingSet
    from tastemaker.evaluation import Evaluation
    from tastemaker.models.base import Recommender

__all__ = ["measure", "validation"]

_WATCHED = {  # validation metrics of the metrics log, by what a method predicts
    "items": ("ndcg@10", "recall@10"),
    "labels": ("auc", "gauc", "log_loss"),
}


def measure(
    model: Recommender,
    part: Part,
    *,
    train: TrainingSet | None = None,
    metrics: Sequence[str] | None = None,
    **how: Any,
) -> Evaluation:
    """Evaluate a model by what it predicts.

    Args:
        model: a method that ranks items, or one that predicts labels.
        part: what to ask.
        train: what it learned from.
        metrics: names; by default all that can be measured.
        **how: the protocol of a ranking, see `evaluate`; labels have none.

    Raises:
        ConfigError: for an unknown metric.
        DataError: when the part has nothing to measure.
    """
    if model.predicts == "labels":
        return evaluate_pointwise(model, part, metrics=metrics)
    return evaluate(model, part, train=train, metrics=metrics, **how)


def validation(model: Recommender, part: Part) -> Callable[[], Mapping[str, float]]:
    """What training watches: the usual metrics on the validation part, and the monitored one."""
    monitor = model.config.to_json().get("monitor")
    watched = list(dict.fromkeys([*_WATCHED[model.predicts], *([monitor] if monitor else [])]))

    def validate() -> Mapping[str, float]:
        found = measure(model, part, metrics=watched)
        return {name: estimate.value for name, estimate in found.values.items()}

    return validate
