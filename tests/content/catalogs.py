"""Small catalogs of items with content."""

from __future__ import annotations

from typing import Any

import polars as pl

from tastemaker.data import Dataset


def catalog(**columns: list[Any]) -> Dataset:
    """A data set whose items have these columns, in this order; `title` names them."""
    names = [f"i{code}" for code in range(len(next(iter(columns.values()))))]
    return Dataset.from_frame(
        pl.DataFrame({"user": "u", "item": names, "at": range(len(names))}),
        user="user",
        item="item",
        order="at",
        items=pl.DataFrame({"item": names, **columns}),
        item_id="item",
        title="title" if "title" in columns else None,
        name="small catalog",
    )
