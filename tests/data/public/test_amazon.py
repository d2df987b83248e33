from __future__ import annotations

import json
import math

import pytest

from tastemaker.data import catalog
from tastemaker.data.catalog import PUBLIC
from tastemaker.errors import DataError


def reviews_2014() -> str:
    lines = []
    for row in range(10):
        review = {
            "reviewerID": f"A{row % 3}YJXDMZ",
            "asin": ["7806397051", "9759091062", "B00004TMFE"][row % 2 + row // 9],
            "reviewerName": 'Andrea "q"',
            "helpful": [3, 4],
            "reviewText": "Very oily and creamy.\nNot at all 'asin': 'no'",
            "overall": float(1 + row % 5),
            "summary": "Don't waste your money",
            "unixReviewTime": 1391040000 - 86400 * row,
            "reviewTime": "01 30, 2014",
        }
        if row == 4:
            del review["reviewerName"]
        lines.append(json.dumps(review))
    return "\n".join(lines) + "\n"


META_2014 = (
    r"""{'asin': '7806397051', 'title': "WAWO 15 Color 'Pro' Palette", 'price': 4.5, """
    r"""'imUrl': 'http://x/41.jpg', 'related': {'also_bought': ['B00', 'B01']}, """
    r"""'salesRank': {'Beauty': 159861}, 'brand': 'Cafe "No" \\ Co', """
    r"""'categories': [['Beauty', 'Makeup', 'Face'], ['Beauty', 'Gifts']]}"""
    "\n"
    r"""{'asin': '9759091062', 'description': 'It\'s "good"\nfor caf\xe9 & \u65e5\u672c', """
    r"""'title': 'Xtreme Brite', 'categories': [['Beauty']]}"""
    "\n"
    r"""{'asin': '0000000000', 'title': 'never reviewed', 'categories': [['Beauty']]}"""
    "\n"
)


def test_a_2014_category(load_sample, rows, item):
    data = load_sample(
        "amazon-2014-beauty",
        {"reviews_Beauty_5.json.gz": reviews_2014(), "meta_Beauty.json.gz": META_2014},
    )
    assert (data.n_users, data.n_items, data.n_interactions) == (3, 3, 10)
    assert rows(data, "label", "timestamp")[:4] == [
        ("A0YJXDMZ", "B00004TMFE", 5.0, 1391040000 - 86400 * 9),
        ("A0YJXDMZ", "7806397051", 2.0, 1391040000 - 86400 * 6),
        ("A0YJXDMZ", "9759091062", 4.0, 1391040000 - 86400 * 3),
        ("A0YJXDMZ", "7806397051", 1.0, 1391040000),
    ]
    first = item(data, "7806397051")
    assert first["title"] == "WAWO 15 Color 'Pro' Palette"
    assert first["brand"] == 'Cafe "No" \\ Co'
    assert first["price"] == 4.5
    assert first["categories"] == ["Beauty", "Makeup", "Face", "Gifts"]
    second = item(data, "9759091062")
    assert second["description"] == 'It\'s "good"\nfor café & 日本'
    assert math.isnan(second["price"])
    assert second["brand"] is None
    undescribed = data.item_ids.encode(["B00004TMFE"])
    assert data.titles(undescribed) == ["B00004TMFE"]


def test_a_2023_category(load_sample, rows, item):
    ratings = "user_id,parent_asin,rating,timestamp\n" + "".join(
        f"AGKHLEW2SOWHNMFQIJGBECAF7IN{row % 2},{item},{float(1 + row % 5)},{1588615855070 + row}\n"
        for row, item in enumerate(["B081TJ8YS3", "B07PNNCSP9"] * 4 + ["0593", "0593"])
    )
    meta = [
        {"main_category": "All Beauty", "title": "Howard LC0008 “Leather”", "price": 12.99,
         "average_rating": 4.8, "rating_number": 10, "features": ["soft", "new"],
         "description": ["A", "B"], "images": [{"thumb": "u"}], "store": "Howard Products",
         "categories": ["Beauty", "Skin"], "details": {"Brand": "Howard"},
         "parent_asin": "B081TJ8YS3", "bought_together": None},
        {"main_category": None, "title": "Yes to", "price": "from 7.50", "features": [],
         "description": [], "store": None, "categories": [], "parent_asin": "B07PNNCSP9"},
        {"main_category": "Books", "title": "unrated", "price": None, "parent_asin": "B000"},
    ]  # fmt: skip
    data = load_sample(
        "amazon-2023-all-beauty",
        {
            "All_Beauty.csv.gz": ratings,
            "meta_All_Beauty.jsonl.gz": "".join(json.dumps(line) + "\n" for line in meta),
        },
    )
    assert (data.n_users, data.n_items, data.n_interactions) == (2, 3, 10)
    user, *_, time = rows(data, "label", "timestamp")[0]
    assert user == "AGKHLEW2SOWHNMFQIJGBECAF7IN0"
    assert time == 1588615855.070
    assert item(data, "B081TJ8YS3") == {
        "title": "Howard LC0008 “Leather”",
        "store": "Howard Products",
        "main_category": "All Beauty",
        "categories": ["Beauty", "Skin"],
        "price": 12.99,
        "description": "soft\nnew\nA\nB",
    }
    assert item(data, "B07PNNCSP9")["price"] == 7.5
    assert item(data, "B07PNNCSP9")["description"] is None
    assert data.item_ids.encode(["0593"])[0] >= 0  # an ISBN keeps its leading zero


def test_every_category_has_a_name():
    names = [name for name in PUBLIC if name.startswith("amazon-")]
    assert len([name for name in names if "-2014-" in name]) == 24
    assert len([name for name in names if "-2023-" in name]) == 28
    assert "amazon-2014-sports-and-outdoors" in names
    assert "amazon-2023-cds-and-vinyl" in names


def test_a_truncated_archive_is_named(load_sample, tmp_path):
    files = {"reviews_Beauty_5.json.gz": reviews_2014(), "meta_Beauty.json.gz": META_2014}
    load_sample("amazon-2014-beauty", files)  # the same files, whole, are fine
    folder = tmp_path / "data" / "amazon-2014-baby"
    folder.mkdir()
    for name in files:
        whole = (tmp_path / "data" / "amazon-2014-beauty" / name).read_bytes()
        cut = whole[: len(whole) // 2] if name.startswith("reviews") else whole
        (folder / name.replace("Beauty", "Baby")).write_bytes(cut)
    with pytest.raises(DataError, match=r"reviews_Baby_5\.json\.gz: the archive is damaged"):
        catalog.load("amazon-2014-baby")
    assert not (tmp_path / "cache" / "data" / "amazon-2014-baby-1").exists()
