"""Commands on data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tastemaker.cli.options import Data, Json, Quiet, command_group, emit
from tastemaker.console import is_quiet, say, set_quiet
from tastemaker.errors import ConfigError, DataError

__all__ = ["data_app"]

data_app = command_group("Data sets: list, show, get, import.")


@data_app.command("list")
def data_list(as_json: Json = False, quiet: Quiet = False) -> None:
    """The data sets known here, and where they are."""
    from dataclasses import asdict

    from tastemaker.data.catalog import list_datasets

    set_quiet(quiet or is_quiet())
    listings = list_datasets()
    if as_json:
        emit({"datasets": [asdict(listing) for listing in listings]})
        return
    from tastemaker.experiment import tables

    columns = ("name", "users", "items", "interactions", "where")
    values = [[getattr(listing, column) for column in columns] for listing in listings]
    tables.show(tables.rows(columns, values))


@data_app.command("show")
def data_show(data: Data, as_json: Json = False, quiet: Quiet = False) -> None:
    """Sizes, time range and columns of a data set."""
    from tastemaker.data.catalog import load

    set_quiet(quiet or is_quiet())
    dataset = load(data)
    found = {**dataset.describe(), "fingerprint": dataset.fingerprint}
    if as_json:
        emit(found)
        return
    from tastemaker.experiment import tables

    shown = {name: value for name, value in found.items() if not isinstance(value, dict)}
    for name, value in found.items():
        if isinstance(value, dict) and value:
            shown[name] = ", ".join(f"{key} {tables.number(inner)}" for key, inner in value.items())
    shown.pop("columns", None)
    tables.show(tables.facts(shown))
    for name, columns in found["columns"].items():
        if columns:
            listing = [[column, kind] for column, kind in columns.items()]
            tables.show(tables.rows((name, "type"), listing))


@data_app.command("get")
def data_get(
    data: Data,
    to: Annotated[Path | None, typer.Option(help="Store a copy in this folder, too.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find a data set or download it, check it and store it for use offline."""
    from tastemaker.data.catalog import get, load

    set_quiet(quiet or is_quiet())
    folder = get(data)
    dataset = load(folder)
    if to is not None:
        dataset.save(to)
    _stored(dataset, to or folder, as_json)


def _stored(dataset: Any, folder: Path, as_json: bool) -> None:
    """Say what was stored where."""
    say(f"{dataset!r} in {folder}")
    for reason, count in dataset.dropped.items():
        say(f"dropped {count:,} rows: {reason}")
    if as_json:
        emit(
            {
                "name": dataset.name,
                "folder": str(folder),
                "users": dataset.n_users,
                "items": dataset.n_items,
                "interactions": dataset.n_interactions,
                "dropped": dict(dataset.dropped),
                "fingerprint": dataset.fingerprint,
            }
        )


@data_app.command("import")
def data_import(
    to: Annotated[Path, typer.Option(help="Folder to store the data set in.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="CSV, TSV, JSONL, Parquet, Arrow.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Column of user ids.")] = None,
    item: Annotated[str | None, typer.Option(help="Column of item ids.")] = None,
    from_store: Annotated[
        str | None, typer.Option(metavar="URL", help="Events of a server, in place of a file.")
    ] = None,
    time: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    order: Annotated[str | None, typer.Option(help="Column of positions, if no times.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of ratings or labels.")] = None,
    behavior: Annotated[str | None, typer.Option(help="Column of kinds of event.")] = None,
    split: Annotated[str | None, typer.Option(help="Column of train/valid/test.")] = None,
    items: Annotated[Path | None, typer.Option(help="Table of items.")] = None,
    item_id: Annotated[str | None, typer.Option(help="Its id column.")] = None,
    title: Annotated[str | None, typer.Option(help="Its column that names an item.")] = None,
    users: Annotated[Path | None, typer.Option(help="Table of users.")] = None,
    user_id: Annotated[str | None, typer.Option(help="Its id column.")] = None,
    separator: Annotated[str | None, typer.Option(help="Of CSV files.")] = None,
    unmatched: Annotated[
        str, typer.Option(help="fail, or drop: rows whose item or user is not in its table.")
    ] = "fail",
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read your own log and store it as a data set."""
    from tastemaker.data import import_files

    set_quiet(quiet or is_quiet())
    if to.exists():
        raise DataError(f"{to} exists already; choose another folder with --to, or remove it")
    if from_store is not None:
        if file is not None:
            raise ConfigError("data come from a file or from --from-store, not from both")
        _import_events(from_store, to, name or to.name, as_json)
        return
    if file is None or user is None or item is None:
        raise ConfigError(
            "name a file and its columns (FILE --user COLUMN --item COLUMN), or --from-store URL"
        )
    if unmatched not in ("fail", "drop"):
        raise ConfigError(f"--unmatched is 'fail' or 'drop', not {unmatched!r}")
    options: dict[str, Any] = {
        "timestamp": time,
        "order": order,
        "label": label,
        "behavior": behavior,
        "split": split,
        "items": items,
        "item_id": item_id,
        "title": title,
        "users": users,
        "user_id": user_id,
        "separator": separator,
        "name": name or to.name,
        "unmatched": unmatched,
    }
    given = {key: value for key, value in options.items() if value is not None}
    dataset = import_files(file, user=user, item=item, **given)
    dataset.save(to)
    _stored(dataset, to, as_json)


def _import_events(url: str, to: Path, name: str, as_json: bool) -> None:
    from tastemaker.serving.export import dataset_of_events
    from tastemaker.serving.store import open_store

    store = open_store(url, must_exist=True)
    try:
        dataset = dataset_of_events(store, name)
    finally:
        store.close()
    dataset.save(to)
    _stored(dataset, to, as_json)
