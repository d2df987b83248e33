"""Files, frames and queries to a `Dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

import pyarrow as pa

from tastemaker.data.building import FeatureTable, Unmatched, build
from tastemaker.data.dataset import Dataset
from tastemaker.data.schema import Feature, Kind, Role, features
from tastemaker.data.sources import FrameSource, Source, is_frame, open_source
from tastemaker.errors import DataError, nearest

__all__ = ["Options", "import_files", "read_frame", "read_sql"]


class Options(TypedDict, total=False):
    """What `import_files`, `read_sql` and `Dataset.from_frame` take as keywords.

    Roles are names of columns of the interactions; `user=None` makes every row a user of its own.
    Columns without a role or a kind are left out.

    Attributes:
        user, item, timestamp, order, label, behavior, weight, propensity, split, session: roles.
        columns: feature columns of the interactions: name -> `Kind`, its name, or `Feature`.
        items, users: feature tables, files or frames, one row an item or user.
        item_id, user_id: their id columns; by default called as in the interactions.
        item_columns, user_columns: like `columns`; by default every column, its kind by its type.
        title: the items column that names an item; by default "title" or "name".
        separator: of CSV files; by default a comma, and a tab for .tsv.
        name: of the data set; by default the file's.
        unmatched: what to do with interactions whose item or user is not in its table: "fail"
            (default), or "drop" them and count them in `Dataset.dropped`.
    """

    user: Required[str | None]
    item: Required[str]
    timestamp: str | None
    order: str | None
    label: str | None
    behavior: str | None
    weight: str | None
    propensity: str | None
    split: str | None
    session: str | None
    columns: Mapping[str, Feature | Kind | str]
    items: Any
    item_id: str | None
    item_columns: Mapping[str, Feature | Kind | str] | None
    users: Any
    user_id: str | None
    user_columns: Mapping[str, Feature | Kind | str] | None
    title: str | None
    separator: str | None
    name: str | None
    unmatched: Unmatched


def import_files(interactions: Path | str, **options: Unpack[Options]) -> Dataset:
    """A data set from CSV, TSV, JSON lines, Parquet or Arrow files.

    The log is read once, in blocks; memory peaks near twice the bytes of its stored columns.

    Args:
        interactions: the file of the log; a text file needs a header line.
        **options: see `Options`.

    Raises:
        DataError: naming file, row, column, value and remedy. Rows count from 1; in text files
            they are lines, and the header is row 1.
    """
    source = open_source(interactions, options.get("separator"))
    return _from_options(source, Path(interactions).name.split(".")[0], options)


def read_frame(frame: Any, **options: Unpack[Options]) -> Dataset:
    """A data set from a frame; see `Dataset.from_frame`."""
    return _from_options(FrameSource(frame, "interactions"), "frame", options)


def read_sql(query: str, connection: Any, **options: Unpack[Options]) -> Dataset:
    """A data set from the rows of a SQL query.

    Args:
        query: any query that returns rows.
        connection: an open DB-API 2 connection (sqlite3, psycopg, ...); a driver that answers in
            Arrow (ADBC, DuckDB) is read so.
        **options: see `Options`.

    Raises:
        DataError: naming row, column, value and remedy; rows count from 1.
    """
    return _from_options(FrameSource(_query(query, connection), "query"), "query", options)


def _query(query: str, connection: Any) -> pa.Table:
    cursor = connection.cursor()
    try:
        cursor.execute(query)
        if hasattr(cursor, "fetch_arrow_table"):  # ADBC, DuckDB
            return cursor.fetch_arrow_table()
        names = [column[0] for column in cursor.description or ()]
        blocks = []
        while rows := cursor.fetchmany(1 << 16):
            columns = [pa.array(values) for values in zip(*rows, strict=True)]
            blocks.append(pa.table(columns, names=names))
        empty = pa.table({name: pa.array([], pa.null()) for name in names})
        return pa.concat_tables(blocks, promote_options="permissive") if blocks else empty
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"query: a column holds values of several types ({error})") from error
    finally:
        cursor.close()


def _from_options(source: Source, name: str, options: Options) -> Dataset:
    known = Options.__annotations__
    for key in options:
        if key not in known:
            raise TypeError(f"unknown argument {key!r}{nearest(key, known)}")
    for key in ("user", "item"):
        if key not in options:
            raise TypeError(f"missing argument {key!r}: the column with the ids of the {key}s")
    roles = {role: str(options[role.value]) for role in Role if options.get(role.value)}
    separator = options.get("separator")
    return build(
        source,
        roles,
        features(options.get("columns") or {}),
        name=options.get("name") or name,
        users=_feature_table(
            "users",
            options.get("users"),
            options.get("user_id") or options["user"],
            options.get("user_columns"),
            separator,
        ),
        items=_feature_table(
            "items",
            options.get("items"),
            options.get("item_id") or options["item"],
            options.get("item_columns"),
            separator,
        ),
        title=options.get("title"),
        unmatched=options.get("unmatched", "fail"),
    )


def _feature_table(
    label: str,
    table: Any,
    id_column: str | None,
    columns: Mapping[str, Feature | Kind | str] | None,
    separator: str | None,
) -> FeatureTable | None:
    if table is None:
        return None
    if id_column is None:
        raise TypeError(f"{label} need their id column: pass {label[:-1]}_id")
    source = FrameSource(table, label) if is_frame(table) else open_source(table, separator)
    kinds = None if columns is None else features(columns, where=source.label)
    return FeatureTable(source, id_column, kinds)
