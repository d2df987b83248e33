"""goodbooks-10k: ratings of the ten thousand most rated books of Goodreads.

UTF-8 CSV. `ratings.csv` has no times but is sorted by time, so the row number is the order. Books
are tied to their tags by Goodreads' own id; tags are ordered by how many readers gave them. Mean
ratings and counts are left out, for they sum up what came later than a split.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from tastemaker.data.fetch import Originals, RemoteFile
from tastemaker.data.public.parse import read_delimited
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source

__all__ = ["DATASETS"]

_INT, _TEXT = pa.int64(), pa.string()
_FILES = ("ratings.csv", "books.csv", "tags.csv", "book_tags.csv")


def _parse(originals: Originals) -> Parsed:
    ratings = read_delimited(
        originals,
        "ratings.csv",
        {"user_id": _INT, "book_id": _INT, "rating": pa.float32()},
        quoted=False,
    ).rename({"user_id": "user", "book_id": "item", "rating": "label"})
    books = read_delimited(
        originals,
        "books.csv",
        {
            "book_id": _INT,
            "goodreads_book_id": _INT,
            "title": _TEXT,
            "authors": _TEXT,
            "original_publication_year": pa.float64(),
            "language_code": _TEXT,
        },
    )
    names = read_delimited(originals, "tags.csv", {"tag_id": _INT, "tag_name": _TEXT})
    given = read_delimited(
        originals, "book_tags.csv", {"goodreads_book_id": _INT, "tag_id": _INT, "count": _INT}
    )
    tags = (
        given.join(names, on="tag_id", how="inner", maintain_order="left")
        .sort("goodreads_book_id", "count", descending=[False, True], maintain_order=True)
        .group_by("goodreads_book_id", maintain_order=True)
        .agg(tags="tag_name")
    )
    return Parsed(
        ratings.with_row_index("order").cast({"order": pl.Int64}),
        items=books.join(tags, on="goodreads_book_id", how="left", maintain_order="left").select(
            "title",
            "tags",
            item="book_id",
            authors=pl.col("authors").str.split(", "),
            publication_year="original_publication_year",
            language="language_code",
        ),
        item_columns={
            "title": "text",
            "tags": "categories",
            "authors": "categories",
            "publication_year": "numeric",
            "language": "categorical",
        },
        title="title",
    )


DATASETS = (
    PublicDataset(
        "goodbooks-10k",
        "goodbooks-10k",
        "https://github.com/zygmuntz/goodbooks-10k",
        "CC BY-SA 4.0",
        "Zygmunt Zając. Goodbooks-10k: a new dataset for book recommendations. FastML, 2017. "
        "http://fastml.com/goodbooks-10k",
        Sizes(53_424, 10_000, 5_976_479),
        (
            Source(
                (
                    RemoteFile(
                        "goodbooks-10k.zip",
                        "https://github.com/zygmuntz/goodbooks-10k/releases/download/v1.0/"
                        "goodbooks-10k.zip",
                    ),
                ),
                _FILES,
                _parse,
            ),
        ),
    ),
)
