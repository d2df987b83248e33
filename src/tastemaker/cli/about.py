"""Commands about the installation: its methods, its health."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tastemaker.cli.options import Json, Quiet, emit
from tastemaker.console import is_quiet, set_quiet

__all__ = ["doctor", "models"]


def models(
    name: Annotated[str | None, typer.Argument(help="Show this method's settings.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The methods, or one method's settings."""
    from tastemaker.models.catalog import entries, find

    set_quiet(quiet or is_quiet())
    if name is not None:
        _one_model(find(name), as_json)
        return
    known = [
        {
            "name": entry.name,
            "family": entry.family,
            "task": entry.task,
            "needs": list(entry.needed()),
            "paper": entry.paper,
        }
        for entry in entries().values()
    ]
    if as_json:
        emit(known)
        return
    from tastemaker.experiment import tables

    values = [
        [row["name"], row["family"], row["task"], ", ".join(row["needs"]) or "-", row["paper"]]
        for row in known
    ]
    tables.show(tables.rows(("name", "family", "task", "needs", "paper"), values))


def _one_model(entry: Any, as_json: bool) -> None:
    from tastemaker.experiment.settings import documented

    kind = entry.load()
    settings = documented(kind.Config)
    presets = {name: dict(values) for name, values in kind.presets.items()}
    if as_json:
        described = [
            {"name": s.name, "type": s.type, "default": s.default, "meaning": s.meaning}
            for s in settings
        ]
        search = {name: str(space) for name, space in kind.search.items()}
        about = {key: getattr(entry, key) for key in ("name", "family", "task", "paper")}
        needs = list(entry.needed())
        emit({**about, "needs": needs, "settings": described, "presets": presets, "search": search})
        return
    from tastemaker.experiment import tables

    tables.show(tables.facts({"model": entry.name, "family": entry.family, "paper": entry.paper}))
    values = [[s.name, s.type, str(s.default), s.meaning] for s in settings]
    tables.show(tables.rows(("setting", "type", "default", "meaning"), values))
    if presets:
        spelled = [
            [name, ", ".join(f"{key}={value}" for key, value in preset.items())]
            for name, preset in presets.items()
        ]
        tables.show(tables.rows(("preset", "settings"), spelled))


def doctor(as_json: Json = False, quiet: Quiet = False) -> None:
    """What is installed, which devices there are, what is cached."""
    from tastemaker.experiment.doctor import examine

    set_quiet(quiet or is_quiet())
    found = examine()
    if as_json:
        emit(found)
        return
    from tastemaker.experiment import tables

    for table in tables.examination(found):
        tables.show(table)
