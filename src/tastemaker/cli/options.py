"""Options that commands share, and how results are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "Address",
    "Assignments",
    "Config",
    "Data",
    "Device",
    "EngineName",
    "Filters",
    "Json",
    "Length",
    "Model",
    "PartOption",
    "Quiet",
    "RunFolder",
    "Seed",
    "SplitSeed",
    "SplitSpec",
    "command_group",
    "emit",
    "leads",
    "settings",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on the last line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No messages, no progress.")]
Data = Annotated[str, typer.Argument(metavar="DATA", help="A data set's name or folder.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Model = Annotated[str, typer.Option("--model", "-m", help="A method (see `tastemaker models`).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
EngineName = Annotated[str, typer.Option("--engine", help="local, or ray: on a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Of the Ray cluster [one started on this machine]."),
]
SplitSpec = Annotated[
    str | None, typer.Option("--split", help="Such as leave-one-out or ratio:test=0.2,by=user.")
]
SplitSeed = Annotated[int, typer.Option(help="Seed of the split.")]
Filters = Annotated[
    list[str] | None, typer.Option("--filter", help="Such as k-core:users=5,items=5. Repeatable.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting. Repeatable.")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings from a TOML or JSON file; --set wins.")
]
Seed = Annotated[int, typer.Option(help="Seed of every random stream.")]
Length = Annotated[int, typer.Option("--k", "-k", min=1, help="Items in a list.")]
PartOption = Annotated[str, typer.Option("--part", help="test or valid.")]


def command_group(about: str) -> typer.Typer:
    """An empty group of commands; plain help, because drawn boxes cost import time."""
    return typer.Typer(
        help=about,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def emit(value: Any) -> None:
    """One JSON value on the last line; NaN is written as null."""
    typer.echo(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
        case str() | int() | float() | None:
            return value
    return str(value)


def settings(assignments: list[str] | None, config: Path | None) -> dict[str, Any]:
    """The settings of a file, overridden by `key=value` texts."""
    from tastemaker.experiment.settings import parse_assignments, read_settings

    return {**(read_settings(config) if config else {}), **parse_assignments(assignments or [])}


def leads() -> bool:
    """Whether this is the process that speaks, of those `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"
