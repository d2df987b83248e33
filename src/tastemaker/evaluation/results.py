"""What an evaluation found: estimates with intervals, values per query, and how it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "Evaluation"]


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval.

    Attributes:
        value: the metric; NaN where it is not defined (no query has a value).
        low: lower end of the interval; NaN where there is none (a single query, no value).
        high: upper end.
        n: queries that have a value.
    """

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """Plain values; NaN becomes None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {
            **{name: None if math.isnan(x) else float(x) for name, x in numbers.items()},
            "n": int(self.n),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Estimate:
        """The estimate written by `to_json`."""
        numbers = {
            name: math.nan if value[name] is None else float(value[name])
            for name in ("value", "low", "high")
        }
        return cls(**numbers, n=int(value["n"]))

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The metrics of one model on one part.

    Attributes:
        values: metric name -> estimate, such as `"ndcg@10"`.
        per_query: metric name -> [n_queries] float64, for the metrics that are means over
            queries; NaN where a query has no value.
        users: [n_queries] int64, whose query each value belongs to.
        slices: slice name -> metric name -> estimate.
        n_queries: queries measured.
        n_skipped: queries left out because nothing was relevant.
        n_unreachable: targets that could not be hit, being masked as seen.
        protocol: how it was measured, in words.
    """

    values: Mapping[str, Estimate]
    per_query: Mapping[str, NDArray[np.float64]]
    users: NDArray[np.int64]
    slices: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    n_queries: int = 0
    n_skipped: int = 0
    n_unreachable: int = 0
    protocol: str = ""

    def __getitem__(self, metric: str) -> float:
        return self.values[metric].value

    def __str__(self) -> str:
        lines = [f"{name:>20}  {estimate}" for name, estimate in self.values.items()]
        return "\n".join([*lines, self.protocol])

    def to_json(self) -> dict[str, Any]:
        """Everything but the values per query, as JSON values."""
        return {
            "protocol": self.protocol,
            "n_queries": self.n_queries,
            "n_skipped": self.n_skipped,
            "n_unreachable": self.n_unreachable,
            "values": {name: estimate.to_json() for name, estimate in self.values.items()},
            "slices": {
                name: {metric: estimate.to_json() for metric, estimate in values.items()}
                for name, values in self.slices.items()
            },
        }

    @classmethod
    def from_json(
        cls,
        value: Mapping[str, Any],
        per_query: Mapping[str, NDArray[np.float64]],
        users: NDArray[np.int64],
    ) -> Evaluation:
        """The evaluation written by `to_json`, with its values per query, kept elsewhere."""

        def estimates(found: Mapping[str, Any]) -> dict[str, Estimate]:
            return {name: Estimate.from_json(estimate) for name, estimate in found.items()}

        return cls(
            values=estimates(value["values"]),
            per_query=per_query,
            users=users,
            slices={name: estimates(found) for name, found in value["slices"].items()},
            n_queries=value["n_queries"],
            n_skipped=value["n_skipped"],
            n_unreachable=value["n_unreachable"],
            protocol=value["protocol"],
        )
