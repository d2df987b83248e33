"""Tables for the terminal: what commands print where no JSON was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import polars as pl

    from tastemaker.evaluation import Evaluation

__all__ = ["facts", "metrics", "number", "rows", "show"]


def show(table: Table) -> None:
    """Print to stdout, as wide as the terminal (100 columns when it is a file)."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(100, table.__rich_measure__(console, console.options).maximum))
    console.print(table)


def rows(
    columns: Sequence[str], values: Sequence[Sequence[Any]], *, title: str | None = None
) -> Table:
    """A table; numbers are right-aligned, floats shown with four digits."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        is_number = all(isinstance(row[index], int | float | None) for row in values)
        justify = "right" if is_number and values else "left"
        table.add_column(column, justify=justify, overflow="fold")
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
    for unit in ("B", "KB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes = n_bytes / 1000
    return f"{n_bytes:.1f} TB"
