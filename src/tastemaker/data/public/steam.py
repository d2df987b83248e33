"""Steam game reviews, by the McAuley lab at UCSD (version 2 of its Steam data).

`steam_reviews.json.gz` and `steam_games.json.gz` have one Python 2 literal a line
(`{u'username': u'...', u'hours': 0.1, ...}`), read without evaluating anything. The user is the
`username`, as in SASRec (arXiv:1808.09781); reviews have a day and no time of day, so events of one
day keep the order of the file. Review texts are left out. Games are cut to those reviewed; the
sentiment shown in the shop is left out, for it sums up what came later than a split.
No checksums are published; gzip's own are verified.
"""

from __future__ import annotations

import polars as pl

from tastemaker.data.fetch import Originals, RemoteFile
from tastemaker.data.public.parse import read_literal_lines
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source

__all__ = ["DATASETS"]

_TEXTS = pl.List(pl.String)


def _parse(originals: Originals) -> Parsed:
    reviews = read_literal_lines(
        originals,
        "steam_reviews.json",
        {
            "username": pl.String,
            "product_id": pl.String,
            "date": pl.String,
            "hours": pl.String,
            "early_access": pl.String,
        },
    ).select(
        user="username",
        item="product_id",
        timestamp=pl.col("date").str.to_date("%Y-%m-%d").cast(pl.Datetime("ms")).dt.epoch("s"),
        hours=pl.col("hours").cast(pl.Float64),
        early_access="early_access",
    )
    games = read_literal_lines(
        originals,
        "steam_games.json",
        {
            "id": pl.String,
            "app_name": pl.String,
            "title": pl.String,
            "developer": pl.String,
            "publisher": pl.String,
            "release_date": pl.String,
            "price": pl.String,
            "genres": _TEXTS,
            "tags": _TEXTS,
            "specs": _TEXTS,
        },
    ).filter(pl.col("id").is_not_null())
    free = pl.col("price").str.to_lowercase().str.contains("free")
    described = games.unique("id", keep="first", maintain_order=True).select(
        "developer",
        "publisher",
        "genres",
        "tags",
        "specs",
        item="id",
        name=pl.coalesce("title", "app_name"),
        release_year=pl.col("release_date").str.extract(r"(\d{4})").cast(pl.Float64),
        price=pl.when(free).then(0.0).otherwise(pl.col("price").cast(pl.Float64, strict=False)),
    )
    occurring = reviews.select(pl.col("item").unique(maintain_order=True))
    return Parsed(
        reviews,
        columns={"hours": "numeric", "early_access": "categorical"},
        items=occurring.join(described, on="item", how="left", maintain_order="left"),
        item_columns={
            "name": "text",
            "developer": "categorical",
            "publisher": "categorical",
            "genres": "categories",
            "tags": "categories",
            "specs": "categories",
            "release_year": "numeric",
            "price": "numeric",
        },
        title="name",
    )


_URL = "https://mcauleylab.ucsd.edu/public_datasets/data/steam"
_NAMES = ("steam_reviews.json", "steam_games.json")

DATASETS = (
    PublicDataset(
        "steam",
        "Steam game reviews",
        "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        "research use with citation; no licence is stated",
        "Wang-Cheng Kang and Julian McAuley. Self-Attentive Sequential Recommendation. ICDM 2018. "
        "arXiv:1808.09781",
        Sizes(2_567_538, 15_474, 7_793_069),
        (
            Source(
                tuple(RemoteFile(f"{name}.gz", f"{_URL}/{name}.gz") for name in _NAMES),
                _NAMES,
                _parse,
            ),
        ),
    ),
)
