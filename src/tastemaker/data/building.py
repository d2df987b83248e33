"""Tables to a `Dataset`: one pass over the log in blocks, ids to codes, tables to code order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tastemaker.data.checks import Place, is_text
from tastemaker.data.columns import (
    CodedColumn,
    Column,
    FeatureColumn,
    KeptColumn,
    LabelColumn,
    OrderColumn,
    TimeColumn,
)
from tastemaker.data.dataset import Dataset, one_chunk, sorted_interactions, take_rows
from tastemaker.data.knowledge import KnowledgeGraph
from tastemaker.data.schema import Feature, Kind, Role, Schema
from tastemaker.data.sources import Source, TextNeeded, Want
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, nearest

__all__ = ["FeatureTable", "KnowledgeTable", "Unmatched", "build"]

Unmatched = Literal["fail", "drop"]

_Maker = tuple[Want, Callable[[], Column]]


@dataclass(frozen=True)
class FeatureTable:
    """A table with one row a user or item: its id column, and features (None: every column)."""

    source: Source
    id: str
    features: Mapping[str, Feature] | None = None


@dataclass(frozen=True)
class KnowledgeTable:
    """A table of triples; an item's entity is in the items column `item_entity`, or is its id."""

    source: Source
    head: str
    relation: str
    tail: str
    item_entity: str | None = None


@dataclass(frozen=True)
class _Entities:
    """Users or items after the log was matched with their table."""

    ids: pa.Array  # those of the log in order of first appearance, then those of the table alone
    known: NDArray[np.bool_]  # per id: in the table, or there is no table
    table: pa.Table | None  # aligned with ids; rows of unknown ids are arbitrary
    kinds: dict[str, Kind]


def build(
    source: Source | None,
    roles: Mapping[Role, str],
    columns: Mapping[str, Feature],
    *,
    name: str,
    users: FeatureTable | None = None,
    items: FeatureTable | None = None,
    knowledge: KnowledgeTable | None = None,
    title: str | None = None,
    unmatched: Unmatched = "fail",
) -> Dataset:
    """Read the tables and make a `Dataset` of them.

    Args:
        source: the log, or None for a catalog of items without one.
        roles: role -> column of the log. Without `Role.USER`, every row is a user of its own.
        columns: features of the log.
        name: of the data set.
        users: features of the users.
        items: features of the items.
        knowledge: triples around the items.
        title: the items column that names an item; None takes "title" or "name".
        unmatched: "fail" or "drop", see `tastemaker.data.readers.Options`.

    Raises:
        DataError: naming file, row, column, value and remedy.
    """
    if unmatched not in ("fail", "drop"):
        raise DataError(f"unmatched is 'fail' or 'drop', not {unmatched!r}")
    log, user_ids, item_ids = _read_log(source, roles, columns)
    label = source.place if source is not None else str
    user, item = roles.get(Role.USER), roles.get(Role.ITEM)
    people = _match(user_ids, users, "user", log["user"], label, user, unmatched)
    goods = _match(item_ids, items, "item", log["item"], label, item, unmatched)
    dropped: dict[str, int] = {}
    if not (people.known.all() and goods.known.all()):
        people, goods, dropped = _drop_unmatched(log, people, goods)
    if title is None:
        title = next((word for word in ("title", "name") if word in goods.kinds), None)
    schema = Schema(
        roles,
        {column: feature.kind for column, feature in columns.items()},
        people.kinds,
        goods.kinds,
        title,
    )
    return Dataset(
        name,
        schema,
        Vocabulary(people.ids),
        Vocabulary(goods.ids),
        sorted_interactions(log, len(people.ids)),
        people.table if people.kinds else None,
        goods.table if goods.kinds else None,
        None if knowledge is None else _read_knowledge(knowledge, goods),
        dropped,
    )


def _read(source: Source, columns: Mapping[Any, _Maker]) -> tuple[dict[Any, Any], int]:
    """The finished columns by key, and the number of rows, in one pass over the source."""
    for as_text in (False, True):
        building = {key: make() for key, (_, make) in columns.items()}
        wants: dict[str, Want] = {}
        for key, column in building.items():
            want = columns[key][0]
            # a column with two uses is read as text, which every kind of column understands
            wants[column.name] = want if wants.get(column.name, want) is want else Want.TEXT
        n_rows = 0
        try:
            for batch in _ahead(source.batches(wants, as_text=as_text)):
                place = _from_row(source, n_rows)
                for column in building.values():
                    column.add(batch.column(column.name), place)
                n_rows += batch.num_rows
                del batch
        except TextNeeded:
            continue
        if not n_rows:
            raise DataError(f"{source.label}: no rows; a table needs at least one")
        finished = {}
        while building:
            key = next(iter(building))
            finished[key] = building.pop(key).finish()
        return finished, n_rows
    raise AssertionError("whatever a text file holds can be read as text")


def _ahead(blocks: Iterator[Any]) -> Iterator[Any]:
    """The blocks in order; while one is worked on, a thread reads the next."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block


def _from_row(source: Source, first: int) -> Place:
    return lambda row: source.place(first + int(row))


def _read_log(
    source: Source | None, roles: Mapping[Role, str], columns: Mapping[str, Feature]
) -> tuple[dict[str, Any], pa.Array, pa.Array]:
    """The log's columns in source order with codes for ids, the user ids and the item ids."""
    if source is None:
        none = pa.array([], pa.large_string())
        return {"user": np.empty(0, np.int32), "item": np.empty(0, np.int32)}, none, none
    makers: dict[str, _Maker] = {
        role.value: _role_maker(role, roles[role]) for role in Role if role in roles
    }
    makers |= {name: _feature_maker(name, feature) for name, feature in columns.items()}
    log, n_rows = _read(source, makers)
    if "user" in log:
        users, user_ids = log["user"]
    else:
        users = np.arange(n_rows, dtype=np.int32)
        user_ids = pa.array(np.arange(1, n_rows + 1))
    items, item_ids = log["item"]
    log = {"user": users, "item": items} | {
        key: column for key, column in log.items() if key not in ("user", "item")
    }
    for role in ("behavior", "split", "session"):
        if role in log:
            log[role] = pa.DictionaryArray.from_arrays(*log[role])
    return log, user_ids, item_ids


def _role_maker(role: Role, name: str) -> _Maker:
    match role:
        case Role.USER | Role.ITEM | Role.SESSION:
            article = "an" if role is Role.ITEM else "a"
            return Want.CODED, lambda: CodedColumn(name, f"{article} {role.value} id")
        case Role.BEHAVIOR | Role.SPLIT:
            return Want.CODED, lambda: CodedColumn(name, f"a {role.value}", text=True)
        case Role.TIMESTAMP:
            return Want.TIME, lambda: TimeColumn(name)
        case Role.ORDER:
            return Want.NUMBER, lambda: OrderColumn(name)
        case Role.LABEL | Role.WEIGHT | Role.PROPENSITY:
            return Want.NUMBER, lambda: LabelColumn(name)


def _feature_maker(name: str, feature: Feature) -> _Maker:
    wants = {Kind.CATEGORICAL: Want.CODED, Kind.NUMERIC: Want.NUMBER}
    return wants.get(feature.kind, Want.TEXT), lambda: FeatureColumn(name, feature)


def _match(
    ids: pa.Array,
    table: FeatureTable | None,
    what: str,
    codes: NDArray[np.int32],
    place: Place,
    column: str | None,
    unmatched: Unmatched,
) -> _Entities:
    """Bring a feature table into code order; the log's codes, place and column are for errors."""
    if table is None:
        return _Entities(ids, np.ones(len(ids), np.bool_), None, {})
    table_ids, columns, kinds = _read_features(table, what)
    if not len(ids):
        ids = ids.cast(table_ids.type)
    if ids.type != table_ids.type:
        ids, table_ids = ids.cast(pa.large_string()), table_ids.cast(pa.large_string())
    rows = pc.index_in(ids, value_set=table_ids)
    known = rows.is_valid().to_numpy(zero_copy_only=False)
    if unmatched == "fail" and not known.all():
        missing = ids.filter(pa.array(~known))
        first = int(np.argmax(~known[codes]))
        examples = ", ".join(repr(raw) for raw in missing[:3].to_pylist())
        raise DataError(
            f"{place(first)}, column {column!r}: {ids[int(codes[first])].as_py()!r} is not in the "
            f"{what}s table {table.source.label}; in all {len(missing):,} of {len(ids):,} {what}s "
            f"are not ({examples}); add them there, or pass unmatched='drop' to drop and count "
            "their interactions"
        )
    extra = pc.invert(pc.is_in(table_ids, value_set=ids))
    all_ids = pa.concat_arrays([ids, table_ids.filter(extra)])
    order = np.concatenate(
        [
            rows.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64),
            np.flatnonzero(extra.to_numpy(zero_copy_only=False)),
        ]
    )
    known = np.concatenate([known, np.ones(len(all_ids) - len(ids), np.bool_)])
    return _Entities(all_ids, known, take_rows(columns, order), kinds)


def _read_features(table: FeatureTable, what: str) -> tuple[pa.Array, pa.Table, dict[str, Kind]]:
    """Ids, columns and kinds of a feature table, in its own order; duplicate ids are refused."""
    source = table.source
    # the id has a key of its own: the same column may be a feature, too
    wanted: dict[str | None, _Maker] = {
        None: (Want.CODED, lambda: CodedColumn(table.id, f"the {what}'s id"))
    }
    if table.features is None:
        for name in source.names:
            if name != table.id:
                wanted[name] = (Want.TEXT, _kept_maker(name))
    else:
        for name, feature in table.features.items():
            wanted[name] = _feature_maker(name, feature)
    columns, n_rows = _read(source, wanted)
    codes, ids = columns.pop(None)
    if len(ids) < n_rows:
        row = int(np.argmax(codes != np.arange(n_rows)))
        raise DataError(
            f"{source.place(row)}, column {table.id!r}: {ids[int(codes[row])].as_py()!r} is there "
            f"already ({source.place(int(codes[row]))}); every {what} has one row, so remove one"
        )
    kinds: dict[str, Kind] = {}
    for name, column in columns.items():
        if table.features is not None:
            kinds[name] = table.features[name].kind
            continue
        kinds[name] = _guess(column)
        building = FeatureColumn(name, Feature(kinds[name]))
        building.add(column, source.place)
        columns[name] = building.finish()
    return ids, pa.table(columns) if columns else _no_columns(n_rows), kinds


def _kept_maker(name: str) -> Callable[[], Column]:
    return lambda: KeptColumn(name)


def _no_columns(n_rows: int) -> pa.Table:
    return pa.table({"": pa.nulls(n_rows)}).select([])


# a number without a leading zero: "02139" is a code of some sort, not 2139
_PLAIN_NUMBER = r"^-?(0|[1-9]\d*)(\.\d+)?$"
_LONG = 40  # characters; longer texts are prose


def _guess(column: pa.Array) -> Kind:
    """The kind of a feature column whose kind was not given.

    Numbers are numeric, lists of floats embeddings, other lists categories, bytes images. Text is
    numeric when every cell is a number without leading zeros, categorical when it is short and
    most values occur twice or more, else text.
    """
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return Kind.EMBEDDING if pa.types.is_floating(kind.value_type) else Kind.CATEGORIES
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return Kind.NUMERIC
    if pa.types.is_boolean(kind):
        return Kind.CATEGORICAL
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Kind.IMAGE
    if not is_text(kind):
        return Kind.TEXT
    cells = column.drop_null()
    if not len(cells):
        return Kind.TEXT
    if pc.all(pc.match_substring_regex(cells, _PLAIN_NUMBER)).as_py():
        return Kind.NUMERIC
    repeated = pc.count_distinct(cells).as_py() <= len(cells) / 2
    short = pc.mean(pc.utf8_length(cells)).as_py() <= _LONG
    return Kind.CATEGORICAL if repeated and short else Kind.TEXT


def _drop_unmatched(
    log: dict[str, Any], people: _Entities, goods: _Entities
) -> tuple[_Entities, _Entities, dict[str, int]]:
    """Remove the rows of unknown users and items from `log` (in place), and the ids left over."""
    known_user, known_item = people.known[log["user"]], goods.known[log["item"]]
    kept = np.flatnonzero(known_user & known_item)
    dropped = {
        "interactions of users missing in the users table": int(np.count_nonzero(~known_user)),
        "interactions of items missing in the items table": int(
            np.count_nonzero(known_user & ~known_item)
        ),
    }
    if not len(kept):
        raise DataError(
            "no interaction is left: none has both its user and its item in the tables; compare "
            "how the ids are written there"
        )
    for name, values in log.items():
        log[name] = values.take(pa.array(kept)) if isinstance(values, pa.Array) else values[kept]
    remaining = []
    for what, entities in (("user", people), ("item", goods)):
        occurs = np.zeros(len(entities.ids), np.bool_)
        occurs[log[what]] = True
        # without a table, an id lives by its interactions
        codes = np.flatnonzero(entities.known & (occurs | (entities.table is not None)))
        renumbered = np.zeros(len(entities.ids), np.int32)
        renumbered[codes] = np.arange(len(codes), dtype=np.int32)
        log[what] = renumbered[log[what]]
        remaining.append(
            _Entities(
                entities.ids.take(pa.array(codes)),
                np.ones(len(codes), np.bool_),
                None if entities.table is None else take_rows(entities.table, codes),
                entities.kinds,
            )
        )
    return remaining[0], remaining[1], {name: count for name, count in dropped.items() if count}


def _read_knowledge(knowledge: KnowledgeTable, goods: _Entities) -> KnowledgeGraph:
    source = knowledge.source
    makers: dict[str, _Maker] = {
        part: (Want.CODED, _coded_maker(name, part))
        for part, name in (
            ("head", knowledge.head),
            ("relation", knowledge.relation),
            ("tail", knowledge.tail),
        )
    }
    columns, _ = _read(source, makers)
    heads, relations, tails = (ids.take(pa.array(codes)) for codes, ids in columns.values())
    if knowledge.item_entity is None:
        return KnowledgeGraph.build(heads, relations, tails, goods.ids)
    names = [] if goods.table is None else goods.table.column_names
    if knowledge.item_entity not in names:
        raise DataError(
            f"{source.label}: item_entity names {knowledge.item_entity!r}, which is no column of "
            f"the items{nearest(knowledge.item_entity, names)}; known: {', '.join(names) or 'none'}"
        )
    entities = one_chunk(goods.table.column(knowledge.item_entity))  # type: ignore[union-attr]
    return KnowledgeGraph.build(heads, relations, tails, entities)


def _coded_maker(name: str, what: str) -> Callable[[], Column]:
    return lambda: CodedColumn(name, f"a {what}")
