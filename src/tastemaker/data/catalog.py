"""Data sets by name: prepared folders, public data sets fetched once, and where each comes from.

`load` looks in this order and stops at the first find: an existing path; a prepared folder of that
name under the paths in `TASTEMAKER_DATA`; the public data set as stored by an earlier load; its
original files, in a folder of that name under `TASTEMAKER_DATA` or fetched before; its sources. A
public data set is parsed once and stored under `cache_dir()/data`, so the next load is instant and
asks no network.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from tastemaker.console import say
from tastemaker.data.dataset import Dataset, one_chunk
from tastemaker.data.fetch import Originals, obtain, verify
from tastemaker.data.knowledge import KnowledgeGraph
from tastemaker.data.public import PUBLIC, Parsed, PublicDataset, Sizes, Source
from tastemaker.data.schema import Role
from tastemaker.data.storage import HEADER
from tastemaker.errors import DataError, nearest
from tastemaker.files import cache_dir

if TYPE_CHECKING:
    from tastemaker.data.readers import Options

__all__ = ["PUBLIC", "Listing", "describe", "get", "list_datasets", "load"]

_TOLERANCE = 0.05  # published counts are rounded to two or three digits


@dataclass(frozen=True)
class Listing:
    """One known data set, as `tastemaker data list` shows it.

    Attributes:
        where: the folder it is in, or `"download"`, or `"by hand"` where a person must fetch it.
    """

    name: str
    title: str
    users: int | None
    items: int | None
    interactions: int | None
    licence: str
    where: str


def load(name_or_path: str | Path) -> Dataset:
    """The data set of a name or in a folder; see the module for where it is looked for.

    Raises:
        DataError: when there is none, naming the nearest; when none of its sources answers, with
            the reason of each and the remedy; when a file is damaged.
    """
    from tastemaker.data.folder import read_folder

    return read_folder(get(name_or_path))


def get(name_or_path: str | Path) -> Path:
    """The folder that `load` reads: found, or fetched and stored now; errors as for `load`."""
    folder = _prepared_folder(name_or_path)
    return folder if folder is not None else _stored(_record(str(name_or_path)))


def list_datasets() -> list[Listing]:
    """Every data set known here: folders under `TASTEMAKER_DATA`, then the public ones."""
    local = {
        path.name: path
        for root in reversed(_roots())
        if root.is_dir()
        for path in sorted(root.iterdir())
        if _is_prepared(path)
    }
    listings = [
        Listing(name, name, None, None, None, "", str(path))
        for name, path in sorted(local.items())
        if name not in PUBLIC
    ]
    for record in PUBLIC.values():
        where = local.get(record.name) or _at_hand(record)
        listings.append(
            Listing(
                record.name,
                record.title,
                **asdict(record.sizes),
                licence=record.licence,
                where=str(where)
                if where
                else "by hand"
                if record.sources[0].by_hand
                else "download",
            )
        )
    return listings


def describe(name: str) -> dict[str, Any]:
    """What is known of a data set before loading it, as plain values; errors as for `load`."""
    if (folder := _prepared_folder(name)) is not None and name not in PUBLIC:
        return {"name": folder.name, "where": str(folder)}
    record = _record(name)
    listing = next(listing for listing in list_datasets() if listing.name == name)
    return asdict(listing) | {
        "page": record.page,
        "citation": record.citation,
        "sources": [
            [{"from": file.origin, "checksum": file.checksum} for file in source.files]
            for source in record.sources
        ],
    }


def _roots() -> list[Path]:
    """The folders in `TASTEMAKER_DATA`."""
    paths = os.environ.get("TASTEMAKER_DATA", "").split(os.pathsep)
    return [Path(path).expanduser() for path in paths if path]


def _is_prepared(folder: Path) -> bool:
    return (folder / "dataset.toml").is_file() or (folder / HEADER).is_file()


def _prepared_folder(name_or_path: str | Path) -> Path | None:
    """The folder of a path, or of a name under `TASTEMAKER_DATA`; None when there is neither."""
    path = Path(name_or_path).expanduser()
    is_path = isinstance(name_or_path, Path) or len(path.parts) > 1
    if path.is_file() and (is_path or str(path) not in PUBLIC):
        raise DataError(f"{path} is a file; read it with `tastemaker data import` or import_files")
    if path.is_dir() and (is_path or _is_prepared(path)):
        return path
    if is_path:
        raise DataError(f"{path}: there is no such folder")
    folders = (root / path for root in _roots())
    return next((folder for folder in folders if _is_prepared(folder)), None)


def _record(name: str) -> PublicDataset:
    if name not in PUBLIC:
        known = [listing.name for listing in list_datasets()]
        looked = ", ".join(str(root) for root in _roots()) or "not set"
        raise DataError(
            f"{name!r} is no folder and no known data set{nearest(name, known)}; "
            f"`tastemaker data list` names all (TASTEMAKER_DATA: {looked})"
        )
    return PUBLIC[name]


def _store(record: PublicDataset) -> Path:
    return cache_dir() / "data" / f"{record.name}-{record.version}"


def _downloads(record: PublicDataset) -> Path:
    return cache_dir() / "downloads" / record.name


def _at_hand(record: PublicDataset) -> Path | None:
    """The folder of a public data set as stored, or of its original files; not looked into."""
    folders = [_store(record), *(root / record.name for root in _roots()), _downloads(record)]
    return next((folder for folder in folders if folder.is_dir() and any(folder.iterdir())), None)


def _stored(record: PublicDataset) -> Path:
    """The folder of the stored data set, made now unless it is there and whole."""
    folder = _store(record)
    if (folder / HEADER).is_file():
        try:
            Dataset.open(folder)
        except DataError as error:
            say(f"{error}; preparing it again")
        else:
            return folder
    dataset = _to_dataset(record.name, _parse(record))
    _compare(record, dataset)
    try:
        dataset.save(folder, replace=folder.exists())
    except FileExistsError:  # another process stored it meanwhile
        Dataset.open(folder)
    return folder


def _parse(record: PublicDataset) -> Parsed:
    """The tables of a public data set, from files at hand or from the first source that answers."""
    reasons: list[str] = []
    downloads = _downloads(record)
    for source in record.sources:
        folders = [root / record.name for root in _roots()]
        folders += [downloads] if source.by_hand else []
        for folder in folders:
            originals = Originals([folder] if folder.is_dir() else [])
            missing = [name for name in source.needs if not originals.has(name)]
            if not missing:
                _verify_published(originals, source)
                return source.parse(originals)
            if originals.paths:
                reasons.append(f"{folder}: there is no {', '.join(missing)}")
    for source in sorted(record.sources, key=lambda source: not _is_fetched(source, downloads)):
        try:
            paths = [obtain(file, downloads) for file in source.files]
        except DataError as error:
            reasons.append(str(error))
        else:
            return source.parse(Originals(paths))
    raise DataError(_no_source(record, reasons))


def _verify_published(originals: Originals, source: Source) -> None:
    """Check the files of a person's own folder that bear the name of a published archive."""
    published = {file.name: file.checksum for file in source.files}
    for path in originals.paths:
        verify(path, published.get(path.name))


def _is_fetched(source: Source, downloads: Path) -> bool:
    return all((downloads / file.name).exists() for file in source.files)


def _no_source(record: PublicDataset, reasons: list[str]) -> str:
    lines = [f"{record.name} could not be had:", *(f"  {reason}" for reason in reasons)]
    wanted = " or ".join(", ".join(file.name for file in source.files) for source in record.sources)
    advice = (
        f"or set TASTEMAKER_DATA to a folder that holds a prepared {record.name}, or "
        "TASTEMAKER_CACHE to the cache of a machine that has it"
    )
    lines += [
        f"get {wanted} by hand (see {record.page}) and put it into the folder",
        f"  {_by_hand_folder(record)}",
        advice,
    ]
    return "\n".join(lines)


def _by_hand_folder(record: PublicDataset) -> Path:
    roots = _roots()
    return roots[0] / record.name if roots else _downloads(record)


def _to_dataset(name: str, parsed: Parsed) -> Dataset:
    """The parsed tables in codes; users and items without a description get an empty one."""
    log = parsed.interactions
    options: dict[str, Any] = {str(role): str(role) for role in Role if role in log.columns}
    options |= {
        "columns": parsed.columns,
        "users": _complete(parsed.users, log, "user"),
        "user_columns": parsed.user_columns,
        "items": _complete(parsed.items, log, "item"),
        "item_columns": parsed.item_columns,
        "title": parsed.title,
        "name": name,
    }
    dataset = Dataset.from_frame(log, **cast("Options", options))
    if parsed.knowledge is None or parsed.item_entity is None or dataset.items is None:
        return dataset
    graph = parsed.knowledge.select("head", "relation", "tail").to_arrow()
    heads, relations, tails = (one_chunk(column) for column in graph.columns)
    entities = one_chunk(dataset.items.column(parsed.item_entity)).cast(heads.type)
    knowledge = KnowledgeGraph.build(heads, relations, tails, entities)
    return dataclasses.replace(dataset, knowledge=knowledge)


def _complete(table: pl.DataFrame | None, log: pl.DataFrame, key: str) -> pl.DataFrame | None:
    """The feature table with an empty row for every id of the log that it lacks."""
    if table is None:
        return None
    missing = log.select(pl.col(key).unique(maintain_order=True)).join(table, on=key, how="anti")
    return pl.concat([table, missing], how="diagonal") if missing.height else table


def _compare(record: PublicDataset, dataset: Dataset) -> None:
    """Say so when the counts are not the published ones: the publisher's files have changed."""
    found = Sizes(dataset.n_users, dataset.n_items, dataset.n_interactions)
    for what, published in asdict(record.sizes).items():
        count = getattr(found, what)
        if published is not None and abs(count - published) > _TOLERANCE * published:
            say(f"{record.name}: {count:,} {what}, published are {published:,}; see {record.page}")
