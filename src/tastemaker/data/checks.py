"""Values that must be numbers, times or ids: a vectorised check, and the first culprit by name.

The fast path looks at whole arrays; only when one fails is the first bad cell looked for. A
`Place` turns a row of the array into words such as "ratings.csv, row 17".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tastemaker.errors import DataError, nearest

__all__ = [
    "Place",
    "check_columns",
    "check_no_null",
    "decoded",
    "first_true",
    "is_text",
    "to_numbers",
    "to_times",
    "unit_name",
    "unit_of",
]

Place = Callable[[int], str]

_NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_DATE = r"^\d{4}-\d\d-\d\d"

# an epoch of today has 10 digits in seconds, 13 in milliseconds, 16 in micro-, 19 in nanoseconds;
# each limit is the year 5138 in the smaller unit and 1973 in the larger one
_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_LIMITS = np.array([1e11, 1e14, 1e17])


def check_columns(label: str, wanted: Iterable[str], known: list[str], *, hint: str = "") -> None:
    """Refuse a wanted column that the table lacks, or has twice."""
    for name in wanted:
        if name not in known:
            offer = f"{nearest(name, known)}; the columns are: {', '.join(known) or 'none'}"
            raise DataError(f"{label}: no column {name!r}{hint or offer}")
        if known.count(name) > 1:
            raise DataError(f"{label}: column {name!r} occurs twice; rename one of them")


def first_true(mask: Any) -> int:
    """The first True of a NumPy or Arrow boolean array that has one."""
    return int(np.argmax(mask if isinstance(mask, np.ndarray) else mask.to_numpy(False)))


def check_no_null(array: pa.Array, column: str, place: Place, *, what: str) -> None:
    """Refuse the first null; `what` says what every row needs."""
    if array.null_count:
        row = first_true(array.is_null())
        raise DataError(
            f"{place(row)}, column {column!r}: empty; every row needs {what}, so fill the cell or "
            "remove the row"
        )


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds strings."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def decoded(array: pa.Array) -> pa.Array:
    """Dictionaries as their values and views as plain strings; any other array as it is."""
    if pa.types.is_dictionary(array.type):
        return decoded(array.dictionary).take(array.indices)
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    return array.cast(pa.large_binary()) if pa.types.is_binary_view(array.type) else array


def to_numbers(array: pa.Array, column: str, place: Place) -> NDArray[np.float64]:
    """Finite numbers as float64, from numbers or text.

    Raises:
        DataError: at the first null, unreadable or non-finite value.
    """
    array = decoded(array)
    if pa.types.is_null(array.type):
        array = array.cast(pa.float64())
    check_no_null(array, column, place, what="a finite number")
    cast = _cast_numbers(array, column, place)
    numbers: NDArray[np.float64] = cast.to_numpy(zero_copy_only=False)
    if not np.isfinite(numbers).all():
        row = first_true(~np.isfinite(numbers))
        raise DataError(
            f"{place(row)}, column {column!r}: {array[row].as_py()!r} is not finite; expected a "
            "finite number, so correct the cell or remove the row"
        )
    return numbers


def _cast_numbers(array: pa.Array, column: str, place: Place) -> pa.Array:
    if is_text(array.type):
        array = pc.utf8_trim_whitespace(array)
    try:
        return array.cast(pa.float64(), safe=False)
    except pa.ArrowException:
        if not is_text(array.type):
            raise DataError(
                f"{place(0)}, column {column!r}: holds {array.type}; expected numbers"
            ) from None
    special = pc.is_in(
        pc.utf8_lower(array), pa.array(["nan", "inf", "-inf", "+inf", "infinity"], array.type)
    )
    bad = pc.invert(pc.or_(pc.match_substring_regex(array, _NUMBER), special))
    row = first_true(bad) if pc.any(bad).as_py() else 0
    raise DataError(
        f"{place(row)}, column {column!r}: {array[row].as_py()!r} is not a number; expected one "
        "such as 4 or 4.5"
    )


def to_times(array: pa.Array, column: str, place: Place) -> tuple[NDArray[Any], bool]:
    """Times as numbers, from numbers, Arrow times or ISO 8601 text.

    Returns:
        [n] int64 or float64, and whether they are dates: int64 microseconds since 1970 UTC. Else
        they are numbers as found, in a unit yet to be told (see `unit_of`).

    Raises:
        DataError: at the first null, unreadable or non-finite value.
    """
    array = decoded(array)
    what = "a time (ISO 8601 or epoch seconds)"
    kind = array.type
    if pa.types.is_null(kind):
        array = array.cast(pa.int64())
    check_no_null(array, column, place, what=what)
    if pa.types.is_date(kind):
        array = array.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(array.type):
        micros = array.cast(pa.timestamp("us", array.type.tz), safe=False)
        return micros.view(pa.int64()).to_numpy(), True
    if pa.types.is_integer(kind):
        return array.cast(pa.int64(), safe=False).to_numpy(), False
    if is_text(kind):
        array = pc.utf8_trim_whitespace(array)
        if len(array) and pc.match_substring_regex(array.slice(0, 1), _DATE)[0].as_py():
            return _dates(array, column, place), True
        try:
            return array.cast(pa.int64()).to_numpy(), False
        except pa.ArrowException:
            array = _texts_as_numbers(array, column, place)
    elif not (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"{place(0)}, column {column!r}: holds {kind}; expected {what}")
    return to_numbers(array, column, place), False


def _texts_as_numbers(array: pa.Array, column: str, place: Place) -> pa.Array:
    """The text itself when every cell is a number; else an error about the first that is not."""
    good = pc.match_substring_regex(array, _NUMBER)
    special = pc.is_in(pc.utf8_lower(array), pa.array(["nan", "inf", "-inf", "+inf"], array.type))
    bad = pc.invert(pc.or_(good, special))
    if pc.any(bad).as_py():
        row = first_true(bad)
        raise DataError(
            f"{place(row)}, column {column!r}: {array[row].as_py()!r} is not a time; expected ISO "
            "8601 or epoch seconds, the same in every row"
        )
    return array


_UTC = pa.timestamp("us", "UTC")


def _dates(array: pa.Array, column: str, place: Place) -> NDArray[np.int64]:
    """ISO 8601 text as int64 microseconds; without a zone it is read as UTC."""
    for kind in (_UTC, pa.timestamp("us")):  # all with a zone, or all without
        try:
            return _micros(array.cast(kind))
        except pa.ArrowException:
            continue
    whole = _uniform_dates(array)
    try:
        return _micros(whole.cast(_UTC))
    except pa.ArrowException:
        low, high = 0, len(whole)  # the first bad date is in here
    while high - low > 1:
        middle = (low + high) // 2
        try:
            whole.slice(low, middle - low).cast(_UTC)
            low = middle
        except pa.ArrowException:
            high = middle
    raise DataError(
        f"{place(low)}, column {column!r}: {array[low].as_py()!r} is not a date; expected ISO 8601 "
        "or epoch seconds, the same in every row"
    )


def _micros(times: pa.Array) -> NDArray[np.int64]:
    micros: NDArray[np.int64] = times.view(pa.int64()).to_numpy()
    return micros


def _uniform_dates(dates: pa.Array) -> pa.Array:
    """ISO 8601 text with time and zone everywhere, and no more digits than microseconds."""
    join, kind = pc.binary_join_element_wise, dates.type
    nothing, midnight, utc = (pa.scalar(text, kind) for text in ("", "T00:00", "Z"))
    dates = pc.replace_substring_regex(dates, r"(\.\d{6})\d+", r"\1")
    short = pc.match_substring_regex(dates, r"^\d{4}-\d\d-\d\d$")
    dates = pc.if_else(short, join(dates, midnight, nothing), dates)
    zoned = pc.match_substring_regex(dates, r":\d\d.*(Z|[-+]\d\d:?\d\d|[-+]\d\d)$")
    return pc.if_else(zoned, dates, join(dates, utc, nothing))


def unit_of(times: NDArray[Any]) -> NDArray[np.int64]:
    """The likely unit of epoch numbers by their size: an index into seconds, milli-, micro-, nano-.

    Args:
        times: [n] int64 or float64.
    """
    sizes = np.abs(times.astype(np.float64))
    units: NDArray[np.int64] = np.searchsorted(_LIMITS, sizes, side="right").astype(np.int64)
    return units


def unit_name(unit: int) -> str:
    """The name of a unit found by `unit_of`."""
    return _UNITS[unit]
