"""Which items an answer may hold: ids, attributes of items, and caps per attribute.

Conditions are about columns of the items table: `{"genre": "Drama"}` (a value, or one of a list of
values), `{"genre": {"in": ["Drama", "Crime"]}}`, `{"price": {"min": 5, "max": 20}}`. An item
without a value fulfils no condition on it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tastemaker.data import Dataset
from tastemaker.data.schema import Kind
from tastemaker.errors import ConfigError, nearest

__all__ = ["Conditions", "Filters", "ItemAttributes"]

Conditions = Mapping[str, Any]
_KEPT = 256  # masks of conditions kept, those asked least recently make room
_COUNTED = (Kind.CATEGORICAL, Kind.CATEGORIES, Kind.NUMERIC)


@dataclass(frozen=True)
class Filters:
    """What a request allows.

    Attributes:
        allow: raw ids of the only items allowed; `None` is the whole catalog.
        exclude: raw ids of items not allowed.
        where: conditions on attributes, all of which must hold.
        include_seen: whether items of the history may come.
        caps: attribute -> how many items of one value a list may hold.
    """

    allow: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    where: Conditions = field(default_factory=dict)
    include_seen: bool = False
    caps: Mapping[str, int] = field(default_factory=dict)


class ItemAttributes:
    """The items table as something to filter by.

    Args:
        dataset: whose items table is read; masks of conditions are kept.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._kinds = {
            name: kind for name, kind in dataset.schema.items.items() if kind in _COUNTED
        }
        self._masks: OrderedDict[str, NDArray[np.bool_]] = OrderedDict()
        self._values: dict[str, list[NDArray[np.int64]]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that conditions and caps can be about."""
        return tuple(self._kinds)

    def allowed(self, filters: Filters) -> NDArray[np.int64] | None:
        """Codes of the items that a request allows, rising; `None` for all of them.

        Unknown ids are not items, so they are left out.

        Raises:
            ConfigError: naming the condition that cannot be met.
        """
        encode = self._dataset.item_ids.encode
        chosen: NDArray[np.bool_] | None = None
        if filters.where:
            chosen = self._mask(filters.where)
        if filters.allow is not None:
            codes = encode(filters.allow)
            listed = np.zeros(self._dataset.n_items, np.bool_)
            listed[codes[codes >= 0]] = True
            chosen = listed if chosen is None else chosen & listed
        if filters.exclude:
            codes = encode(filters.exclude)
            chosen = np.ones(self._dataset.n_items, np.bool_) if chosen is None else chosen.copy()
            chosen[codes[codes >= 0]] = False
        return None if chosen is None else np.flatnonzero(chosen)

    def capped(self, items: NDArray[np.int64], caps: Mapping[str, int], k: int) -> list[int]:
        """Places of the first k of a ranked list that no cap forbids.

        Going down the list and taking whatever still fits gives the best k under the caps in the
        order of the list. An item of several values counts for each; one of none for none.
        """
        values = {name: self._values_of(name) for name in caps}
        taken: dict[tuple[str, int], int] = {}
        kept: list[int] = []
        for place, item in enumerate(items.tolist()):
            if len(kept) == k:
                break
            own = [(name, int(value)) for name in caps for value in values[name][item]]
            if all(taken.get(key, 0) < caps[key[0]] for key in own):
                kept.append(place)
                for key in own:
                    taken[key] = taken.get(key, 0) + 1
        return kept

    def check(self, filters: Filters) -> None:
        """Raise `ConfigError` when conditions or caps name what is not there or make no sense."""
        for name in (*filters.where, *filters.caps):
            if name not in self._kinds:
                known = ", ".join(self._kinds) or "none"
                raise ConfigError(
                    f"items have no attribute {name!r} to filter by{nearest(name, self._kinds)}; "
                    f"attributes: {known}"
                )
        for name, cap in filters.caps.items():
            if cap < 1:
                raise ConfigError(f"the cap of {name!r} is {cap}; it must be at least 1")
            if self._kinds[name] == Kind.NUMERIC:
                raise ConfigError(f"{name!r} is a number; caps are for categories")
        if filters.where:
            self._mask(filters.where)

    def _mask(self, where: Conditions) -> NDArray[np.bool_]:
        """[N] bool: the items all conditions hold of; kept for the next request."""
        key = json.dumps(where, sort_keys=True, default=str)
        found = self._masks.get(key)
        if found is None:
            found = np.ones(self._dataset.n_items, np.bool_)
            for name, condition in where.items():
                found &= self._holds(name, condition)
            self._masks[key] = found
            if len(self._masks) > _KEPT:
                self._masks.popitem(last=False)
        return found

    def _holds(self, name: str, condition: Any) -> NDArray[np.bool_]:
        column = self._column(name)
        if isinstance(condition, Mapping):
            return self._holds_range(name, column, condition)
        wanted = list(condition) if isinstance(condition, list | tuple) else [condition]
        return _is_in(name, column, wanted)

    def _holds_range(
        self, name: str, column: pa.Array, condition: Mapping[str, Any]
    ) -> NDArray[np.bool_]:
        unknown = set(condition) - {"in", "min", "max"}
        if unknown or not condition:
            raise ConfigError(
                f"the condition on {name!r} is {dict(condition)}; give a value, a list of values, "
                '{"in": [...]}, or {"min": ..., "max": ...}'
            )
        found = np.ones(len(column), np.bool_)
        if "in" in condition:
            found &= _is_in(name, column, list(condition["in"]))
        bounds: tuple[tuple[str, Callable[..., Any]], ...] = (
            ("min", pc.greater_equal),
            ("max", pc.less_equal),
        )
        for bound, holds in bounds:
            if bound not in condition:
                continue
            value = condition[bound]
            if self._kinds[name] != Kind.NUMERIC or isinstance(value, bool | str | list):
                raise ConfigError(
                    f"the condition on {name!r} has {bound} {value!r}; bounds are numbers, for "
                    "numeric attributes"
                )
            found &= _as_mask(holds(column, float(value)))
        return found

    def _column(self, name: str) -> pa.Array:
        items = self._dataset.items
        assert items is not None, "an attribute is a column of the items table"
        return items.column(name).combine_chunks()

    def _values_of(self, name: str) -> list[NDArray[np.int64]]:
        """The values of each item as numbers; made when a cap first names the attribute."""
        if name not in self._values:
            column = self._column(name)
            nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
            flat = pc.list_flatten(column) if nested else column
            parents = (
                pc.list_parent_indices(column).to_numpy() if nested else np.arange(len(column))
            )
            known = flat.is_valid().to_numpy(zero_copy_only=False)
            codes = flat.dictionary_encode().indices.fill_null(-1).to_numpy()
            counts = np.bincount(parents[known], minlength=len(column))
            self._values[name] = np.split(codes[known].astype(np.int64), np.cumsum(counts)[:-1])
        return self._values[name]


def _is_in(name: str, column: pa.Array, wanted: Sequence[Any]) -> NDArray[np.bool_]:
    """[N] bool: items with one of the values (of several, any)."""
    nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    kind = column.type.value_type if nested else column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    try:
        values = pa.array([_like(kind, value) for value in wanted], kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the condition on {name!r} asks for {list(wanted)}, which are no {kind} values"
        ) from error
    flat = pc.list_flatten(column) if nested else column
    if pa.types.is_dictionary(flat.type):
        flat = flat.cast(kind)
    hits = _as_mask(pc.is_in(flat, value_set=values))
    if not nested:
        return hits
    found = np.zeros(len(column), np.bool_)
    found[pc.list_parent_indices(column).to_numpy()[hits]] = True
    return found


def _like(kind: pa.DataType, value: Any) -> Any:
    """A JSON value as one of the column's type: text for text, numbers for numbers."""
    if value is None or isinstance(value, Mapping | list):
        raise ValueError("a value is a text or a number")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return str(value)
    return float(value) if pa.types.is_floating(kind) else value


def _as_mask(found: Any) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = found.fill_null(False).to_numpy(zero_copy_only=False)
    return mask
