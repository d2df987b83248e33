from __future__ import annotations

import ast
import json
import math

import polars as pl
import pytest

from tastemaker.data.public.parse import literals_to_json
from tastemaker.errors import DataError

REVIEWS = r"""
{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'725280', u'page_order': 0, u'date': u'2017-12-17', u'text': u'This would not be acceptable', u'early_access': False, u'page': 1}
{u'username': u"\u2605 Ninja's \"Trade\" \\o/", u'hours': 51.1, u'products': 769, u'product_id': u'328100', u'page_order': 1, u'date': u'2017-07-27', u'text': u"don't 'product_id': u'1' {[", u'early_access': True, u'page': 1}
{u'username': u'Chaos Syren', u'hours': 2.5, u'product_id': u'328100', u'date': u'2017-12-16', u'text': u'\U0001f600 True, None', u'early_access': False, u'user_id': u'76561198', u'found_funny': 2, u'compensation': u'Product received for free'}
{u'username': u'b', u'products': 1, u'product_id': u'725280', u'date': u'2014-01-01', u'text': u'', u'early_access': False}
{u'username': u'b', u'hours': 1.0, u'product_id': u'35140', u'date': u'2014-01-01', u'text': u'x', u'early_access': False}
{u'username': u'c', u'hours': 1.0, u'product_id': u'35140', u'date': u'2014-01-02', u'text': u'x', u'early_access': False}
{u'username': u'c', u'hours': 1e-05, u'product_id': u'725280', u'date': u'2014-01-01', u'text': u'x', u'early_access': False}
{u'username': u'd', u'hours': 1.0, u'product_id': u'35140', u'date': u'2014-01-02', u'text': u'x', u'early_access': False}
{u'username': u'd', u'hours': 1.0, u'product_id': u'725280', u'date': u'2014-01-03', u'text': u'x', u'early_access': False}
{u'username': u'd', u'hours': 1.0, u'product_id': u'328100', u'date': u'2014-01-04', u'text': u'x', u'early_access': False}
""".lstrip()  # noqa: E501
GAMES = r"""
{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Casual'], u'app_name': u'Lost Summoner Kitty', u'title': u'Lost Summoner Kitty', u'url': u'http://store/app/725280/', u'release_date': u'2018-01-04', u'tags': [u'Strategy'], u'discount_price': 4.49, u'specs': [u'Single-player'], u'price': 4.99, u'early_access': False, u'id': u'725280', u'developer': u'Kotoshiro'}
{u'publisher': u'\u5f7c\u5cb8', u'app_name': u'Ironbound\xae', u'sentiment': u'Mostly Positive', u'price': u'Free To Play', u'early_access': False, u'id': u'328100'}
{u'app_name': u'No id at all', u'price': 2.99}
{u'app_name': u'Never reviewed', u'id': u'1'}
""".lstrip()  # noqa: E501


def test_python_2_literals(load_sample, rows, item):
    data = load_sample("steam", {"steam_reviews.json.gz": REVIEWS, "steam_games.json.gz": GAMES})
    assert (data.n_users, data.n_items, data.n_interactions) == (5, 3, 10)
    assert rows(data, "timestamp", "hours", "early_access")[:3] == [
        ("Chaos Syren", "328100", 1513382400, 2.5, "False"),
        ("Chaos Syren", "725280", 1513468800, 0.1, "False"),
        ('★ Ninja\'s "Trade" \\o/', "328100", 1501113600, 51.1, "True"),
    ]
    b = [row for row in rows(data, "hours") if row[0] == "b"]
    assert [row[1] for row in b] == ["725280", "35140"]  # one day, the order of the file
    assert math.isnan(b[0][2])
    assert item(data, "725280") == {
        "name": "Lost Summoner Kitty",
        "developer": "Kotoshiro",
        "publisher": "Kotoshiro",
        "genres": ["Action", "Casual"],
        "tags": ["Strategy"],
        "specs": ["Single-player"],
        "release_year": 2018,
        "price": 4.99,
    }
    assert item(data, "328100")["name"] == "Ironbound®"
    assert item(data, "328100")["publisher"] == "彼岸"
    assert item(data, "328100")["price"] == 0
    assert data.titles(data.item_ids.encode(["35140"])) == ["35140"]  # reviewed, not described


def test_literals_become_json_with_text_atoms():
    def texts(value):
        match value:
            case dict():
                return {str(key): texts(inner) for key, inner in value.items()}
            case list():
                return [texts(inner) for inner in value]
        return value if isinstance(value, str) else repr(value)

    records = [
        {"a": 'it\'s "q" \\ back\\\\ and \n\t nl \x07', "b": [1, 2.5, -3e-05, True, None]},
        {"a": {"b": "y", "title": "z'"}, "c": [["Beauty", 'A & B, "x"'], []], "d": ""},
        {"é": "caf\xe9 \U0001f600 日本", "t": "True, None: [1]", "q": "'", "p": '"', "s": "\\'"},
    ]
    lines = [repr(record) for record in records] + [ascii(record) for record in records]
    lines.append(r"""{u'x': u"don't 'id': 'bad'", u'w': u'\u5f7c\U0001f600\\x41', u'f': False}""")
    converted = literals_to_json(pl.Series(lines)).to_list()
    for line, text in zip(lines, converted, strict=True):
        assert json.loads(text) == texts(ast.literal_eval(line)), line


def test_a_line_that_is_no_literal_is_an_error(load_sample):
    broken = REVIEWS.replace("u'page': 1}", "u'page': 1", 1)
    with pytest.raises(DataError, match=r"steam_reviews\.json: not in the publisher's format"):
        load_sample("steam", {"steam_reviews.json.gz": broken, "steam_games.json.gz": GAMES})
