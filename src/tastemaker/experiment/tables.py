"""Tables for the terminal: what commands print where no JSON was asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import polars as pl

    from tastemaker.evaluation import Evaluation
    from tastemaker.experiment.run import PartName, Run
    from tastemaker.experiment.tune import Tuned

__all__ = [
    "comparison",
    "examination",
    "facts",
    "frame",
    "metrics",
    "number",
    "of_run",
    "outcome",
    "rows",
    "show",
]


def show(table: Table) -> None:
    """Print to stdout, as wide as the terminal; at least 100 columns when it is a file."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(100, table.__rich_measure__(console, console.options).maximum)
    if table.title is not None:  # outside the table, which may be narrower than its title
        console.print(table.title, style="bold")
        table.title = None
    console.print(table)


def rows(
    columns: Sequence[str], values: Sequence[Sequence[Any]], *, title: str | None = None
) -> Table:
    """A table; numbers are right-aligned, floats shown with four digits."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        is_number = all(isinstance(row[index], int | float | None) for row in values)
        table.add_column(
            column, justify="right" if is_number and values else "left", overflow="fold"
        )
    for row in values:
        table.add_row(*(number(value) for value in row))
    return table


def facts(values: Mapping[str, Any], *, title: str | None = None) -> Table:
    """Names and values, one a line."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, number(value))
    table.show_header = False
    return table


def metrics(evaluations: Mapping[str, Evaluation], *, title: str | None = None) -> Table:
    """Metrics by part (or by model), each with its 95 % interval."""
    names = list(dict.fromkeys(name for found in evaluations.values() for name in found.values))
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True)
    for part in evaluations:
        table.add_column(part, justify="right", no_wrap=True)
        table.add_column("95 % interval", style="dim", no_wrap=True)
    for name in names:
        cells = [name]
        for found in evaluations.values():
            estimate = found.values.get(name)
            if estimate is None or math.isnan(estimate.value):
                cells += ["-", ""]
            else:
                interval = f"{estimate.low:.4f} .. {estimate.high:.4f}"
                cells += [f"{estimate.value:.4f}", "" if math.isnan(estimate.low) else interval]
        table.add_row(*cells)
    return table


def of_run(run: Run, parts: Sequence[PartName], *, k: int | None = None) -> Table:
    """The kept metrics of a run: all, or of those of lists the ones of length `k`."""
    kept: dict[str, Evaluation] = {
        part: found for part in parts if (found := run.evaluation(part)) is not None
    }
    if k is not None:
        kept = {part: _cut_at(found, k) for part, found in kept.items()}
    record = run.record
    return metrics(kept, title=f"{record.model} on {record.data}, {record.split}")


def _cut_at(found: Evaluation, k: int) -> Evaluation:
    values = {
        name: value
        for name, value in found.values.items()
        if "@" not in name or name.endswith(f"@{k}")
    }
    return dataclasses.replace(found, values=values)


def comparison(found: pl.DataFrame, *, baseline: str, part: str) -> Table:
    """Paired differences, those whose interval leaves out zero in bold."""
    title = f"against {baseline} on the {part} part"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in ("run", "metric", "value", "baseline", "difference", "95 % interval", "p"):
        is_word = column in ("run", "metric")
        table.add_column(column, justify="left" if is_word else "right", no_wrap=not is_word)
    for row in found.iter_rows(named=True):
        clear = row["low"] > 0 or row["high"] < 0
        table.add_row(
            row["run"],
            row["metric"],
            number(row["value"]),
            number(row["baseline"]),
            f"{row['difference']:+.4f}",
            f"{row['low']:+.4f} .. {row['high']:+.4f}",
            number(row["p_value"]),
            style="bold" if clear else "",
        )
    n_queries = int(found["queries"].to_numpy().max())
    table.caption = (
        f"{n_queries:,} queries; p of a paired permutation test, one for each row: among many rows "
        "expect some small ones by chance"
    )
    table.caption_justify = "left"
    return table


def outcome(tuned: Tuned) -> Table:
    """What tuning found and spent."""
    counts = ", ".join(f"{count} {state}" for state, count in tuned.trials.items())
    settings = ", ".join(f"{name}={value}" for name, value in tuned.settings.items())
    return facts(
        {
            tuned.metric: f"{tuned.value:.4f} on the validation part",
            "settings": settings,
            "run": str(tuned.run),
            "budget": f"{counts}; {tuned.seconds:,.0f} s",
            "use them": f"--config {tuned.folder / 'best-settings.json'}",
        },
        title=f"best of {sum(tuned.trials.values())} trials of {tuned.model}",
    )


def examination(found: Mapping[str, Any]) -> list[Table]:
    """The doctor's findings."""
    extras = {
        name: "installed" if extra["installed"] else f"missing: {extra['install']}"
        for name, extra in found["extras"].items()
    }
    devices = {
        device["device"]: f"{device['name']}, {size(device['memory_bytes'])}"
        for device in found["devices"]
    }
    caches = {
        name: f"{cache['entries']} entries, {size(cache['bytes'])}"
        for name, cache in found["caches"].items()
    }
    folders = {
        place["folder"]: "missing"
        if place["datasets"] is None
        else f"{len(place['datasets'])} data sets"
        for place in found["data_folders"]
    }
    places = {"folder": found["cache_folder"], **caches}
    versions = {"tastemaker": found["version"], "python": found["python"], **found["packages"]}
    sections = {
        "versions": versions,
        "extras": extras,
        "devices": devices,
        "threads": found["threads"],
        "caches": places,
        "data folders (TASTEMAKER_DATA)": folders or {"": "none"},
        "problems": {str(n): said for n, said in enumerate(found["problems"], 1)} or {"": "none"},
    }
    return [
        facts({str(name): value for name, value in values.items()}, title=title)
        for title, values in sections.items()
    ]


def frame(found: pl.DataFrame, *, title: str | None = None) -> Table:
    """A Polars frame as a table."""
    return rows(found.columns, found.rows(), title=title)


def number(value: Any) -> str:
    """A value as a table shows it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return "-" if math.isnan(value) else f"{value:.4f}"
    return str(value)


def size(n_bytes: int | None) -> str:
    """Bytes for a person."""
    if n_bytes is None:
        return "unknown"
    if n_bytes < 1000:
        return f"{n_bytes} B"
    scaled, units = n_bytes / 1000, ["KB", "MB", "GB", "TB"]
    while scaled >= 1000 and len(units) > 1:
        scaled, units = scaled / 1000, units[1:]
    return f"{scaled:.1f} {units[0]}"
