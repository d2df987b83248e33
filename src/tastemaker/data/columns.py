"""Columns under construction: each takes the blocks of one source column and ends as one array.

Blocks that arrive as Arrow dictionaries come from the text reader, which lists values in order of
first appearance and none unused; every other source delivers plain values.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tastemaker.data.checks import (
    Place,
    check_no_null,
    decoded,
    first_true,
    is_text,
    to_numbers,
    to_times,
    unit_name,
    unit_of,
)
from tastemaker.data.schema import Feature, Kind
from tastemaker.data.vocabulary import as_ids
from tastemaker.errors import DataError

__all__ = [
    "CodedColumn",
    "Column",
    "FeatureColumn",
    "KeptColumn",
    "LabelColumn",
    "OrderColumn",
    "TimeColumn",
]


class Column(Protocol):
    """Takes blocks in source order; `place(i)` names row i of the block at hand."""

    name: str  # of the column in the source

    def add(self, block: pa.Array, place: Place) -> None:
        """Check and keep one block."""

    def finish(self) -> Any:
        """The whole column; called once."""


class Growing:
    """One array that takes blocks at its end.

    It grows by half, which moves no data: the allocator remaps the pages of a large array, and
    pages not yet written take no memory.
    """

    def __init__(self, kind: Any) -> None:
        self._array: NDArray[Any] = np.empty(1 << 16, kind)
        self.size = 0

    def append(self, block: NDArray[Any]) -> None:
        """Copy a block to the end; a float block makes an integer array float64."""
        end = self.size + len(block)
        if self._array.dtype.kind == "i" and block.dtype.kind == "f":
            self._array = self._array.astype(np.float64)
        if end > len(self._array):
            self._array.resize(max(end, len(self._array) * 3 // 2), refcheck=False)
        self._array[self.size : end] = block
        self.size = end

    def part(self, start: int, stop: int) -> NDArray[Any]:
        """A view of some values, for changing them in place; not to be kept."""
        return self._array[start:stop]

    def finish(self) -> NDArray[Any]:
        """The array without its spare end."""
        self._array.resize(self.size, refcheck=False)
        return self._array


_PENDING = 1 << 20  # values of blocks' dictionaries that may wait to be joined


class CodedColumn:
    """Repeated values as codes of one dictionary; `finish` gives codes and values.

    Blocks bring dictionaries of their own. These wait and are joined with the whole one by one
    when there are as many values waiting as in the whole: memory stays near the distinct values,
    time near one hashing of every block's values.

    Args:
        name: the column in the source, for errors.
        what: what every row needs, e.g. "a user id"; None lets cells be empty.
        text: whether numbers become text.
    """

    def __init__(self, name: str, what: str | None, *, text: bool = False) -> None:
        self.name, self.what, self.text = name, what, text
        self._codes = Growing(np.int32)
        self._values: pa.Array | None = None
        self._waiting: list[tuple[int, pa.Array]] = []  # first row, and the block's values

    def add(self, block: pa.Array, place: Place) -> None:
        """Keep one block, coded by itself."""
        coded = _coded(block, self.name, place, text=self.text)
        indices = coded.indices
        if indices.null_count and self.what is not None:
            if indices.null_count == len(coded):
                raise DataError(
                    f"{place(0)}, column {self.name!r}: empty, like all {len(coded):,} rows from "
                    f"here; every row needs {self.what}, so name the right column"
                )
            check_no_null(indices, self.name, place, what=self.what)
        if indices.null_count:
            indices = indices.fill_null(-1)
        self._waiting.append((self._codes.size, coded.dictionary))
        self._codes.append(indices.to_numpy())
        known = 0 if self._values is None else len(self._values)
        if sum(len(values) for _, values in self._waiting) > max(_PENDING, known):
            self._join()

    def _join(self) -> None:
        """Bring the waiting blocks to codes of the whole dictionary."""
        starts = [start for start, _ in self._waiting]
        parts = [values for _, values in self._waiting]
        if self._values is not None:
            starts, parts = [0, *starts], [self._values, *parts]
        if len({values.type for values in parts}) > 1:  # integers in one block, text in another
            parts = [values.cast(pa.large_string()) for values in parts]
        # Arrow joins dictionaries in turn, which keeps the order of first appearance; the
        # indices of an array that holds each value once say where the value went
        arrays = [
            pa.DictionaryArray.from_arrays(np.arange(len(values), dtype=np.int32), values)
            for values in parts
        ]
        joined = pa.chunked_array(arrays).unify_dictionaries()
        stops = [*starts[1:], self._codes.size]
        for chunk, start, stop in zip(joined.chunks, starts, stops, strict=True):
            moved = chunk.indices.to_numpy()
            if not np.array_equal(moved, np.arange(len(moved))):
                codes = self._codes.part(start, stop)
                codes[:] = np.where(codes < 0, -1, moved[codes])
        self._values = joined.chunk(0).dictionary
        self._waiting.clear()

    def finish(self) -> tuple[NDArray[np.int32], pa.Array]:
        """[R] int32 codes (-1 where empty), and the values in order of first appearance."""
        if self._waiting:
            self._join()
        values = pa.array([], pa.large_string()) if self._values is None else self._values
        return self._codes.finish(), values


def _ids(block: pa.Array, column: str, place: Place) -> pa.Array:
    """Raw ids as int64 or large_string."""
    try:
        return as_ids(block)
    except DataError as error:
        raise DataError(f"{place(0)}, column {column!r}: {error}") from error


def _coded(block: pa.Array, column: str, place: Place, *, text: bool = False) -> pa.DictionaryArray:
    """A dictionary of int64 or large_string values in order of first appearance."""
    if pa.types.is_dictionary(block.type):
        return block
    ids = _ids(block, column, place)
    return (ids.cast(pa.large_string()) if text else ids).dictionary_encode()


class KeptColumn:
    """A column as it comes; `finish` gives one Arrow array."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._blocks: list[pa.Array] = []

    def add(self, block: pa.Array, place: Place) -> None:  # noqa: ARG002 - nothing to refuse
        """Keep one block."""
        self._blocks.append(decoded(block))

    def finish(self) -> pa.Array:
        """The whole column."""
        return pa.concat_arrays(self._blocks)


class LabelColumn:
    """Finite numbers that no row may lack; `finish` gives [R] float32."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._values = Growing(np.float32)

    def add(self, block: pa.Array, place: Place) -> None:
        """Check and keep one block."""
        numbers = to_numbers(block, self.name, place)
        with np.errstate(over="ignore"):
            small = numbers.astype(np.float32)
        if not np.isfinite(small).all():
            row = first_true(~np.isfinite(small))
            raise DataError(
                f"{place(row)}, column {self.name!r}: {block[row].as_py()!r} is too large for a "
                "32-bit number; expected less than 3.4e38"
            )
        self._values.append(small)

    def finish(self) -> NDArray[np.float32]:
        """The whole column."""
        return self._values.finish()


class OrderColumn:
    """Whole numbers that order a user's events; `finish` gives [R] int64."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._values = Growing(np.int64)

    def add(self, block: pa.Array, place: Place) -> None:
        """Check and keep one block."""
        if pa.types.is_integer(block.type) and not block.null_count:
            self._values.append(block.cast(pa.int64()).to_numpy())
            return
        numbers = to_numbers(block, self.name, place)
        whole = numbers.astype(np.int64)
        if not np.array_equal(whole, numbers):
            row = first_true(whole != numbers)
            raise DataError(
                f"{place(row)}, column {self.name!r}: {block[row].as_py()!r} is not a whole "
                "number; an order column counts 0, 1, 2, ...; pass times as the timestamp"
            )
        self._values.append(whole)

    def finish(self) -> NDArray[np.int64]:
        """The whole column."""
        return self._values.finish()


class TimeColumn:
    """Times that no row may lack; `finish` gives [R] seconds since 1970 UTC.

    Numbers are epoch seconds, milli-, micro- or nanoseconds, told by their size, and all of one
    unit. The result is int64 when every time is a whole second, else float64.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._values = Growing(np.int64)
        self._form: tuple[bool, int] | None = None  # dates or not, and the unit of numbers
        self._first = ""

    def add(self, block: pa.Array, place: Place) -> None:
        """Check and keep one block."""
        if not len(block):
            return
        times, dates = to_times(block, self.name, place)
        units = unit_of(np.array([times[0], times.min(), times.max()]))
        unit = 2 if dates else int(units[0])
        if self._form is None:
            self._form, self._first = (dates, unit), f"{block[0].as_py()!s} in {place(0)}"
        if self._form[0] != dates:
            raise DataError(
                f"{place(0)}, column {self.name!r}: {block[0].as_py()!r} and {self._first} are "
                "written differently (a date and a number); write all times one way"
            )
        if not dates and (units != self._form[1]).any():
            every = unit_of(times)
            row = first_true(every != self._form[1])
            raise DataError(
                f"{place(row)}, column {self.name!r}: {block[row].as_py()!r} looks like "
                f"{unit_name(int(every[row]))}, but {self._first} like {unit_name(self._form[1])}; "
                "convert all rows to one unit of time"
            )
        self._values.append(times)

    def finish(self) -> NDArray[Any]:
        """The whole column, in seconds."""
        times = self._values.finish()
        unit = 1000 ** (self._form[1] if self._form else 0)
        if times.dtype == np.int64:
            if unit == 1:
                return times
            if not np.any(times % unit):
                times //= unit
                return times
        seconds: NDArray[np.float64] = times / unit
        rounded = seconds.astype(np.int64)
        return rounded if np.array_equal(rounded, seconds) else seconds


class FeatureColumn:
    """A feature of any kind, stored as `Kind` says; `finish` gives one Arrow array."""

    def __init__(self, name: str, feature: Feature) -> None:
        self.name, self.feature = name, feature
        self._blocks: list[pa.Array] = []
        self._coded = CodedColumn(name, None)

    def add(self, block: pa.Array, place: Place) -> None:
        """Convert and keep one block."""
        match self.feature.kind:
            case Kind.CATEGORICAL:
                self._coded.add(block, place)
                return
            case Kind.CATEGORIES:
                array = self._categories(decoded(block), place)
            case Kind.NUMERIC:
                array = self._numeric(decoded(block), place)
            case Kind.EMBEDDING:
                array = self._embedding(block, place)
            case Kind.ENTITY:
                array = _ids(decoded(block), self.name, place)
            case Kind.TEXT:
                array = self._cast(decoded(block), pa.large_string(), place)
            case Kind.IMAGE:
                paths = is_text(block.type) or pa.types.is_null(block.type)
                array = self._cast(block, pa.large_string() if paths else pa.large_binary(), place)
        self._blocks.append(array)

    def finish(self) -> pa.Array:
        """The whole column."""
        if self.feature.kind is Kind.CATEGORICAL:
            codes, values = self._coded.finish()
            return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), values)
        if len({block.type for block in self._blocks}) > 1:  # entity ids of both sorts
            self._blocks = [block.cast(pa.large_string()) for block in self._blocks]
        return pa.concat_arrays(self._blocks) if self._blocks else pa.array([], pa.large_string())

    def _refused(self, place: Place, row: int, why: str) -> DataError:
        return DataError(f"{place(row)}, column {self.name!r}: {why}")

    def _cast(self, block: pa.Array, kind: pa.DataType, place: Place) -> pa.Array:
        try:
            return block.cast(kind)
        except pa.ArrowException as error:
            why = (
                f"holds {block.type}, not {self.feature.kind.value}; give it another kind ({error})"
            )
            raise self._refused(place, 0, why) from error

    def _split(self, block: pa.Array, place: Place) -> pa.Array:
        if self.feature.separator is None:
            kind = self.feature.kind.value
            why = (
                f"{kind} written as text; say what separates the values, e.g. in dataset.toml "
                f'{{ kind = "{kind}", separator = "|" }}, in Python Feature("{kind}", "|")'
            )
            raise self._refused(place, 0, why)
        cells = pc.utf8_trim_whitespace(block.cast(pa.large_string()))
        cells = pc.if_else(pc.equal(cells, ""), pa.scalar(None, cells.type), cells)
        lists = pc.split_pattern(cells, self.feature.separator)
        parts = pc.utf8_trim_whitespace(lists.values)
        return pa.ListArray.from_arrays(lists.offsets, parts, mask=lists.is_null())

    def _categories(self, block: pa.Array, place: Place) -> pa.Array:
        kind = pa.list_(pa.large_string())
        if is_text(block.type):
            block = self._split(block, place)
        elif not _is_list(block.type) and not pa.types.is_null(block.type):
            why = f"holds {block.type}; categories are a list, or text with a separator"
            raise self._refused(place, 0, why)
        array = self._cast(block, kind, place)
        # a row that says nothing has no categories: an empty list
        return pc.coalesce(array, pa.scalar([], kind)) if array.null_count else array

    def _numeric(self, block: pa.Array, place: Place) -> pa.Array:
        if pa.types.is_floating(block.type):
            block = pc.if_else(pc.is_nan(block), pa.scalar(None, block.type), block)
        numbers = np.full(len(block), np.nan)
        known = np.flatnonzero(block.is_valid().to_numpy(zero_copy_only=False))
        numbers[known] = to_numbers(block.drop_null(), self.name, lambda row: place(known[row]))
        return pa.array(numbers)

    def _embedding(self, block: pa.Array, place: Place) -> pa.Array:
        if is_text(block.type):
            block = self._split(block, place)
        if not _is_list(block.type):
            why = f"holds {block.type}; an embedding is a list of numbers"
            raise self._refused(place, 0, why)
        lists = self._cast(block, pa.large_list(pa.float32()), place)
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
        width = self._blocks[0].type.list_size if self._blocks else int(lengths.max(initial=0))
        if (lengths != width).any():
            row = first_true(lengths != width)
            why = f"{lengths[row]} numbers where others have {width}; all rows need the same width"
            raise self._refused(place, row, why)
        values = lists.flatten()
        finite = np.isfinite(values.to_numpy(zero_copy_only=False))
        if not finite.all():
            row = first_true(~finite) // width
            raise self._refused(place, row, "holds a number that is not finite; correct the row")
        return pa.FixedSizeListArray.from_arrays(values, width)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
