"""The data model: an immutable, integer-coded, columnar log with the features around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tastemaker.data.knowledge import KnowledgeGraph
from tastemaker.data.ordering import event_order, gather, user_offsets
from tastemaker.data.rows import distinct
from tastemaker.data.schema import Role, Schema
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, nearest

if TYPE_CHECKING:
    from typing import Unpack

    from tastemaker.data.readers import Options

__all__ = ["Dataset", "sorted_interactions"]

_RELATIVE = 365 * 86400  # a common first time of all users within a year of zero is no date


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """An interaction log in codes, with feature tables and a knowledge graph.

    Attributes:
        name: what a person calls it.
        schema: the meaning of every column.
        user_ids: raw user ids <-> codes 0..n_users-1.
        item_ids: raw item ids <-> codes 0..n_items-1.
        interactions: R rows, sorted by (user, order or timestamp, source row), one chunk a
            column. "user" and "item" int32 codes, then those present of "timestamp" (int64
            seconds since 1970 UTC, float64 when fractional), "order" int64, "label", "weight" and
            "propensity" float32, "behavior", "split" and "session" (Arrow dictionaries), then
            feature columns under their own names.
        users: feature table whose row c belongs to user code c, or None.
        items: feature table whose row c belongs to item code c, or None.
        knowledge: the knowledge graph, or None.
        dropped: what the reader left out, by reason, in rows.
    """

    name: str
    schema: Schema
    user_ids: Vocabulary
    item_ids: Vocabulary
    interactions: pa.Table
    users: pa.Table | None = None
    items: pa.Table | None = None
    knowledge: KnowledgeGraph | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {self.n_users:,} users, {self.n_items:,} items, "
            f"{self.n_interactions:,} interactions)"
        )

    @property
    def n_users(self) -> int:
        """Number of users, with or without interactions."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items, with or without interactions."""
        return len(self.item_ids)

    @property
    def n_interactions(self) -> int:
        """Number of interactions R."""
        return int(self.interactions.num_rows)

    @property
    def is_ordered(self) -> bool:
        """Whether the log says in what order a user's events came."""
        return bool({"order", "timestamp"} & set(self.interactions.column_names))

    @cached_property
    def has_clock(self) -> bool:
        """Whether timestamps compare between users.

        They do not when there are none, or when every user begins at the same small number: those
        count seconds since the user's own first event. Without interactions the column decides.
        """
        if "timestamp" not in self.interactions.column_names:
            return False
        if not self.n_interactions:
            return True
        starts = self.user_offsets[:-1][np.diff(self.user_offsets) > 0]
        first = self.column("timestamp")[starts]
        return not bool(np.all(first == first[0]) and abs(first[0]) < _RELATIVE)

    @cached_property
    def user_offsets(self) -> NDArray[np.int64]:
        """[n_users + 1] int64: the rows of user u are offsets[u]:offsets[u + 1]."""
        return user_offsets(self.column("user"), self.n_users)

    def column(self, name: str) -> NDArray[Any]:
        """An interaction column as a NumPy array [R]: a view for numbers, objects for text.

        Raises:
            DataError: for an unknown column, naming the known ones.
        """
        known = self.interactions.column_names
        if name not in known:
            raise DataError(
                f"{self.name}: the interactions have no column {name!r}{nearest(name, known)}; "
                f"known: {', '.join(known)}"
            )
        array = one_chunk(self.interactions.column(name))
        if pa.types.is_dictionary(array.type):
            values = array.dictionary.to_numpy(zero_copy_only=False)
            if not array.null_count:
                taken: NDArray[Any] = values[array.indices.to_numpy()]
                return taken
        whole: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return whole

    def titles(self, codes: Any) -> list[str]:
        """What to call items, [n] str: the title column, or the raw id where there is none."""
        raw = self.item_ids.decode(codes).to_pylist()
        if self.schema.title is None or self.items is None:
            return [str(name) for name in raw]
        column = one_chunk(self.items.column(self.schema.title))
        named = column.take(pa.array(np.asarray(codes, np.int64))).to_pylist()
        return [str(own if own else name) for own, name in zip(named, raw, strict=True)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content as 64 hex digits; the name is not part of it."""
        from tastemaker.data.storage import content_hash

        return content_hash(self)

    def take(self, rows: NDArray[Any]) -> Dataset:
        """The same data set with only these interactions; they stay sorted.

        Args:
            rows: [n] row numbers, or [R] bool True where a row stays.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64, copy=False)
        if not np.all(rows[1:] > rows[:-1]):
            rows = distinct(rows)
        return dataclasses.replace(self, interactions=take_rows(self.interactions, rows))

    def compact(self) -> Dataset:
        """Only users and items that occur in the interactions; codes are renumbered in order."""
        users, items = self.column("user"), self.column("item")
        kept_users = np.flatnonzero(np.bincount(users, minlength=self.n_users))
        kept_items = np.flatnonzero(np.bincount(items, minlength=self.n_items))
        table = self.interactions
        table = table.set_column(0, "user", pa.array(_renumber(kept_users, self.n_users)[users]))
        table = table.set_column(1, "item", pa.array(_renumber(kept_items, self.n_items)[items]))
        return dataclasses.replace(
            self,
            user_ids=self.user_ids.take(kept_users),
            item_ids=self.item_ids.take(kept_items),
            interactions=table,
            users=None if self.users is None else take_rows(self.users, kept_users),
            items=None if self.items is None else take_rows(self.items, kept_items),
            knowledge=None if self.knowledge is None else self.knowledge.take_items(kept_items),
        )

    def without_interactions(self) -> Dataset:
        """The same users, items and features with an empty log."""
        return dataclasses.replace(self, interactions=self.interactions.slice(0, 0))

    def with_interactions(
        self, users: NDArray[Any], items: NDArray[Any], columns: Mapping[str, Any]
    ) -> Dataset:
        """The same users, items and features with another log, sorted as every data set.

        Args:
            users: [n] user codes.
            items: [n] item codes.
            columns: name -> [n] NumPy or Arrow arrays of columns the log already has; columns left
                out here are left out there.

        Raises:
            DataError: for an unknown column, unequal lengths or codes outside the vocabularies.
        """
        for name in columns:
            if name not in self.interactions.column_names:
                raise DataError(
                    f"{self.name}: the interactions have no column {name!r}"
                    f"{nearest(name, self.interactions.column_names)}"
                )
        for name, codes, known in (("users", users, self.n_users), ("items", items, self.n_items)):
            if len(codes) and (np.min(codes) < 0 or np.max(codes) >= known):
                raise DataError(f"{self.name}: {name} must be codes from 0 to {known - 1}")
        types = {column.name: column.type for column in self.interactions.schema}
        whole: dict[str, Any] = {
            "user": np.asarray(users, np.int32),
            "item": np.asarray(items, np.int32),
        }
        for name, values in columns.items():
            array = values if isinstance(values, pa.Array) else pa.array(values)
            whole[name] = array if array.type == types[name] else array.cast(types[name])
        if len({len(values) for values in whole.values()}) > 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in whole.items())
            raise DataError(f"{self.name}: columns differ in length ({lengths})")
        roles = {
            role: name
            for role, name in self.schema.roles.items()
            if role in whole or role in (Role.USER, Role.ITEM)
        }
        kinds = {name: kind for name, kind in self.schema.interactions.items() if name in whole}
        return dataclasses.replace(
            self,
            schema=dataclasses.replace(self.schema, roles=roles, interactions=kinds),
            interactions=sorted_interactions(whole, self.n_users),
        )

    def describe(self) -> dict[str, Any]:
        """Counts, density, events per user, time range and columns, as plain values."""
        per_user = np.diff(self.user_offsets)
        levels = {"min": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "max": 1.0}
        cells = self.n_users * self.n_items
        seen = np.bincount(self.column("item"), minlength=self.n_items)
        summary: dict[str, Any] = {
            "name": self.name,
            "users": self.n_users,
            "items": self.n_items,
            "interactions": self.n_interactions,
            "density": self.n_interactions / cells if cells else 0.0,
            "users_without_interactions": int(np.count_nonzero(per_user == 0)),
            "items_without_interactions": int(np.count_nonzero(seen == 0)),
            "interactions_per_user": {
                name: float(np.quantile(per_user, level)) if self.n_users else 0.0
                for name, level in levels.items()
            },
            "time": self._time_range(),
            "columns": {
                "interactions": {
                    column.name: str(column.type) for column in self.interactions.schema
                },
                "users": {name: kind.value for name, kind in self.schema.users.items()},
                "items": {name: kind.value for name, kind in self.schema.items.items()},
            },
            "dropped": dict(self.dropped),
        }
        if self.knowledge is not None:
            summary["knowledge"] = {
                "entities": self.knowledge.n_entities,
                "relations": self.knowledge.n_relations,
                "triples": self.knowledge.n_triples,
            }
        return summary

    def _time_range(self) -> dict[str, str] | None:
        if not (self.has_clock and self.n_interactions):
            return None
        times = self.column("timestamp")
        return {
            name: str(np.datetime64(int(value), "s")) + "Z"
            for name, value in (("first", times.min()), ("last", times.max()))
        }

    def save(self, folder: Path | str, *, replace: bool = False) -> None:
        """Write the data set as memory-mappable Arrow files; the folder appears whole.

        Raises:
            FileExistsError: when the folder exists and `replace` is false.
        """
        from tastemaker.data.storage import save

        save(self, folder, replace=replace)

    @staticmethod
    def open(folder: Path | str) -> Dataset:
        """A stored data set, memory-mapped: opening reads no rows.

        Raises:
            DataError: when the folder holds no data set, or a damaged one.
        """
        from tastemaker.data.storage import open_stored

        return open_stored(folder)

    @staticmethod
    def from_frame(frame: Any, **options: Unpack[Options]) -> Dataset:
        """From a Polars or pandas frame, an Arrow table, or a mapping of columns.

        Args:
            frame: the interactions; anything that speaks the Arrow C stream protocol.
            **options: what the columns mean, see `tastemaker.data.readers.Options`; `items` and
                `users` may be frames or files.

        Raises:
            DataError: naming row, column, value and remedy. Rows count from 1.
        """
        from tastemaker.data.readers import read_frame

        return read_frame(frame, **options)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one Arrow array, without copying when it is one chunk already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def take_rows(table: pa.Table, rows: NDArray[Any]) -> pa.Table:
    """The chosen rows of a table, one chunk a column."""
    arrays = [_gather(one_chunk(column), rows) for column in table.columns]
    return pa.table(arrays, names=table.column_names)


def _gather(values: Any, rows: NDArray[Any]) -> pa.Array:
    """values[rows] as an Arrow array; numbers go through NumPy, which gathers faster."""
    if isinstance(values, pa.Array):
        plain = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
        if not plain or values.null_count:
            return values.take(pa.array(rows))
        values = values.to_numpy()
    return pa.array(gather(values, rows))


def _renumber(kept: NDArray[np.int64], n_codes: int) -> NDArray[np.int32]:
    """[n_codes] int32: the new code of each old one; arbitrary where it is not kept."""
    new = np.zeros(n_codes, np.int32)
    new[kept] = np.arange(len(kept), dtype=np.int32)
    return new


def sorted_interactions(columns: dict[str, Any], n_users: int) -> pa.Table:
    """The interactions table, sorted by (user, order or timestamp, source row).

    Args:
        columns: "user" and "item" int32 codes and the others, as NumPy or Arrow arrays [R]. The
            dict is EMPTIED column by column, so that no more than one exists twice.
        n_users: user codes are below this.
    """
    keys = columns.get("order", columns.get("timestamp"))
    if isinstance(keys, pa.Array):
        keys = keys.to_numpy()
    rows = event_order(columns["user"], n_users, keys)
    del keys
    names = list(columns)
    arrays = []
    for name in names:
        values = columns.pop(name)
        if rows is None:
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values))
        elif name == "user":  # sorted: each user as often as there are events
            counts = np.bincount(values, minlength=n_users)
            arrays.append(pa.array(np.repeat(np.arange(n_users, dtype=np.int32), counts)))
        else:
            arrays.append(_gather(values, rows))
        del values
    return pa.table(arrays, names=names)
