"""Metric names: which exist, and how `"ndcg@10"` is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tastemaker.errors import ConfigError, nearest
from tastemaker.evaluation.beyond import BEYOND_METRICS, EXPOSURE_METRICS
from tastemaker.evaluation.ranking import RANKING_METRICS

__all__ = ["LIST_METRICS", "Metric", "parse_metrics"]

#: every metric of a ranked list
LIST_METRICS = (*RANKING_METRICS, *EXPOSURE_METRICS, *BEYOND_METRICS)


@dataclass(frozen=True)
class Metric:
    """One metric of lists cut at `k`."""

    kind: str
    k: int

    @property
    def name(self) -> str:
        """Such as `"ndcg@10"`."""
        return f"{self.kind}@{self.k}"


def parse_metrics(names: Sequence[str], ks: Sequence[int]) -> list[Metric]:
    """Metrics by name; a name without `@k` is measured at each of `ks`.

    >>> [metric.name for metric in parse_metrics(["ndcg", "recall@50"], ks=(10, 20))]
    ['ndcg@10', 'ndcg@20', 'recall@50']

    Raises:
        ConfigError: for an unknown metric (with the nearest known one) or a cut below 1.
    """
    metrics: dict[Metric, None] = {}
    for name in names:
        kind, at, cut = name.partition("@")
        if kind not in LIST_METRICS:
            raise ConfigError(
                f"unknown metric {name!r}{nearest(kind, LIST_METRICS)}; "
                f"known: {', '.join(LIST_METRICS)}"
            )
        if at and not (cut.isascii() and cut.isdigit()):
            raise ConfigError(f"metric {name!r}: after @ comes a list length, as in '{kind}@10'")
        for k in [int(cut)] if at else ks:
            if k < 1:
                raise ConfigError(
                    f"metric {name!r}: the list length is {k}, but must be at least 1"
                )
            metrics[Metric(kind, k)] = None
    if not metrics:
        raise ConfigError("no metric is asked for; name at least one, such as 'ndcg@10'")
    return list(metrics)
