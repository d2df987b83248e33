"""Ragged arrays, histories and queries: what a model is asked, as flat arrays plus offsets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.rows import distinct

__all__ = ["Histories", "Queries", "Ragged"]


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row `b` is `values[offsets[b]:offsets[b + 1]]`.

    Attributes:
        values: [sum of lengths] int64.
        offsets: [B + 1] int64, starting at 0 and never falling.
    """

    values: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Row lengths, [B] int64."""
        return np.diff(self.offsets)

    @classmethod
    def empty(cls, n_rows: int) -> Ragged:
        """`n_rows` rows without values."""
        return cls(np.empty(0, np.int64), np.zeros(n_rows + 1, np.int64))

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int]]) -> Ragged:
        """From a list of lists; for small inputs such as one request or a test."""
        arrays = [np.asarray(row, np.int64) for row in rows]
        values = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
        return cls.from_lengths(values, np.array([len(row) for row in arrays], np.int64))

    @classmethod
    def from_lengths(cls, values: NDArray[np.int64], lengths: NDArray[np.int64]) -> Ragged:
        """From flat values and row lengths."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(values, offsets)

    def row(self, index: int) -> NDArray[np.int64]:
        """Row `index`, a view."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def row_index(self) -> NDArray[np.int64]:
        """The row number of each value, [sum of lengths] int64."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def positions(
        self, rows: NDArray[np.int64] | slice, last: int | None = None
    ) -> tuple[NDArray[np.int64] | slice, NDArray[np.int64]]:
        """Where the chosen rows' values (their `last` ones) stand, and the row lengths.

        Returns:
            An index of `values` (a slice where the rows lie together, else [sum of lengths]
            int64), and the lengths [number of rows] int64.
        """
        starts, stops = self.offsets[:-1][rows], self.offsets[1:][rows]
        if isinstance(rows, slice) and rows.step in (None, 1) and last is None:
            together = slice(int(starts[0]), int(stops[-1])) if len(starts) else slice(0, 0)
            return together, stops - starts
        if last is not None:
            starts = np.maximum(starts, stops - last)
        return _runs(starts, stops), stops - starts

    def take(self, rows: NDArray[np.int64] | slice, last: int | None = None) -> Ragged:
        """The chosen rows, each cut to its `last` values when given."""
        flat, lengths = self.positions(rows, last)
        return Ragged.from_lengths(self.values[flat], lengths)

    def distinct(self, n_values: int) -> Ragged:
        """The same rows with each value once, in ascending order; all are below `n_values`."""
        keys = distinct(self.row_index() * n_values + self.values)
        rows, values = np.divmod(keys, n_values)
        return Ragged.from_lengths(values, np.bincount(rows, minlength=len(self)))

    def padded(self, length: int, fill: int, *, align: str = "left") -> NDArray[np.int64]:
        """Rows' last `length` values as [B, length] int64; `align="left"` puts padding behind."""
        flat, lengths = self.positions(slice(None), length)
        return _pad(self.values[flat], lengths, length, fill, align)


def _runs(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each start up to its stop, one run behind the other."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    firsts = np.repeat(starts - (ends - lengths), lengths)
    runs: NDArray[np.int64] = np.arange(total, dtype=np.int64) + firsts
    return runs


def _pad(
    values: NDArray[Any], lengths: NDArray[np.int64], length: int, fill: float, align: str
) -> NDArray[Any]:
    """[B, length] of the dtype of `values`; rows are already no longer than `length`."""
    padded = np.full((len(lengths), length), fill, values.dtype)
    column = np.arange(length)
    if align == "left":
        padded[column < lengths[:, None]] = values
    elif align == "right":
        padded[column >= length - lengths[:, None]] = values
    else:
        raise ValueError(f"align is 'left' or 'right', not {align!r}")
    return padded


@dataclass(frozen=True)
class Histories:
    """Item histories in time order (oldest first), with any aligned columns.

    Attributes:
        items: item codes, one row a history.
        columns: name -> [sum of lengths] arrays aligned with `items.values`, such as
            `"timestamp"` (int64, seconds) or `"label"` (float32).
    """

    items: Ragged
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.int64] | slice, last: int | None = None) -> Histories:
        """The chosen histories, each cut to its `last` events when given."""
        flat, lengths = self.items.positions(rows, last)
        items = Ragged.from_lengths(self.items.values[flat], lengths)
        return Histories(items, {name: column[flat] for name, column in self.columns.items()})

    def windows(self, size: int, stride: int) -> tuple[Histories, NDArray[np.int64]]:
        """Every history in windows of at most `size` events, the most recent one first.

        Windows end at the last event and every `stride` events before it, as long as two events
        are left; shorter histories have none.

        Returns:
            The windows, and the row of the history each is of, [number of windows] int64.
        """
        lengths = self.items.lengths
        counts = np.where(lengths < 2, 0, np.maximum(1, -(-(lengths - 1) // stride)))
        rows = np.repeat(np.arange(len(lengths), dtype=np.int64), counts)
        nth = np.arange(len(rows), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        stops = self.items.offsets[1:][rows] - nth * stride
        return self.ending_at(rows, stops, size), rows

    def ending_at(self, rows: NDArray[np.int64], stops: NDArray[np.int64], last: int) -> Histories:
        """For each pair of a row and a place in it, the up to `last` events before that place.

        Args:
            rows: [B] int64 history numbers.
            stops: [B] int64 places in `items.values`, each in its row or at its end.
            last: events kept, the most recent ones.
        """
        starts = np.maximum(self.items.offsets[:-1][rows], stops - last)
        flat = _runs(starts, stops)
        items = Ragged.from_lengths(self.items.values[flat], stops - starts)
        return Histories(items, {name: column[flat] for name, column in self.columns.items()})

    def padded_column(
        self, name: str, length: int, fill: float, *, align: str = "left"
    ) -> NDArray[Any]:
        """An aligned column of the last `length` events, padded like `Ragged.padded`."""
        flat, lengths = self.items.positions(slice(None), length)
        return _pad(self.columns[name][flat], lengths, length, fill, align)


@dataclass(frozen=True)
class Queries:
    """What a model is asked for: B users and/or histories, plus context.

    `users[b]` is a user code when the model may use what it learned about that user, and -1 when
    it must answer from the history alone (a user it never saw, or one with newer events than it
    was trained on). Histories may be empty.

    Attributes:
        users: [B] int64 user codes or -1.
        histories: B item histories, oldest first.
        columns: name -> [B, ...] context of the query itself, such as `"timestamp"`.
    """

    users: NDArray[np.int64]
    histories: Histories
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.users) != len(self.histories):
            raise ValueError(
                f"{len(self.users)} users but {len(self.histories)} histories; a query has both"
            )

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def from_histories(cls, rows: Iterable[Sequence[int]]) -> Queries:
        """Unknown users with the given item codes as histories."""
        histories = Histories(Ragged.from_lists(rows))
        return cls(np.full(len(histories), -1, np.int64), histories)

    def take(self, rows: NDArray[np.int64] | slice) -> Queries:
        """The chosen queries."""
        return Queries(
            self.users[rows],
            self.histories.take(rows),
            {name: column[rows] for name, column in self.columns.items()},
        )

    def anonymous(self) -> Queries:
        """The same histories asked by users the model never saw."""
        return Queries(np.full(len(self), -1, np.int64), self.histories, self.columns)

    def tie_keys(self) -> NDArray[np.int64]:
        """[B] int64 keys that break ties between equal scores (see `layers.selection`).

        A key depends on what is asked (user and history) and on nothing else, so a query gets the
        same order alone and in any batch, and equal scores give each query its own random order.
        """
        mixed = (self.histories.items.values.astype(np.uint64) + np.uint64(1)) * _MIX
        sums = np.zeros(len(mixed) + 1, np.uint64)
        np.cumsum(mixed ^ (mixed >> np.uint64(29)), out=sums[1:])
        offsets = self.histories.items.offsets
        keys = sums[offsets[1:]] - sums[offsets[:-1]]
        keys += (self.users.astype(np.uint64) + np.uint64(2)) * _MIX
        return keys.view(np.int64)


_MIX = np.uint64(0x9E3779B97F4A7C15)
