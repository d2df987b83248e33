"""Fields as codes: numbering, what training knows, what is missing, and contexts of queries."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from tastemaker.data import Dataset, TrainingSet
from tastemaker.data.features import Fields, learn_features
from tastemaker.data.schema import Feature
from tastemaker.errors import ConfigError


def clicks() -> Dataset:
    """Three users, four items; film m4 is in no row, weather has a gap, prices too."""
    return Dataset.from_frame(
        pl.DataFrame(
            {
                "user": ["a", "a", "b", "b", "c"],
                "item": ["m1", "m2", "m1", "m3", "m2"],
                "at": [1, 2, 1, 2, 1],
                "weather": ["sun", None, "rain", "sun", "fog"],
                "hour": [8.0, 10.0, 12.0, None, 20.0],
            }
        ),
        user="user",
        item="item",
        order="at",
        columns={"weather": "categorical", "hour": "numeric"},
        items=pl.DataFrame(
            {
                "item": ["m1", "m2", "m3", "m4"],
                "genres": ["war|love", "", "war", "war|sea|love"],
                "price": [1.0, 3.0, None, 100.0],
            }
        ),
        item_id="item",
        item_columns={"genres": Feature("categories", "|"), "price": "numeric"},
        users=pl.DataFrame({"user": ["a", "b", "c"], "sex": ["f", None, "m"]}),
        user_id="user",
        user_columns={"sex": "categorical"},
        name="clicks",
    )


@pytest.fixture
def data() -> TrainingSet:
    """All rows but the last."""
    return TrainingSet(clicks(), np.arange(4))


def test_fields_number_their_codes_one_after_the_other():
    fields = Fields.of(clicks())
    layout = [(entry.name, entry.start, entry.size, entry.width) for entry in fields.all]
    assert layout == [  # a size is the values, missing and unknown
        ("user", 0, 5, 1),
        ("user.sex", 5, 4, 1),
        ("item", 9, 6, 1),
        ("item.genres", 15, 5, 3),
        ("item.price", 20, 0, 0),
        ("context.weather", 20, 5, 1),
        ("context.hour", 25, 0, 0),
    ]
    assert fields.n_codes == 25


def test_codes_of_users_and_items(data):
    columns = learn_features(data, Fields.of(data.dataset))
    assert columns.users.codes.tolist() == [
        [1, 6],  # a, f
        [2, 0],  # b, not told
        [4, 8],  # c has no training row: unknown, and so is what only c is
        [4, 0],  # a user nobody knows
    ]
    assert columns.items.codes.tolist() == [
        [10, 16, 17, 0],  # m1: war, love
        [11, 0, 0, 0],
        [12, 16, 0, 0],
        [14, 16, 19, 17],  # m4 has no training row, and sea with it
        [0, 0, 0, 0],  # padding
    ]


def test_codes_of_contexts(data):
    columns = learn_features(data, Fields.of(data.dataset))
    assert columns.contexts.codes[:, 0].tolist() == [21, 0, 22, 21]  # sun, missing, rain, sun


def test_numbers_are_standardised_over_training_rows(data):
    columns = learn_features(data, Fields.of(data.dataset))
    hours = columns.contexts.numbers[:, 0]
    np.testing.assert_allclose(hours, [-np.sqrt(1.5), 0, np.sqrt(1.5), 0], rtol=1e-6)
    # m1 has two training rows, m2 one: 1, 1, 3; the price of m3 is missing
    mean, spread = 5 / 3, np.std([1, 1, 3])
    expected = [(1 - mean) / spread, (3 - mean) / spread, 0, (100 - mean) / spread, 0]
    np.testing.assert_allclose(columns.items.numbers[:, 0], expected, rtol=1e-6)


def test_buckets_hold_equal_shares_of_training_rows():
    frame = pl.DataFrame({"user": ["a", "b"] * 50, "item": ["x", "y"] * 50, "at": range(100)})
    frame = frame.with_columns(value=pl.Series(np.random.default_rng(0).permutation(100) / 7))
    dataset = Dataset.from_frame(
        frame, user="user", item="item", order="at", columns={"value": "numeric"}, name="even"
    )
    fields = Fields.of(dataset, ["context.value"], buckets=4)
    assert fields.all[0].size == 6
    columns = learn_features(TrainingSet.whole(dataset), fields)
    assert columns.contexts.numbers.shape == (100, 0)
    counts = np.bincount(columns.contexts.codes[:, 0])
    assert counts[0] == 0
    assert np.abs(counts[1:] - 25).max() <= 1
    missing = fields.code_context({"value": np.array([np.nan, -9.0, 99.0])}, 3, columns.learned)
    assert missing.codes[:, 0].tolist() == [0, 1, 4]


def test_rare_values_share_the_last_code(data):
    columns = learn_features(data, Fields.of(data.dataset), min_count=2)
    assert columns.contexts.codes[:, 0].tolist() == [21, 0, 24, 21]  # rain only once
    assert columns.items.codes[:, 0].tolist() == [10, 14, 14, 14, 0]
    # war is in three rows (m1 twice, m3), love in two
    assert columns.items.codes[0, 1:].tolist() == [16, 17, 0]


def test_contexts_of_queries(data):
    fields = Fields.of(data.dataset)
    learned = learn_features(data, fields).learned
    weather = np.array(["rain", None, "fog", "snow"], object)
    hours = np.array([10.0, np.nan, 12.0, 8.0])
    found = fields.code_context({"weather": weather, "hour": hours}, 4, learned)
    # fog is in no training row, snow in no row at all: both unknown
    assert found.codes[:, 0].tolist() == [22, 0, 24, 24]
    np.testing.assert_allclose(found.numbers[:, 0], [0, 0, np.sqrt(1.5), -np.sqrt(1.5)], atol=1e-6)
    nothing = fields.code_context({}, 2, learned)
    assert nothing.codes.tolist() == [[0], [0]]
    assert nothing.numbers.tolist() == [[0], [0]]


def test_fields_are_those_of_the_data_set_without_its_log():
    dataset = clicks()
    full, bare = Fields.of(dataset), Fields.of(dataset.without_interactions())
    assert full.all == bare.all
    assert full.contexts == bare.contexts


def test_chosen_fields_are_numbered_alone():
    fields = Fields.of(clicks(), ("item", "context.weather"))
    assert [(entry.name, entry.start) for entry in fields.all] == [
        ("item", 0),
        ("context.weather", 6),
    ]
    with pytest.raises(ConfigError, match=r"no field 'item.genre'; did you mean 'item.genres'"):
        Fields.of(clicks(), ("item.genre",))


def test_features_need_no_torch():
    check = "import sys, tastemaker.data.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
