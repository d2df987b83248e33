"""Yelp: the Open Dataset as Yelp publishes it, and its 2018 edition in the split of LightGCN.

The Open Dataset is a zip with a tar with one JSON object a line in each file; Yelp gives it out
after its terms are accepted, so it is fetched by hand. Times are local and taken as UTC. Review
texts are left out, and so are star means and review counts, which sum up what came later than a
split.
"""

from __future__ import annotations

import polars as pl

from tastemaker.data.fetch import Originals, RemoteFile
from tastemaker.data.public.gowalla import lightgcn_source
from tastemaker.data.public.parse import read_json_lines
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source

__all__ = ["DATASETS"]

_REVIEWS, _BUSINESSES, _USERS = (
    f"yelp_academic_dataset_{table}.json" for table in ("review", "business", "user")
)


def _parse(originals: Originals) -> Parsed:
    reviews = read_json_lines(
        originals,
        _REVIEWS,
        {
            "user_id": pl.String,
            "business_id": pl.String,
            "stars": pl.Float32,
            "date": pl.String,
        },
    )
    businesses = read_json_lines(
        originals,
        _BUSINESSES,
        {
            "business_id": pl.String,
            "name": pl.String,
            "city": pl.String,
            "state": pl.String,
            "latitude": pl.Float64,
            "longitude": pl.Float64,
            "categories": pl.String,
        },
    )
    users = read_json_lines(
        originals,
        _USERS,
        {"user_id": pl.String, "yelping_since": pl.String, "friends": pl.String},
    )
    return Parsed(
        reviews.select(
            user="user_id", item="business_id", timestamp=_seconds("date"), label="stars"
        ),
        users=users.select(
            user="user_id",
            yelping_since=_seconds("yelping_since").cast(pl.Float64),
            friends=pl.col("friends").replace("None", None).str.split(", "),
        ),
        user_columns={"yelping_since": "numeric", "friends": "categories"},
        items=businesses.select(
            "name",
            "city",
            "state",
            "latitude",
            "longitude",
            item="business_id",
            categories=pl.col("categories").str.split(", "),
        ),
        item_columns={
            "name": "text",
            "city": "categorical",
            "state": "categorical",
            "latitude": "numeric",
            "longitude": "numeric",
            "categories": "categories",
        },
        title="name",
    )


def _seconds(column: str) -> pl.Expr:
    """Epoch seconds of `2018-07-07 22:09:11`, or of a day alone as older editions have it."""
    text = pl.col(column)
    whole = pl.when(text.str.len_chars() == 10).then(text + " 00:00:00").otherwise(text)
    return whole.str.to_datetime("%Y-%m-%d %H:%M:%S").dt.epoch("s")


DATASETS = (
    PublicDataset(
        "yelp",
        "Yelp Open Dataset",
        "https://business.yelp.com/data/resources/open-dataset/",
        "academic use under the Yelp Dataset Terms of Use",
        "Yelp Open Dataset, https://business.yelp.com/data/resources/open-dataset/",
        Sizes(1_987_897, 150_346, 6_990_280),
        (
            Source(
                (RemoteFile("Yelp-JSON.zip"),),
                (_REVIEWS, _BUSINESSES, _USERS),
                _parse,
            ),
        ),
    ),
    PublicDataset(
        "yelp2018",
        "Yelp 2018 (LightGCN split)",
        "https://github.com/gusye1234/LightGCN-PyTorch",
        "academic use under the Yelp Dataset Terms of Use",
        "Yelp Open Dataset, 2018 edition; split: Xiangnan He et al. LightGCN. SIGIR 2020. "
        "arXiv:2002.02126",
        Sizes(31_668, 38_048, 1_561_406),
        (
            lightgcn_source(
                "yelp2018",
                train="cda12361055ba448ae4bd1070f6000c16dea8f22",
                test="30dfbc3437b27b74cb2970b435a5ec93ad9f2468",
            ),
        ),
    ),
)
