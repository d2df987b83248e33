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


class CodedColumn:
    """Ids or other repeated values that no row may lack; `finish` gives codes and values.

    Args:
        name: the column in the source, for errors.
        what: what every row needs, for errors, e.g. "a user id".
        text: whether numbers become text.
    """

    def __init__(self, name: str, what: str, *, text: bool = False) -> None:
        self.name, self.what, self.text = name, what, text
        self._blocks: list[pa.DictionaryArray] = []

    def add(self, block: pa.Array, place: Place) -> None:
        """Keep one block, coded by itself."""
        coded = _coded(block, self.name, place, text=self.text)
        if len(coded) and coded.null_count == len(coded):
            raise DataError(
                f"{place(0)}, column {self.name!r}: empty, and so is every row after it; every row "
                f"needs {self.what}, so name the right column"
            )
        check_no_null(coded, self.name, place, what=self.what)
        self._blocks.append(coded)

    def finish(self) -> tuple[NDArray[np.int32], pa.Array]:
        """[R] int32 codes, and the distinct values in order of first appearance."""
        return _join_coded(self._blocks)


def _ids(block: pa.Array, column: str, place: Place) -> pa.Array:
    """Raw ids as int64 or large_string."""
    try:
        return as_ids(block)
    except DataError as error:
        raise DataError(f"{place(0)}, column {column!r}: {error}") from error


def _coded(
    block: pa.Array, column: str, place: Place, *, text: bool = False
) -> pa.DictionaryArray:
    """A dictionary of int64 or large_string values in order of first appearance."""
    if pa.types.is_dictionary(block.type):
        return block
    ids = _ids(block, column, place)
    return (ids.cast(pa.large_string()) if text else ids).dictionary_encode()


def _join_coded(blocks: list[pa.DictionaryArray]) -> tuple[NDArray[np.int32], pa.Array]:
    """[R] int32 codes into one dictionary of all blocks (-1 for null), and its values.

    Arrow joins the blocks' dictionaries one after the other, which keeps the order of first
    appearance. `blocks` is emptied, so that the old codes go as soon as the new ones are there.
    """
    if not blocks:
        return np.empty(0, np.int32), pa.array([], pa.large_string())
    if len({block.dictionary.type for block in blocks}) > 1:
        text = pa.large_string()
        blocks[:] = [block.dictionary_decode().cast(text).dictionary_encode() for block in blocks]
    whole = pa.chunked_array(blocks).unify_dictionaries()
    blocks.clear()
    codes = np.empty(len(whole), np.int32)
    start = 0
    for chunk in whole.chunks:
        indices = chunk.indices.fill_null(-1) if chunk.null_count else chunk.indices
        codes[start : start + len(chunk)] = indices.to_numpy()
        start += len(chunk)
    return codes, whole.chunk(0).dictionary


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
        self._blocks: list[NDArray[np.float32]] = []

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
        self._blocks.append(small)

    def finish(self) -> NDArray[np.float32]:
        """The whole column."""
        return _joined(self._blocks, np.float32)


class OrderColumn:
    """Whole numbers that order a user's events; `finish` gives [R] int64."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._blocks: list[NDArray[np.int64]] = []

    def add(self, block: pa.Array, place: Place) -> None:
        """Check and keep one block."""
        if pa.types.is_integer(block.type) and not block.null_count:
            self._blocks.append(block.cast(pa.int64()).to_numpy())
            return
        numbers = to_numbers(block, self.name, place)
        whole = numbers.astype(np.int64)
        if not np.array_equal(whole, numbers):
            row = first_true(whole != numbers)
            raise DataError(
                f"{place(row)}, column {self.name!r}: {block[row].as_py()!r} is not a whole "
                "number; an order column counts 0, 1, 2, ...; pass times as the timestamp"
            )
        self._blocks.append(whole)

    def finish(self) -> NDArray[np.int64]:
        """The whole column."""
        return _joined(self._blocks, np.int64)


class TimeColumn:
    """Times that no row may lack; `finish` gives [R] seconds since 1970 UTC.

    Numbers are epoch seconds, milli-, micro- or nanoseconds, told by their size, and all of one
    unit. The result is int64 when every time is a whole second, else float64.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._blocks: list[NDArray[Any]] = []
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
        self._blocks.append(times)

    def finish(self) -> NDArray[Any]:
        """The whole column, in seconds."""
        whole = len({block.dtype for block in self._blocks}) == 1
        times = _joined(self._blocks, self._blocks[0].dtype if whole else np.float64)
        if self._form is None:
            return times.astype(np.int64)
        unit = 1000 ** self._form[1]
        if times.dtype == np.int64:
            if unit == 1:
                return times
            if not np.any(times % unit):
                times //= unit
                return times
        seconds = times / unit
        rounded = seconds.astype(np.int64)
        return rounded if np.array_equal(rounded, seconds) else seconds


def _joined(blocks: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
    """All blocks in one array of dtype `kind`; `blocks` is emptied while it is copied."""
    whole = np.empty(sum(map(len, blocks)), kind)
    start = len(whole)
    while blocks:
        block = blocks.pop()
        whole[start - len(block) : start] = block
        start -= len(block)
    return whole


class FeatureColumn:
    """A feature of any kind, stored as `Kind` says; `finish` gives one Arrow array."""

    def __init__(self, name: str, feature: Feature) -> None:
        self.name, self.feature = name, feature
        self._blocks: list[pa.Array] = []

    def add(self, block: pa.Array, place: Place) -> None:
        """Convert and keep one block."""
        match self.feature.kind:
            case Kind.CATEGORICAL:
                array = _coded(block, self.name, place)
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
            codes, values = _join_coded(self._blocks)
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
            why = f"holds {block.type}, not {self.feature.kind.value}; give it another kind ({error})"
            raise self._refused(place, 0, why) from error

    def _split(self, block: pa.Array, place: Place) -> pa.Array:
        if self.feature.separator is None:
            kind = self.feature.kind.value
            why = (
                f"{kind} written as text; say what separates the values, in dataset.toml "
                f'{{ kind = "{kind}", separator = "|" }}, in Python Feature(Kind.{kind.upper()}, "|")'
            )
            raise self._refused(place, 0, why)
        return pc.split_pattern(block.cast(pa.large_string()), self.feature.separator)

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
            block = self._split(pc.utf8_trim_whitespace(block), place)
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
