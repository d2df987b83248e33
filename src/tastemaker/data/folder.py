"""A folder of tables with a `dataset.toml` that says what they mean is a data set.

    name = "films"
    [interactions]
    file = "ratings.csv"
    user = "user_id"            # roles: user item timestamp order label behavior weight
    item = "film_id"            #        propensity split session
    timestamp = "time"
    [interactions.columns]      # kinds: categorical categories numeric text image embedding entity
    device = "categorical"
    [items]
    file = "films.csv"
    id = "film_id"
    title = "title"
    [items.columns]
    title = "text"
    genres = { kind = "categories", separator = "|" }
    [users]
    file = "users.csv"
    id = "user_id"
    [knowledge]
    file = "triples.tsv"
    head = "head"
    relation = "relation"
    tail = "tail"
    item_entity = "entity"      # items column; without it, an item's id is its entity's

Without `[interactions]` the data set is a catalog of items with an empty log. Without `user`,
every row is a user of its own: logged decisions about anonymous visitors. Interactions whose item
or user is missing in its table are dropped and counted, or with `unmatched = "fail"` refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tastemaker.console import say
from tastemaker.data.building import FeatureTable, KnowledgeTable, build
from tastemaker.data.dataset import Dataset
from tastemaker.data.schema import Feature, Kind, Role, features
from tastemaker.data.sources import Source, open_source
from tastemaker.data.storage import HEADER
from tastemaker.errors import DataError, nearest

__all__ = ["DESCRIPTION", "read_folder"]

DESCRIPTION = "dataset.toml"

_ROLES = tuple(role.value for role in Role)
_TABLE = ("file", "separator")


def read_folder(path: Path | str) -> Dataset:
    """The data set in a folder: one with a `dataset.toml`, or a stored one.

    Raises:
        DataError: naming the file, its key or row, and the remedy.
    """
    folder = Path(path)
    if (folder / HEADER).is_file():
        return Dataset.open(folder)
    file = folder / DESCRIPTION
    if not file.is_file():
        what = "no such folder" if not folder.is_dir() else "neither dataset.toml nor dataset.json"
        raise DataError(
            f"{folder}: {what} here; a data set is a folder of tables with a dataset.toml, or one "
            "that `tastemaker data import` wrote"
        )
    dataset = _read(folder, file)
    for what, count in dataset.dropped.items():
        say(f"{file}: dropped {count:,} {what}")
    return dataset


def _read(folder: Path, file: Path) -> Dataset:
    try:
        description = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not TOML ({error})") from error
    known = ("name", "unmatched", "interactions", "users", "items", "knowledge")
    _check_keys(f"{file}", description, known)
    log = _section(file, description, "interactions", (*_TABLE, "columns", *_ROLES), ("item",))
    items = _section(file, description, "items", (*_TABLE, "columns", "id", "title"), ("id",))
    users = _section(file, description, "users", (*_TABLE, "columns", "id"), ("id",))
    triple = ("head", "relation", "tail")
    graph = _section(file, description, "knowledge", (*_TABLE, *triple, "item_entity"), triple)
    if log is None and items is None:
        raise DataError(f"{file}: no [interactions] table; add one with file, user and item")
    item_table = _feature_table(file, folder, "items", items)
    knowledge = None
    if graph is not None:
        entity = graph.get("item_entity")
        if entity is not None and item_table is not None and item_table.features is not None:
            kinds = {**item_table.features}
            kinds.setdefault(entity, Feature(Kind.ENTITY))
            item_table = FeatureTable(item_table.source, item_table.id, kinds)
        source = _source(file, folder, "knowledge", graph)
        head, relation, tail = (graph[key] for key in triple)
        knowledge = KnowledgeTable(source, head, relation, tail, entity)
    return build(
        None if log is None else _source(file, folder, "interactions", log),
        {role: log[role.value] for role in Role if role.value in log} if log else {},
        _columns(file, "interactions", log or {}),
        name=description.get("name", folder.resolve().name),
        users=_feature_table(file, folder, "users", users),
        items=item_table,
        knowledge=knowledge,
        title=(items or {}).get("title"),
        unmatched=description.get("unmatched", "drop"),
    )


def _check_keys(where: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in table:
        if key not in known:
            raise DataError(
                f"{where}: unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}"
            )


def _section(
    file: Path,
    description: Mapping[str, Any],
    name: str,
    known: tuple[str, ...],
    required: tuple[str, ...],
) -> dict[str, Any] | None:
    """A table of the description with its keys checked, or None when there is none."""
    section = description.get(name)
    if section is None:
        return None
    where = f"{file}, [{name}]"
    if not isinstance(section, dict):
        raise DataError(f"{where}: expected a table, not {section!r}")
    _check_keys(where, section, known)
    for key in ("file", *required):
        if key not in section:
            raise DataError(f'{where}: no {key!r}; add a line {key} = "..."')
    for key, value in section.items():
        if key != "columns" and not isinstance(value, str):
            raise DataError(f"{where}, {key}: expected a string, not {value!r}")
    return section


def _source(file: Path, folder: Path, name: str, section: Mapping[str, Any]) -> Source:
    try:
        return open_source(folder / section["file"], section.get("separator"))
    except DataError as error:
        raise DataError(f"{file}, [{name}]: {error}") from error


def _columns(file: Path, name: str, section: Mapping[str, Any]) -> dict[str, Feature]:
    columns = section.get("columns", {})
    where = f"{file}, [{name}.columns]"
    if not isinstance(columns, dict):
        raise DataError(f"{where}: expected a table of column = kind, not {columns!r}")
    read: dict[str, Feature | str] = {}
    for column, value in columns.items():
        if isinstance(value, dict):
            _check_keys(f"{where}, {column}", value, ("kind", "separator"))
            feature = features({column: value.get("kind", "")}, where=where)[column]
            read[column] = Feature(feature.kind, value.get("separator"))
        else:
            read[column] = value
    return features(read, where=where)


def _feature_table(
    file: Path, folder: Path, name: str, section: Mapping[str, Any] | None
) -> FeatureTable | None:
    if section is None:
        return None
    source = _source(file, folder, name, section)
    return FeatureTable(source, section["id"], _columns(file, name, section))
