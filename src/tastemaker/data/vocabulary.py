"""Raw ids and their codes: what a person writes, and what a model counts with."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tastemaker.errors import DataError

__all__ = ["Vocabulary", "as_ids"]

_FEW = 1024  # up to so many ids are looked up one by one, which needs no pass over the vocabulary


def as_ids(values: Any) -> pa.Array:
    """Ids as int64 when they are whole numbers, else as strings (large_string); nulls stay.

    Args:
        values: an Arrow array, a NumPy array, or any iterable of strings or integers.

    Raises:
        DataError: when the values cannot be ids (fractions, lists, mixed types).
    """
    try:
        array = values if isinstance(values, pa.Array) else _arrow(values)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind = array.type
        if pa.types.is_uint64(kind):
            return array.cast(pa.int64() if _fits(array) else pa.large_string())
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            # pandas keeps integers with a missing value as floats, NaN for the missing
            array = pa.array(array, from_pandas=True) if kind == pa.float16() else array
            if pa.types.is_floating(kind):
                array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)
            return array.cast(pa.int64())
        return array.cast(pa.large_string())
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(
            f"ids are integers or text, and all of one sort ({error}); convert them first"
        ) from error


def _arrow(values: Any) -> pa.Array:
    array = pa.array(values if isinstance(values, np.ndarray) else list(values))
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _fits(array: pa.Array) -> bool:
    largest = pc.max(array).as_py()
    return largest is None or largest <= np.iinfo(np.int64).max


class Vocabulary:
    """Distinct raw ids with codes 0..n-1.

    Codes are handed out in the order of first appearance in the source, so the same source gives
    the same codes. Integer ids stay int64, all others are text.

    Attributes:
        ids: [n] Arrow array, int64 or large_string; the id of code c is `ids[c]`.
    """

    def __init__(self, ids: pa.Array) -> None:
        self.ids = as_ids(ids)

    @classmethod
    def build(cls, values: Any) -> Vocabulary:
        """The distinct values (iterable, NumPy or Arrow array) in order of first appearance."""
        return cls(as_ids(values).drop_null().unique())

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and bool(self.ids.equals(other.ids))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(raw) for raw in self.ids[:3].to_pylist())
        return f"Vocabulary({len(self):,} ids: {shown}{', ...' if len(self) > 3 else ''})"

    @property
    def is_text(self) -> bool:
        """Whether raw ids are strings (else int64)."""
        return bool(pa.types.is_large_string(self.ids.type))

    def encode(self, values: Any) -> NDArray[np.int64]:
        """Codes of raw ids, [n] int64, -1 for an unknown id or a null.

        Text finds integer ids and the other way round when it is written as Python would:
        `"17"` finds 17, `"017"` does not. One string is refused: it would be read as letters.
        """
        if isinstance(values, str):
            raise TypeError(f"encode takes a list of ids; write [{values!r}]")
        if not isinstance(values, (pa.Array, np.ndarray)):
            values = list(values)
            if len(values) <= _FEW:
                return self._look_up(values)
        asked = as_ids(values)
        if len(asked) <= _FEW:
            return self._look_up(asked.to_pylist())
        same = asked.type == self.ids.type
        known = self.ids if same or self.is_text else self._text
        codes = pc.index_in(asked if same else asked.cast(pa.large_string()), value_set=known)
        if asked.null_count:
            codes = pc.if_else(asked.is_null(), pa.scalar(None, pa.int32()), codes)
        found: NDArray[np.int64] = codes.fill_null(-1).cast(pa.int64()).to_numpy()
        return found

    def _look_up(self, values: Iterable[Any]) -> NDArray[np.int64]:
        codes = self._code_of
        found = [-1 if raw is None else codes.get(str(raw), -1) for raw in values]
        return np.array(found, np.int64)

    @cached_property
    def _text(self) -> pa.Array:
        return self.ids.cast(pa.large_string())

    @cached_property
    def _code_of(self) -> dict[str, int]:
        return {raw: code for code, raw in enumerate(self._text.to_pylist())}

    def decode(self, codes: Any) -> pa.Array:
        """Raw ids of codes, as an Arrow array; a negative code gives null.

        Raises:
            IndexError: for a code of n or more.
        """
        codes = np.asarray(codes, np.int64)
        if codes.size and codes.max() >= len(self):
            raise IndexError(f"code {codes.max()} is outside a vocabulary of {len(self)} ids")
        return self.ids.take(pa.array(codes, mask=codes < 0))

    def raw(self, code: int) -> str | int:
        """The raw id of one code, 0 <= code < n."""
        if not 0 <= code < len(self):
            raise IndexError(f"code {code} is outside a vocabulary of {len(self)} ids")
        raw: str | int = self.ids[int(code)].as_py()
        return raw

    def take(self, codes: NDArray[np.int64]) -> Vocabulary:
        """The vocabulary of the chosen codes, renumbered 0.. in the given order."""
        return Vocabulary(self.ids.take(pa.array(codes)))
