"""Filters as values: which interactions to keep or add, with a report of what was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tastemaker.data.rows import distinct
from tastemaker.data.schema import Role
from tastemaker.data.specs import epoch_seconds, format_spec, parse_spec
from tastemaker.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from tastemaker.data.dataset import Dataset

__all__ = [
    "FILTERS",
    "BinaryLabel",
    "DateRange",
    "Deduplicate",
    "Filter",
    "FilterReport",
    "KCore",
    "MinLabel",
    "WithNegatives",
    "parse_filter",
]


@dataclass(frozen=True)
class FilterReport:
    """What a filter kept, dropped and added; users and items are those with interactions.

    Attributes:
        name: the line that `parse_filter` reads back.
        rows, users, items: kept.
        dropped_rows, dropped_users, dropped_items: dropped.
        rounds: passes over the interactions until nothing more was dropped (1 but for k-core).
        added_rows: made up by the filter; they are among the rows.
    """

    name: str
    rows: int
    users: int
    items: int
    dropped_rows: int
    dropped_users: int
    dropped_items: int
    rounds: int = 1
    added_rows: int = 0

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        rounds = f" in {self.rounds} rounds" if self.rounds > 1 else ""
        if self.added_rows:
            return (
                f"{self.name}: added {self.added_rows} interactions, now {self.rows} of "
                f"{self.users} users with {self.items} items"
            )
        return (
            f"{self.name}: kept {self.rows} interactions of {self.users} users with {self.items} "
            f"items; dropped {self.dropped_rows} interactions, {self.dropped_users} users and "
            f"{self.dropped_items} items{rounds}"
        )


class Filter(Protocol):
    """A rule that changes the log; `str(filter)` is the line `parse_filter` reads back."""

    def __str__(self) -> str: ...

    def apply(self, dataset: Dataset) -> tuple[Dataset, FilterReport]:
        """The changed data set; users and items that no longer occur are removed.

        Raises:
            DataError: nothing is left, or a column the rule needs is missing.
        """
        ...


@dataclass(frozen=True)
class KCore:
    """Keep users and items with enough interactions, counted again until all have.

    Attributes:
        users: least interactions of a user.
        items: least interactions of an item.
    """

    users: float = 5
    items: float = 5

    def __post_init__(self) -> None:
        for key, value in (("users", self.users), ("items", self.items)):
            if isinstance(value, str) or not (value >= 0 and float(value).is_integer()):
                raise ConfigError(f"filter 'k-core': {key} is a whole number from 0, not {value!r}")

    def __str__(self) -> str:
        return format_spec("k-core", users=self.users, items=self.items)

    def apply(self, dataset: Dataset) -> tuple[Dataset, FilterReport]:
        """See `Filter.apply`. O(rows) a round; later rounds look at what is left."""
        users, items = dataset.column("user"), dataset.column("item")
        rows: NDArray[np.int64] | None = None
        rounds = 0
        while True:
            rounds += 1
            keep = (np.bincount(users, minlength=1) >= self.users)[users]
            keep &= (np.bincount(items, minlength=1) >= self.items)[items]
            if keep.all():
                break
            kept = np.flatnonzero(keep)
            users, items = users[kept], items[kept]
            rows = kept if rows is None else rows[kept]
        return _kept(dataset, rows, str(self), rounds)


@dataclass(frozen=True)
class MinLabel:
    """Keep interactions with a label (rating) of at least a threshold.

    Attributes:
        threshold: the least label kept, in the units of the label column.
    """

    threshold: float

    def __post_init__(self) -> None:
        if isinstance(self.threshold, str) or not np.isfinite(self.threshold):
            raise ConfigError(f"filter 'min-label': threshold is a number, not {self.threshold!r}")

    def __str__(self) -> str:
        return format_spec("min-label", threshold=self.threshold)

    def apply(self, dataset: Dataset) -> tuple[Dataset, FilterReport]:
        """See `Filter.apply`; needs a label column."""
        _need(dataset, "label", str(self))
        return _kept(dataset, np.flatnonzero(dataset.column("label") >= self.threshold), str(self))


@dataclass(frozen=True)
class Deduplicate:
    """Keep one interaction of each user with each item.

    Attributes:
        keep: `"first"` or `"last"` in stored order, which is time order where the data have one.
    """

    keep: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        allowed = ("first", "last")
        if self.keep not in allowed:
            raise ConfigError(
                f"filter 'deduplicate': unknown keep {self.keep!r}"
                f"{nearest(str(self.keep), allowed)}; it is first or last"
            )

    def __str__(self) -> str:
        return format_spec("deduplicate", keep=self.keep)

    def apply(self, dataset: Dataset) -> tuple[Dataset, FilterReport]:
        """See `Filter.apply`. One sort of the rows."""
        pairs = dataset.column("user").astype(np.int64) * dataset.n_items + dataset.column("item")
        order = np.argsort(pairs, kind="stable")
        pairs = pairs[order]
        chosen = np.ones(len(pairs), np.bool_)
        if self.keep == "first":
            chosen[1:] = pairs[1:] != pairs[:-1]
        else:
            chosen[:-1] = pairs[1:] != pairs[:-1]
        return _kept(dataset, np.sort(order[chosen]), str(self))


@dataclass(frozen=True)
class DateRange:
    """Keep interactions from `start` on and before `end`.

    Attributes:
        start: first moment kept, ISO 8601 date or time (UTC if bare) or seconds since 1970.
        end: first moment no longer kept, likewise; at least one of the two is given.
    """

    start: float | str | None = None
    end: float | str | None = None

    def __post_init__(self) -> None:
        start, end = self._seconds()
        if self.start is None and self.end is None:
            raise ConfigError("filter 'date-range' needs start, end or both")
        if not start < end:
            raise ConfigError(
                f"filter 'date-range': start={self.start} is not before end={self.end}"
            )

    def __str__(self) -> str:
        return format_spec("date-range", start=self.start, end=self.end)

    def apply(self, dataset: Dataset) -> tuple[Dataset, FilterReport]:
        """See `Filter.apply`; needs clock timestamps."""
        if not dataset.has_clock:
            raise DataError(
                f"filter '{self}' needs clock timestamps, which data set {dataset.name!r} does "
                "not have"
            )
        start, end = self._seconds()
        times = dataset.column("timestamp")
        return _kept(dataset, np.flatnonzero((times >= start) & (times < end)), str(self))

    def _seconds(self) -> tuple[float, float]:
        start, end = self.start, self.end
        return (
            -np.inf if start is None else epoch_seconds(start, "filter 'date-range': start"),
            np.inf if end is None else epoch_seconds(end, "filter 'date-range': end"),
        )


@dataclass(frozen=True)
class BinaryLabel:
    """Make labels (ratings) 1 from a threshold on and 0 below it; keep every interaction.

    Attributes:
        threshold: the least label that becomes 1, in the units of the label column.
    """

    threshold: float

    def __post_init__(self) -> None:
        if isinstance(self.threshold, str) or not np.isfinite(self.threshold):
            raise ConfigError(
                f"filter 'binary-label': threshold is a number, not {self.threshold!r}"
            )

    def __str__(self) -> str:
        return format_spec("binary-label", threshold=self.threshold)

    def apply(self, dataset: Dataset) -> tuple[Dataset, FilterReport]:
        """See `Filter.apply`; needs a label column."""
        _need(dataset, "label", str(self))
        labels = (dataset.column("label") >= self.threshold).astype(np.float32)
        table = dataset.interactions
        place = table.column_names.index("label")
        changed = table.set_column(place, "label", pa.array(labels))
        return _kept(replace(dataset, interactions=changed), None, str(self))


@dataclass(frozen=True)
class WithNegatives:
    """Give interactions label 1, and add items nobody saw them choose with label 0.

    Each interaction is followed by items drawn uniformly from those its user never interacted
    with, before or after, as interactions of the same moment and context. A user who took nearly
    everything may get fewer, and none twice for one interaction.

    Attributes:
        per_positive: how many are added for each interaction.
        seed: of the draw; same data, same seed, same interactions.
    """

    per_positive: float = 1
    seed: float = 0

    def __post_init__(self) -> None:
        for key, value, least in (("per_positive", self.per_positive, 1), ("seed", self.seed, 0)):
            if isinstance(value, str) or not (value >= least and float(value).is_integer()):
                raise ConfigError(
                    f"filter 'with-negatives': {key} is a whole number from {least}, not {value!r}"
                )

    def __str__(self) -> str:
        return format_spec("with-negatives", per_positive=self.per_positive, seed=self.seed)

    def apply(self, dataset: Dataset) -> tuple[Dataset, FilterReport]:
        """See `Filter.apply`; the data have no labels yet. O(rows per_positive log rows).

        Raises:
            DataError: when there is a label column, or nobody has an item left to be added.
        """
        if "label" in dataset.interactions.column_names:
            raise DataError(
                f"filter '{self}' is for data without labels, but {dataset.name!r} has some; "
                "keep the positives with min-label and leave out the label column, or use "
                "binary-label"
            )
        count = int(self.per_positive)
        drawn = self._draw(dataset, count)  # [R, count], -1 where there is none
        items = np.concatenate([dataset.column("item")[:, None].astype(np.int64), drawn], 1)
        labels = np.zeros(items.shape, np.float32)
        labels[:, 0] = 1.0
        there = (items >= 0).ravel()
        rows = np.repeat(np.arange(len(items)), count + 1)[there]
        added = int(there.sum()) - len(items)
        if not added:
            raise DataError(f"filter '{self}': no user of {dataset.name!r} has an item left")
        table = dataset.interactions.take(pa.array(rows)).combine_chunks()
        table = table.set_column(1, "item", pa.array(items.ravel()[there].astype(np.int32)))
        table = table.add_column(2, "label", pa.array(labels.ravel()[there]))
        roles = {**dataset.schema.roles, Role.LABEL: "label"}
        schema = replace(dataset.schema, roles=roles)
        made, report = _kept(replace(dataset, schema=schema, interactions=table), None, str(self))
        return made, replace(report, added_rows=added)

    def _draw(self, dataset: Dataset, count: int) -> NDArray[np.int64]:
        """Items of no interaction of the row's user, distinct in a row, -1 where none is left."""
        generator = np.random.default_rng(int(self.seed))
        n_items = dataset.n_items
        users = dataset.column("user").astype(np.int64)[:, None]
        known = distinct(users[:, 0] * n_items + dataset.column("item"))
        drawn = np.full((len(users), count), -1, np.int64)
        for _ in range(_MAX_ROUNDS):
            rows, columns = np.nonzero(drawn < 0)
            if not len(rows):
                break
            drawn[rows, columns] = generator.integers(0, n_items, len(rows))
            pairs = users * n_items + drawn
            places = np.minimum(np.searchsorted(known, pairs), len(known) - 1)
            wrong = (drawn >= 0) & (known[places] == pairs)
            order = np.argsort(drawn, 1, kind="stable")
            ranked = np.take_along_axis(drawn, order, 1)
            again = np.zeros(drawn.shape, np.bool_)
            np.put_along_axis(again[:, :], order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
            drawn[wrong | again] = -1
        return drawn


_MAX_ROUNDS = 20  # after these redraws a user with nearly every item gets fewer negatives

FILTERS: Mapping[str, type[Filter]] = {
    "k-core": KCore,
    "min-label": MinLabel,
    "deduplicate": Deduplicate,
    "date-range": DateRange,
    "binary-label": BinaryLabel,
    "with-negatives": WithNegatives,
}


def parse_filter(spec: str) -> Filter:
    """The filter that a line spells: `"k-core:users=5,items=5"`, `"min-label:threshold=4"`, ...

    Raises:
        ConfigError: unknown name, setting or value; says what is allowed.
    """
    return parse_spec(spec, FILTERS, "filter")


def _need(dataset: Dataset, column: str, spec: str) -> None:
    if column not in dataset.interactions.column_names:
        raise DataError(
            f"filter {spec!r} needs a {column} column, which data set {dataset.name!r} does not "
            f"have; its columns are {', '.join(dataset.interactions.column_names)}"
        )


def _kept(
    dataset: Dataset, rows: NDArray[np.int64] | None, spec: str, rounds: int = 1
) -> tuple[Dataset, FilterReport]:
    """The data set with these rows (None for all), compacted, and the report."""
    if (dataset.n_interactions if rows is None else len(rows)) == 0:
        raise DataError(
            f"filter {spec!r} leaves none of the {dataset.n_interactions} interactions of data "
            f"set {dataset.name!r}; loosen it"
        )
    kept = (dataset if rows is None else dataset.take(rows)).compact()
    n_users = int(np.count_nonzero(np.diff(dataset.user_offsets)))
    n_items = int(np.count_nonzero(np.bincount(dataset.column("item"))))
    report = FilterReport(
        name=spec,
        rows=kept.n_interactions,
        users=kept.n_users,
        items=kept.n_items,
        dropped_rows=dataset.n_interactions - kept.n_interactions,
        dropped_users=n_users - kept.n_users,
        dropped_items=n_items - kept.n_items,
        rounds=rounds,
    )
    return kept, report
