"""Amazon reviews, by the McAuley lab at UCSD: 5-core review categories of 2014 and 2023.

2014: `reviews_<Category>_5.json.gz` has one JSON object a line and `meta_<Category>.json.gz` one
Python literal a line. 2023: `<Category>.csv.gz` has `user_id,parent_asin,rating,timestamp` with
milliseconds (kept as fractions of a second) and `meta_<Category>.jsonl.gz` one JSON object a line.
The metadata describe the whole category and are cut to the items of the 5-core. Review texts are
left out, and so are mean ratings and sales ranks, which sum up what came later than a split.
No checksums are published; gzip's own are verified.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import polars as pl
import pyarrow as pa

from tastemaker.data.fetch import Originals, RemoteFile
from tastemaker.data.public.parse import read_delimited, read_json_lines, read_literal_lines
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source

__all__ = ["DATASETS"]

_TEXTS = pl.List(pl.String)
_2014 = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"

# category: users, items, reviews of the 5-core as published
_CATEGORIES_2014 = {
    "Amazon_Instant_Video": (5_130, 1_685, 37_126),
    "Apps_for_Android": (87_271, 13_209, 752_937),
    "Automotive": (2_928, 1_835, 20_473),
    "Baby": (19_445, 7_050, 160_792),
    "Beauty": (22_363, 12_101, 198_502),
    "Books": (603_668, 367_982, 8_898_041),
    "CDs_and_Vinyl": (75_258, 64_443, 1_097_592),
    "Cell_Phones_and_Accessories": (27_879, 10_429, 194_439),
    "Clothing_Shoes_and_Jewelry": (39_387, 23_033, 278_677),
    "Digital_Music": (5_541, 3_568, 64_706),
    "Electronics": (192_403, 63_001, 1_689_188),
    "Grocery_and_Gourmet_Food": (14_681, 8_713, 151_254),
    "Health_and_Personal_Care": (38_609, 18_534, 346_355),
    "Home_and_Kitchen": (66_519, 28_237, 551_682),
    "Kindle_Store": (68_223, 61_934, 982_619),
    "Movies_and_TV": (123_960, 50_052, 1_697_533),
    "Musical_Instruments": (1_429, 900, 10_261),
    "Office_Products": (4_905, 2_420, 53_258),
    "Patio_Lawn_and_Garden": (1_686, 962, 13_272),
    "Pet_Supplies": (19_856, 8_510, 157_836),
    "Sports_and_Outdoors": (35_598, 18_357, 296_337),
    "Tools_and_Home_Improvement": (16_638, 10_217, 134_476),
    "Toys_and_Games": (19_412, 11_924, 167_597),
    "Video_Games": (24_303, 10_672, 231_780),
}
# category: users, items, ratings of the 5-core, rounded as published
_CATEGORIES_2023 = {
    "All_Beauty": (253, 356, 2_500),
    "Arts_Crafts_and_Sewing": (197_300, 90_000, 1_800_000),
    "Automotive": (632_100, 267_300, 6_100_000),
    "Baby_Products": (150_800, 36_000, 1_200_000),
    "Beauty_and_Personal_Care": (729_600, 207_600, 6_600_000),
    "Books": (776_400, 495_100, 9_500_000),
    "CDs_and_Vinyl": (123_900, 89_400, 1_600_000),
    "Cell_Phones_and_Accessories": (381_000, 111_500, 2_800_000),
    "Clothing_Shoes_and_Jewelry": (2_500_000, 715_000, 23_100_000),
    "Electronics": (1_600_000, 368_200, 15_500_000),
    "Gift_Cards": (377, 129, 2_400),
    "Grocery_and_Gourmet_Food": (404_800, 132_900, 3_900_000),
    "Health_and_Household": (796_100, 184_300, 7_200_000),
    "Home_and_Kitchen": (2_900_000, 763_600, 28_200_000),
    "Industrial_and_Scientific": (51_000, 25_800, 412_900),
    "Kindle_Store": (892_200, 466_600, 16_100_000),
    "Magazine_Subscriptions": (30, 21, 176),
    "Movies_and_TV": (657_200, 197_900, 7_400_000),
    "Musical_Instruments": (57_400, 24_600, 511_800),
    "Office_Products": (223_300, 77_600, 1_800_000),
    "Patio_Lawn_and_Garden": (416_600, 133_400, 3_400_000),
    "Pet_Supplies": (594_800, 114_600, 5_300_000),
    "Software": (146_400, 17_600, 1_300_000),
    "Sports_and_Outdoors": (409_800, 156_200, 3_500_000),
    "Tools_and_Home_Improvement": (842_000, 274_700, 7_900_000),
    "Toys_and_Games": (432_300, 162_000, 3_900_000),
    "Unknown": (None, None, None),
    "Video_Games": (94_800, 25_600, 814_600),
}


def _parse_2014(originals: Originals, category: str) -> Parsed:
    reviews = read_json_lines(
        originals,
        f"reviews_{category}_5.json",
        {
            "reviewerID": pl.String,
            "asin": pl.String,
            "overall": pl.Float32,
            "unixReviewTime": pl.Int64,
        },
    ).rename(
        {"reviewerID": "user", "asin": "item", "overall": "label", "unixReviewTime": "timestamp"}
    )
    products = read_literal_lines(
        originals,
        f"meta_{category}.json",
        {
            "asin": pl.String,
            "title": pl.String,
            "brand": pl.String,
            "price": pl.String,
            "description": pl.String,
            "categories": pl.List(_TEXTS),
        },
    )
    paths = pl.col("categories").list.eval(pl.element().explode()).list.unique(maintain_order=True)
    return Parsed(
        reviews,
        items=_items_of(
            reviews,
            products.select(
                "title",
                "brand",
                "description",
                item="asin",
                price=pl.col("price").cast(pl.Float64, strict=False),
                categories=paths,
            ),
        ),
        item_columns={
            "title": "text",
            "brand": "categorical",
            "description": "text",
            "price": "numeric",
            "categories": "categories",
        },
        title="title",
    )


def _parse_2023(originals: Originals, category: str) -> Parsed:
    ratings = read_delimited(
        originals,
        f"{category}.csv",
        {
            "user_id": pa.string(),
            "parent_asin": pa.string(),
            "rating": pa.float32(),
            "timestamp": pa.int64(),
        },
        quoted=False,
    ).rename({"user_id": "user", "parent_asin": "item", "rating": "label"})
    products = read_json_lines(
        originals,
        f"meta_{category}.jsonl",
        {
            "parent_asin": pl.String,
            "title": pl.String,
            "store": pl.String,
            "price": pl.String,
            "description": _TEXTS,
            "features": _TEXTS,
            "categories": _TEXTS,
            "main_category": pl.String,
        },
    )
    text = pl.concat_list(
        pl.col("features").fill_null([]), pl.col("description").fill_null([])
    ).list.join("\n")
    return Parsed(
        ratings.with_columns(pl.col("timestamp") / 1000),
        items=_items_of(
            ratings,
            products.select(
                "title",
                "store",
                "main_category",
                "categories",
                item="parent_asin",
                price=pl.col("price").str.extract(r"(\d+(?:\.\d+)?)").cast(pl.Float64),
                description=pl.when(text != "").then(text),
            ),
        ),
        item_columns={
            "title": "text",
            "store": "categorical",
            "main_category": "categorical",
            "categories": "categories",
            "price": "numeric",
            "description": "text",
        },
        title="title",
    )


def _items_of(events: pl.DataFrame, described: pl.DataFrame) -> pl.DataFrame:
    """One row for each item of the events, with nulls where it is not described."""
    occurring = events.select(pl.col("item").unique(maintain_order=True))
    described = described.unique("item", keep="first")
    return occurring.join(described, on="item", how="left", maintain_order="left")


def _record(
    year: int,
    category: str,
    counts: tuple[int | None, int | None, int | None],
    files: tuple[RemoteFile, RemoteFile],
    parse: Callable[..., Parsed],
) -> PublicDataset:
    words = category.replace("_", " ")
    return PublicDataset(
        name=f"amazon-{year}-{category.replace('_', '-').lower()}",
        title=f"Amazon reviews {year}, {words} (5-core)",
        page={
            2014: "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
            2023: "https://amazon-reviews-2023.github.io/",
        }[year],
        licence="research use with citation; no licence is stated",
        citation={
            2014: "Ruining He and Julian McAuley. Ups and Downs: Modeling the Visual Evolution of "
            "Fashion Trends with One-Class Collaborative Filtering. WWW 2016. arXiv:1602.01585",
            2023: "Yupeng Hou et al. Bridging Language and Items for Retrieval and Recommendation. "
            "2024. arXiv:2403.03952",
        }[year],
        sizes=Sizes(*counts),
        sources=(
            Source(
                files,
                tuple(file.name.removesuffix(".gz") for file in files),
                partial(parse, category=category),
            ),
        ),
    )


def _files_2014(category: str) -> tuple[RemoteFile, RemoteFile]:
    names = (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz")
    return RemoteFile(names[0], f"{_2014}/{names[0]}"), RemoteFile(names[1], f"{_2014}/{names[1]}")


def _files_2023(category: str) -> tuple[RemoteFile, RemoteFile]:
    ratings, products = f"{category}.csv.gz", f"meta_{category}.jsonl.gz"
    return (
        RemoteFile(ratings, f"{_2023}/benchmark/5core/rating_only/{ratings}"),
        RemoteFile(products, f"{_2023}/raw/meta_categories/{products}"),
    )


DATASETS = (
    *(
        _record(2014, category, counts, _files_2014(category), _parse_2014)
        for category, counts in _CATEGORIES_2014.items()
    ),
    *(
        _record(2023, category, counts, _files_2023(category), _parse_2023)
        for category, counts in _CATEGORIES_2023.items()
    ),
)
