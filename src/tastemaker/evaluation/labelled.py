"""Pointwise evaluation: score a part's own (query, item) rows and compare with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.console import Progress
from tastemaker.errors import ConfigError, DataError, nearest
from tastemaker.evaluation.intervals import JACKKNIFE_GROUPS, jackknife
from tastemaker.evaluation.pointwise import (
    BINARY_METRICS,
    POINTWISE_METRICS,
    auc,
    calibration_error,
    gauc,
    grouped_auc,
    log_loss,
    log_losses,
    mae,
    rmse,
)
from tastemaker.evaluation.protocol import Scorer, measuring
from tastemaker.evaluation.results import Estimate, Evaluation

if TYPE_CHECKING:
    from tastemaker.data import Part

__all__ = ["evaluate_pointwise"]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Scored rows: scores, the same as probabilities, labels, and which query, [R] each."""

    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    labels: NDArray[np.float64]
    queries: NDArray[np.int64]

    def measure(self, metric: str, chosen: NDArray[np.bool_] | slice = slice(None)) -> float:
        """A metric of the chosen rows."""
        labels = self.labels[chosen]
        match metric:
            case "auc":
                return auc(self.scores[chosen], labels)
            case "gauc":
                return gauc(self.scores[chosen], labels, self.queries[chosen])
            case "log_loss":
                return log_loss(self.probabilities[chosen], labels)
            case "calibration_error":
                return calibration_error(self.probabilities[chosen], labels)
            case "rmse":
                return rmse(self.scores[chosen], labels)
            case _:
                return mae(self.scores[chosen], labels)


def evaluate_pointwise(
    model: Scorer,
    part: Part,
    *,
    metrics: Sequence[str] | None = None,
    batch_size: int = 1 << 16,
    seed: int = 0,
) -> Evaluation:
    """Score the targets of every query, and compare the scores with their labels.

    `log_loss` and `calibration_error` take the scores as logits, whose sigmoid is the probability;
    `rmse` and `mae` take them as predictions of the label. Intervals are delete-a-group jackknife
    intervals over queries. The values per query are means over the query's rows, of which every
    query weighs the same; they serve `compare`.

    Args:
        model: what to measure; put into evaluation mode and back when it is a torch module.
        part: queries, targets and labels.
        metrics: names of `pointwise`; by default those for 0 and 1, or `rmse` and `mae` when
            there are other labels.
        batch_size: rows per call of the model; no number depends on it.
        seed: of the groups that the intervals leave out.

    Raises:
        ConfigError: for an unknown metric.
        DataError: when the part has no rows, no labels, or labels the metrics are not for.
    """
    if part.labels is None:
        raise DataError(
            "pointwise metrics compare scores with labels, but the interactions have no label "
            "column; name one with label=..."
        )
    if len(part.targets.values) == 0:
        raise DataError("nothing to evaluate: no query of this part has a target")
    labels = part.labels.astype(np.float64)
    is_binary = bool(np.isin(labels, (0.0, 1.0)).all())
    wanted = _parse(metrics, is_binary)
    with measuring(model):
        scores = _score(model, part, batch_size)
    # exp overflows to infinity for scores below -709, and the probability is 0 as it should be.
    with np.errstate(over="ignore"):
        probabilities = 1.0 / (1.0 + np.exp(-scores))
    rows = _Rows(scores, probabilities, labels, part.targets.row_index())
    asked = np.flatnonzero(part.targets.lengths)
    return Evaluation(
        values={name: _estimate(name, rows, len(asked), seed) for name in wanted},
        per_query=_per_query(wanted, rows, len(part.targets), asked),
        users=part.users[asked],
        n_queries=len(asked),
        n_skipped=len(part.targets) - len(asked),
        protocol=_describe(labels, is_binary),
    )


def _describe(labels: NDArray[np.float64], is_binary: bool) -> str:
    ones = f" ({int(labels.sum()):,} positive)" if is_binary else ""
    return f"scores of {len(labels):,} labelled rows{ones}, intervals over queries"


def _parse(metrics: Sequence[str] | None, is_binary: bool) -> list[str]:
    if metrics is None:
        return list(BINARY_METRICS) if is_binary else ["rmse", "mae"]
    for name in metrics:
        if name not in POINTWISE_METRICS:
            raise ConfigError(
                f"unknown pointwise metric {name!r}{nearest(name, POINTWISE_METRICS)}; "
                f"known: {', '.join(POINTWISE_METRICS)}"
            )
        if name in BINARY_METRICS and not is_binary:
            raise DataError(
                f"metric {name!r} is for labels 0 and 1, but this part has others; "
                "ask for rmse or mae, or make the labels binary"
            )
    return list(metrics)


def _score(model: Scorer, part: Part, batch_size: int) -> NDArray[np.float64]:
    """The score of each target, [T] float64; targets with contexts are asked for one by one."""
    scores = np.empty(len(part.targets.values))
    every = np.arange(len(scores), dtype=np.int64)
    with Progress("scoring", len(scores), unit="rows") as progress:
        for start in range(0, len(scores) if part.contexts else 0, batch_size):
            chosen = every[start : start + batch_size]
            asked = torch.from_numpy(part.targets.values[chosen, None])
            scores[chosen] = model.score(part.asked_for(chosen), asked)[:, 0].cpu().numpy()
            progress.advance(len(chosen))
        if part.contexts:
            return scores
        for rows in _batches(part.targets.lengths, batch_size):
            places, lengths = part.targets.positions(rows)
            valid = np.arange(lengths.max()) < lengths[:, None]  # [b, C]
            items = np.zeros(valid.shape, np.int64)
            items[valid] = part.targets.values[places]
            found = model.score(part.queries.take(rows), torch.from_numpy(items))
            scores[places] = found.cpu().double().numpy()[valid]
            progress.advance(int(lengths.sum()))
    return scores


def _batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Queries with targets, about `batch_size` targets at once, none with twice another's."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    batch = np.cumsum(lengths[order]) // batch_size
    octave = np.frexp(lengths[order])[1]
    new = (np.diff(batch) > 0) | (np.diff(octave) > 0)
    yield from np.split(order, np.flatnonzero(new) + 1)


def _estimate(metric: str, rows: _Rows, n_queries: int, seed: int) -> Estimate:
    """The metric of all rows, and its interval from leaving out groups of queries."""
    query = np.unique(rows.queries, return_inverse=True)[1]
    dealt = np.random.default_rng(seed).permutation(np.arange(n_queries) % JACKKNIFE_GROUPS)
    group = dealt[query]  # of each row
    n_groups = min(n_queries, JACKKNIFE_GROUPS)
    without = [rows.measure(metric, group != number) for number in range(n_groups)]
    return jackknife(rows.measure(metric), np.array(without), n_queries)


def _per_query(
    metrics: Sequence[str], rows: _Rows, n_rows: int, asked: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Means of each query's rows, for the metrics that have such: [queries asked] float64."""
    counts = np.bincount(rows.queries, minlength=n_rows)[asked]

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(rows.queries, values, minlength=n_rows)[asked] / counts)

    each = {
        "gauc": lambda: grouped_auc(rows.scores, rows.labels, rows.queries, n_rows)[asked],
        "log_loss": lambda: mean(log_losses(rows.probabilities, rows.labels)),
        "mae": lambda: mean(np.abs(rows.scores - rows.labels)),
    }
    return {name: each[name]() for name in metrics if name in each}
