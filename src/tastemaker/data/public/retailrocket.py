"""Retailrocket: views, carts and purchases of a shop in 2015, with item properties that change.

`events.csv` has milliseconds (kept as fractions of a second), the visitor, the event and the item;
`item_properties_part{1,2}.csv` have weekly snapshots of properties, of which the category, the
availability and property 790, the price, are readable and the last value is taken;
`category_tree.csv` gives parents of categories. An item's `categories` are its category and all
above it. Items are cut to those with events. Kaggle gives it out to signed-in users, so it is
fetched by hand.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from tastemaker.data.fetch import Originals, RemoteFile
from tastemaker.data.public.parse import read_delimited
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source

__all__ = ["DATASETS"]

_EVENTS, _TREE = "events.csv", "category_tree.csv"
_PROPERTIES = ("item_properties_part1.csv", "item_properties_part2.csv")
_PRICE = "790"


def _parse(originals: Originals) -> Parsed:
    events = read_delimited(
        originals,
        _EVENTS,
        {
            "timestamp": pa.int64(),
            "visitorid": pa.int64(),
            "event": pa.string(),
            "itemid": pa.int64(),
        },
        quoted=False,
    ).rename({"visitorid": "user", "event": "behavior", "itemid": "item"})
    last = pl.concat(_last_values(originals, name) for name in _PROPERTIES)
    described = (
        last.sort("timestamp", maintain_order=True)
        .unique(["item", "property"], keep="last", maintain_order=True)
        .pivot("property", index="item", values="value")
    )
    for name in ("categoryid", "available", _PRICE):
        if name not in described.columns:
            described = described.with_columns(pl.lit(None, pl.String).alias(name))
    items = (
        events.select(pl.col("item").unique(maintain_order=True))
        .join(described, on="item", how="left", maintain_order="left")
        .with_columns(pl.col("categoryid").cast(pl.Int64))
    )
    return Parsed(
        events.with_columns(pl.col("timestamp") / 1000),
        items=items.join(
            _ancestors(originals), on="categoryid", how="left", maintain_order="left"
        ).select(
            "item",
            pl.coalesce("categories", pl.concat_list(pl.col("categoryid").cast(pl.String)))
            .list.drop_nulls()
            .alias("categories"),
            available="available",
            price=pl.col(_PRICE).str.extract(r"^n(-?[\d.]+)").cast(pl.Float64),
        ),
        item_columns={
            "categories": "categories",
            "available": "categorical",
            "price": "numeric",
        },
    )


def _last_values(originals: Originals, name: str) -> pl.DataFrame:
    """The last snapshot in one file of the readable properties of each item."""
    values = read_delimited(
        originals,
        name,
        {
            "timestamp": pa.int64(),
            "itemid": pa.int64(),
            "property": pa.dictionary(pa.int32(), pa.string()),
            "value": pa.string(),
        },
        quoted=False,
    )
    return (
        values.with_columns(pl.col("property").cast(pl.String))
        .filter(pl.col("property").is_in(["categoryid", "available", _PRICE]))
        .sort("timestamp", maintain_order=True)
        .unique(["itemid", "property"], keep="last", maintain_order=True)
        .rename({"itemid": "item"})
    )


def _ancestors(originals: Originals) -> pl.DataFrame:
    """`categoryid` and `categories`, itself and all above it as text."""
    tree = read_delimited(
        originals, _TREE, {"categoryid": pa.int64(), "parentid": pa.int64()}, quoted=False
    ).unique("categoryid", keep="first", maintain_order=True)
    paths = tree.with_columns(
        above="parentid", categories=pl.concat_list(pl.col("categoryid").cast(pl.String))
    )
    parents = tree.rename({"categoryid": "above", "parentid": "next"})
    for _ in range(tree.height):  # once a level; the bound ends a cycle
        if paths["above"].null_count() == paths.height:
            break
        paths = paths.with_columns(
            categories=pl.concat_list("categories", pl.col("above").cast(pl.String))
        )
        paths = paths.join(parents, on="above", how="left", maintain_order="left")
        paths = paths.drop("above").rename({"next": "above"})
    return paths.select("categoryid", pl.col("categories").list.drop_nulls())


DATASETS = (
    PublicDataset(
        "retailrocket",
        "Retailrocket shop events",
        "https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset",
        "CC BY-NC-SA 4.0",
        "Retailrocket recommender system dataset. Kaggle, 2016",
        Sizes(1_407_580, 235_061, 2_756_101),
        (
            Source(
                (RemoteFile("archive.zip"),),
                (_EVENTS, *_PROPERTIES, _TREE),
                _parse,
            ),
        ),
    ),
)
