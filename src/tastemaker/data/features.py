"""Feature columns of users, items and contexts as codes and numbers.

A field is an id (the user's, the item's) or a feature column. All fields that take values share
one numbering of codes, so one embedding table serves them: field f owns `size` codes from
`start` on, the first for a missing value, one for each value the data set lists, the last for
every value that training does not know (too rare there, or never seen). Whatever is missing, in
any field, is written as code 0, whose embedding is the zero vector. Columns of numbers are
standardised, or cut into quantile buckets, which are values like others.

What is known, mean and spread, and the buckets are learned from training rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tastemaker.data.queries import Ragged
from tastemaker.data.schema import Kind
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import ConfigError, nearest

if TYPE_CHECKING:
    from tastemaker.data.dataset import Dataset
    from tastemaker.data.training_set import TrainingSet

__all__ = [
    "Coded",
    "FeatureColumns",
    "Field",
    "Fields",
    "LearnedFeatures",
    "Side",
    "learn_features",
]

Side = Literal["user", "item", "context"]

_SIDES: tuple[Side, ...] = ("user", "item", "context")
_KINDS = (Kind.CATEGORICAL, Kind.CATEGORIES, Kind.NUMERIC)
_MOST_VALUES = 32  # of one list; further ones are left out


@dataclass(frozen=True)
class Field:
    """An id or a feature column.

    Attributes:
        name: `"user"`, `"item"`, or side and column, such as `"item.genres"`.
        side: whose it is; a context belongs to one interaction.
        column: of the side's table, or `None` for the id itself.
        kind: categorical, categories or numeric.
        n_values: how many values the data set lists; 0 for numbers that stay numbers.
        width: codes of a row: 1, the longest list, or 0 for numbers that stay numbers.
        start: its first code.
    """

    name: str
    side: Side
    column: str | None
    kind: Kind
    n_values: int
    width: int
    start: int

    @property
    def size(self) -> int:
        """How many codes are its own."""
        return self.n_values + 2 if self.width else 0

    def codes(self, values: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Codes of values by number, -1 for missing and -2 for one the data set does not list."""
        usual = np.append(known, [False, False])[values]  # -1 and -2 read the two at the end
        codes = np.where(usual, values + (self.start + 1), self.start + self.size - 1)
        return np.where(values == -1, 0, codes)


@dataclass(frozen=True)
class Coded:
    """Rows of one side in codes and numbers.

    Attributes:
        codes: [n, T] int64, T the widths of the side's fields, 0 where there is nothing.
        numbers: [n, M] float32, of mean 0 and variance 1 over the training rows, 0 where missing.
    """

    codes: NDArray[np.int64]
    numbers: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Fields:
    """The fields of a data set, in order: user, item, context, ids before columns.

    Attributes:
        all: every field.
        contexts: the values that each categorical context column lists.
        buckets: quantile buckets of a column of numbers; 0 = they stay numbers.
    """

    all: tuple[Field, ...]
    contexts: Mapping[str, Vocabulary] = field(default_factory=dict)
    buckets: int = 0

    @classmethod
    def of(cls, dataset: Dataset, names: Sequence[str] | None = None, buckets: int = 0) -> Fields:
        """The fields of a data set; it may be without interactions.

        Args:
            dataset: its ids and its columns of the kinds categorical, categories and numeric.
                Interactions give contexts that are categorical or numeric.
            names: the fields to use, such as `("user", "item", "item.genres")`; `None` for all.
            buckets: cut numbers into so many quantiles; 0 keeps them numbers.

        Raises:
            ConfigError: for a name the data set does not have.
        """
        found = _found(dataset, buckets)
        known = [entry.name for entry in found]
        for name in names or ():
            if name not in known:
                raise ConfigError(
                    f"data set {dataset.name!r} has no field {name!r}{nearest(name, known)}; "
                    f"its fields: {', '.join(known)}"
                )
        chosen, start = [], 0
        for entry in found:
            if names is None or entry.name in names:
                placed = Field(**{**vars(entry), "start": start})
                chosen.append(placed)
                start += placed.size
        contexts = {
            entry.name: Vocabulary(_encoded(dataset.interactions, entry.column).dictionary)
            for entry in chosen
            if entry.side == "context" and entry.kind is Kind.CATEGORICAL and entry.column
        }
        return cls(tuple(chosen), contexts, buckets)

    @property
    def n_codes(self) -> int:
        """Codes of all fields together: the rows of an embedding table."""
        return sum(entry.size for entry in self.all)

    def of_side(self, *sides: Side) -> tuple[Field, ...]:
        """The fields of these sides, those with codes before those that are numbers."""
        return tuple(
            entry
            for side in sides
            for counted in (True, False)
            for entry in self.all
            if entry.side == side and bool(entry.width) == counted
        )

    def code_context(
        self, columns: Mapping[str, NDArray[Any]], n: int, learned: LearnedFeatures
    ) -> Coded:
        """The contexts of n queries; a column that is not given is missing everywhere.

        Args:
            columns: column name -> [n] raw values; None or NaN where missing.
            n: number of queries.
            learned: what training knows.
        """
        parts: list[tuple[Field, NDArray[Any]]] = []
        for entry in self.of_side("context"):
            given = columns.get(entry.column or "")
            if entry.kind is Kind.NUMERIC:
                raw = np.full(n, np.nan) if given is None else np.asarray(given, np.float64)
            elif given is None:
                raw = np.full(n, -1)
            else:
                values = pa.array(given, from_pandas=True)
                raw = self.contexts[entry.name].encode(values)
                raw = np.where(values.is_null().to_numpy(zero_copy_only=False), -1, raw - (raw < 0))
            parts.append((entry, raw))
        return learned.coded(parts, n)


@dataclass(frozen=True, eq=False)
class LearnedFeatures:
    """What training rows tell of the fields.

    Attributes:
        known: field name -> [n_values] bool, the values with enough training rows; fields with
            values.
        edges: field name -> [buckets - 1] float64 rising bucket edges, or [2] mean and spread of
            numbers that stay numbers; numeric fields.
    """

    known: Mapping[str, NDArray[np.bool_]]
    edges: Mapping[str, NDArray[np.float64]]

    def coded(self, parts: Sequence[tuple[Field, NDArray[Any] | Ragged]], n: int) -> Coded:
        """Rows from one column a field: value numbers [n], lists of them, or numbers [n]."""
        codes: list[NDArray[np.int64]] = [np.empty((n, 0), np.int64)]
        numbers: list[NDArray[np.float32]] = [np.empty((n, 0), np.float32)]
        for entry, column in parts:
            if isinstance(column, Ragged):
                dense = column.padded(entry.width, -1)
                codes.append(entry.codes(dense, self.known[entry.name]))
            elif entry.kind is not Kind.NUMERIC:
                codes.append(entry.codes(column, self.known[entry.name])[:, None])
            elif entry.width:
                bucket = np.searchsorted(self.edges[entry.name], column, side="right")
                bucket = np.where(np.isnan(column), -1, bucket)
                codes.append(entry.codes(bucket, self.known[entry.name])[:, None])
            else:
                mean, spread = self.edges[entry.name]
                scaled = np.nan_to_num((column - mean) / spread, nan=0.0)
                numbers.append(scaled.astype(np.float32)[:, None])
        return Coded(np.concatenate(codes, 1), np.concatenate(numbers, 1))


@dataclass(frozen=True)
class _Learner:
    """One field's column and how often training rows show each of its rows."""

    entry: Field
    column: NDArray[Any] | Ragged
    weights: NDArray[np.int64]

    def known(self, min_count: int) -> NDArray[np.bool_]:
        if isinstance(self.column, Ragged):
            values, weights = self.column.values, self.weights[self.column.row_index()]
        else:
            values, weights = self.column, self.weights
        listed = values >= 0
        counts = np.bincount(values[listed], weights[listed], minlength=self.entry.n_values)
        return np.asarray(counts >= max(min_count, 1))

    def edges(self, buckets: int) -> NDArray[np.float64]:
        assert not isinstance(self.column, Ragged)
        used = ~np.isnan(self.column) & (self.weights > 0)
        values, weights = self.column[used], self.weights[used]
        if not len(values):
            return np.zeros(max(buckets - 1, 0)) if buckets else np.array([0.0, 1.0])
        if buckets:
            order = np.argsort(values, kind="stable")
            shares = np.cumsum(weights[order]) / weights.sum()
            places = np.searchsorted(shares, np.arange(1, buckets) / buckets)
            return np.asarray(values[order][np.minimum(places, len(values) - 1)])
        mean = np.average(values, weights=weights)
        spread = np.sqrt(np.average((values - mean) ** 2, weights=weights))
        return np.array([mean, spread if spread > 0 else 1.0])


class FeatureColumns:
    """The columns of a training set's fields, read once: what there is to learn, and the rows.

    Attributes:
        learned: what its training rows tell of the fields.
    """

    def __init__(self, data: TrainingSet, fields: Fields, min_count: int) -> None:
        self.data, self.fields = data, fields
        self._learners = {entry.name: self._learner(entry) for entry in fields.all}
        numeric = [each for each in self._learners.values() if each.entry.kind is Kind.NUMERIC]
        edges = {each.entry.name: each.edges(fields.buckets) for each in numeric}
        known = {
            name: each.known(min_count)
            for name, each in self._learners.items()
            if each.entry.kind is not Kind.NUMERIC
        }
        known |= {name: np.ones(fields.buckets, np.bool_) for name in edges if fields.buckets}
        self.learned = LearnedFeatures(known, edges)

    @cached_property
    def users(self) -> Coded:
        """[n_users + 1] rows; the last is of a user nobody knows: its id, and nothing else."""
        return self._with_nobody("user", -2)

    @cached_property
    def items(self) -> Coded:
        """[n_items + 1] rows; the last is padding, where all is missing."""
        return self._with_nobody("item", -1)

    @cached_property
    def contexts(self) -> Coded:
        """The contexts of the training rows, [R] rows."""
        chosen = self.fields.of_side("context")
        parts = [(entry, self._learners[entry.name].column) for entry in chosen]
        return self.learned.coded(parts, len(self.data))

    def _with_nobody(self, side: Side, last_id: int) -> Coded:
        """The rows of a side's table and one more."""
        chosen = self.fields.of_side(side)
        n = 1 + (self.data.n_users if side == "user" else self.data.n_items)
        parts: list[tuple[Field, NDArray[Any] | Ragged]] = []
        for entry in chosen:
            column = self._learners[entry.name].column
            if isinstance(column, Ragged):
                column = Ragged(column.values, np.append(column.offsets, column.offsets[-1:]))
            else:
                missing = np.nan if entry.kind is Kind.NUMERIC else -1
                column = np.append(column, last_id if entry.column is None else missing)
            parts.append((entry, column))
        return self.learned.coded(parts, n)

    def _learner(self, entry: Field) -> _Learner:
        data, dataset = self.data, self.data.dataset
        match entry.side:
            case "user":
                table, weights = dataset.users, np.diff(data.offsets)
            case "item":
                table, weights = dataset.items, data.item_counts()
            case _:
                table, weights = dataset.interactions, np.ones(len(data), np.int64)
        if entry.column is None:
            return _Learner(entry, np.arange(len(weights)), weights)
        assert table is not None
        column: NDArray[Any] | Ragged
        match entry.kind:
            case Kind.NUMERIC:
                column = table.column(entry.column).to_numpy().astype(np.float64)
            case Kind.CATEGORIES:
                column = _lists(table, entry.column)
            case _:
                indices = _encoded(table, entry.column).indices
                column = indices.fill_null(-1).to_numpy().astype(np.int64)
        if entry.side == "context" and not isinstance(column, Ragged):
            column = column[data.rows]
        return _Learner(entry, column, weights)


def learn_features(data: TrainingSet, fields: Fields, min_count: int = 1) -> FeatureColumns:
    """What a training set tells of these fields, and its rows in codes.

    Args:
        data: training rows.
        fields: of its data set.
        min_count: training rows a value needs to be known; rarer ones share the last code of
            their field.
    """
    return FeatureColumns(data, fields, min_count)


def _found(dataset: Dataset, buckets: int) -> list[Field]:
    """Every field a data set has, each with start 0."""
    tables = {"user": dataset.users, "item": dataset.items, "context": dataset.interactions}
    kinds = {
        "user": dataset.schema.users,
        "item": dataset.schema.items,
        "context": dataset.schema.interactions,
    }
    counts = {"user": dataset.n_users, "item": dataset.n_items}
    found = []
    for side in _SIDES:
        if side in counts:
            found.append(Field(side, side, None, Kind.CATEGORICAL, counts[side], 1, 0))
        table = tables[side]
        for column, kind in kinds[side].items():
            if kind not in _KINDS or table is None:
                continue
            if side == "context" and kind is Kind.CATEGORIES:
                continue
            n_values, width = _extent(table, column, kind, buckets)
            found.append(Field(f"{side}.{column}", side, column, kind, n_values, width, 0))
    return found


def _extent(table: pa.Table, column: str, kind: Kind, buckets: int) -> tuple[int, int]:
    """How many values a column lists, and how many codes a row of it has."""
    match kind:
        case Kind.NUMERIC:
            return buckets, int(buckets > 0)
        case Kind.CATEGORIES:
            lists = _lists(table, column)
            longest = int(lists.lengths.max(initial=1))
            return int(lists.values.max(initial=-1)) + 1, min(longest, _MOST_VALUES)
        case _:
            return len(_encoded(table, column).dictionary), 1


def _encoded(table: pa.Table, column: str | None) -> pa.DictionaryArray:
    """A categorical column as one dictionary array; its dictionary outlives the rows."""
    values = table.column(column).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = values.chunk(0)
    return values if pa.types.is_dictionary(values.type) else values.dictionary_encode()


def _lists(table: pa.Table, column: str) -> Ragged:
    """A column of lists as value numbers, in order of first appearance."""
    lists = table.column(column).combine_chunks()
    lengths = lists.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    indices = lists.flatten().dictionary_encode().indices
    return Ragged.from_lengths(indices.fill_null(-1).to_numpy().astype(np.int64), lengths)
