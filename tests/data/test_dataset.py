"""The data model: order, storage, selections, clocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tastemaker.data import Dataset, Kind, Role, Schema
from tastemaker.data.storage import content_hash
from tastemaker.errors import DataError

USERS = ["bo", "al", "bo", "cy", "al", "bo"]
ITEMS = ["x", "y", "z", "x", "x", "x"]
TIMES = [30, 20, 10, 40, 20, 10]


def example(**options: Any) -> Dataset:
    frame = {"u": USERS, "i": ITEMS, "t": TIMES, "r": [1, 2, 3, 4, 5, 6]}
    return Dataset.from_frame(
        frame, **({"user": "u", "item": "i", "timestamp": "t", "label": "r"} | options)
    )


def raw_rows(data: Dataset, *names: str) -> list[tuple[Any, ...]]:
    """Interactions in stored order with raw ids."""
    columns = [data.user_ids.decode(data.column("user")).to_pylist()]
    columns.append(data.item_ids.decode(data.column("item")).to_pylist())
    columns += [data.column(name).tolist() for name in names]
    return list(zip(*columns, strict=True))


def test_sorted_by_user_time_and_source_row() -> None:
    data = example()
    assert raw_rows(data, "timestamp", "label") == [
        ("bo", "z", 10, 3.0),
        ("bo", "x", 10, 6.0),
        ("bo", "x", 30, 1.0),
        ("al", "y", 20, 2.0),
        ("al", "x", 20, 5.0),
        ("cy", "x", 40, 4.0),
    ]
    assert data.user_offsets.tolist() == [0, 3, 5, 6]
    assert (data.n_users, data.n_items, data.n_interactions) == (3, 3, 6)
    assert data.column("user").dtype == np.int32
    assert data.column("timestamp").dtype == np.int64
    assert data.column("label").dtype == np.float32
    assert all(column.num_chunks == 1 for column in data.interactions.columns)


def test_order_sorts_before_time() -> None:
    data = example(timestamp="t", order="r", label=None)
    assert data.column("order").tolist() == [1, 3, 6, 2, 5, 4]
    assert data.column("timestamp").tolist() == [30, 10, 10, 20, 20, 40]


def test_without_time_the_source_order_stays() -> None:
    data = example(timestamp=None)
    assert data.column("label").tolist() == [1, 3, 6, 2, 5, 4]
    assert not data.is_ordered
    assert not data.has_clock


@pytest.mark.parametrize(
    ("times", "clock"),
    [
        ([30, 20, 10, 40, 20, 10], True),  # small, but users begin at different times
        ([5, 0, 0, 0, 3, 9], False),  # seconds since each user's own first event
        ([1_600_000_000] * 6, True),  # one moment, but a date
        ([0, 0, 0, 0, 0, 0], False),
    ],
)
def test_clock(times: Sequence[int], clock: bool) -> None:
    data = Dataset.from_frame(
        {"u": USERS, "i": ITEMS, "t": times}, user="u", item="i", timestamp="t"
    )
    assert data.has_clock is clock
    assert data.is_ordered


SCALARS = st.fixed_dictionaries(
    {
        "user": st.one_of(st.integers(-5, 5), st.integers(2**60, 2**60 + 2)),
        "item": st.text(max_size=3),
        "time": st.integers(-(10**10), 10**10),
        "label": st.floats(-(2.0**20), 2.0**20, width=32),
        "split": st.sampled_from(["train", "valid", "test"]),
        "shop": st.one_of(st.none(), st.text(max_size=2)),
        "price": st.one_of(st.none(), st.floats(-1e9, 1e9)),
        "tags": st.lists(st.text(max_size=2), max_size=3),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SCALARS, min_size=1, max_size=60), st.booleans())
def test_random_frames_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], timed: bool
) -> None:
    names = list(rows[0])
    schema = {"shop": pa.string(), "price": pa.float64(), "tags": pa.list_(pa.string())}
    frame = pa.table(
        {name: pa.array([row[name] for row in rows], schema.get(name)) for name in names}
    )
    data = Dataset.from_frame(
        frame,
        user="user",
        item="item",
        timestamp="time" if timed else None,
        label="label",
        split="split",
        columns={"shop": "categorical", "price": "numeric", "tags": "categories"},
    )
    first_seen = {user: code for code, user in enumerate(dict.fromkeys(r["user"] for r in rows))}
    expected = sorted(rows, key=lambda r: (first_seen[r["user"]], r["time"] if timed else 0))
    folder = tmp_path_factory.mktemp("stored") / "data"
    data.save(folder)
    stored = Dataset.open(folder)
    assert stored.fingerprint == data.fingerprint == content_hash(stored)
    for one in (data, stored):
        assert raw_rows(one) == [(row["user"], row["item"]) for row in expected]
        table = one.interactions
        for name in ("label", "split", "shop", "tags"):
            assert table.column(name).to_pylist() == [row[name] for row in expected]
        prices = [np.nan if row["price"] is None else row["price"] for row in expected]
        assert np.array_equal(one.column("price"), prices, equal_nan=True)


def test_stored_data_are_mapped_and_equal(tmp_path: Path) -> None:
    data = example(
        items={
            "i": ["z", "w", "x", "y"],
            "title": ["Zed", "Why", None, "Yes"],
            "v": [[1.0], [2.0], [3.0], [4.0]],
        },
        item_columns={"title": "text", "v": "embedding"},
        users={"u": ["cy", "bo", "al"], "age": [3, 4, 5]},
        name="tiny",
    )
    data.save(tmp_path / "tiny")
    stored = Dataset.open(tmp_path / "tiny")
    assert stored.name == "tiny"
    assert stored.schema == data.schema
    assert stored.interactions.equals(data.interactions)
    assert stored.items.equals(data.items)
    assert stored.users.equals(data.users)
    assert stored.item_ids == data.item_ids
    assert not stored.column("item").flags.writeable
    with pytest.raises(FileExistsError):
        data.save(tmp_path / "tiny")
    data.save(tmp_path / "tiny", replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_feature_tables_follow_the_codes() -> None:
    data = example(
        items={
            "i": ["z", "w", "x", "y"],
            "title": ["Zed", "Why", None, "Yes"],
            "year": [1, 2, 3, 4],
        },
        users={"u": ["cy", "bo", "al"], "age": [3, 4, None]},
    )
    assert data.item_ids.ids.to_pylist() == ["x", "y", "z", "w"]  # those of the log come first
    assert data.items.column("year").to_pylist() == [3, 4, 1, 2]
    assert data.users.column("age").to_numpy().tolist()[:1] == [4]
    assert np.isnan(data.users.column("age").to_numpy()[1])
    assert data.titles([2, 0, 3]) == ["Zed", "x", "Why"]  # no title: the raw id
    assert data.schema.title == "title"
    assert data.schema.items == {"title": Kind.TEXT, "year": Kind.NUMERIC}


def test_unmatched_rows_are_dropped_and_counted() -> None:
    items = {"i": ["x", "w"], "year": [1, 2]}
    data = example(items=items, unmatched="drop")
    assert raw_rows(data) == [("bo", "x"), ("bo", "x"), ("al", "x"), ("cy", "x")]
    assert data.item_ids.ids.to_pylist() == ["x", "w"]
    assert data.dropped == {"interactions of items missing in the items table": 2}
    assert data.describe()["dropped"] == data.dropped
    users = {"u": ["cy", "dee"], "age": [1, 2]}
    data = example(items=items, users=users, unmatched="drop")
    assert raw_rows(data) == [("cy", "x")]
    assert data.user_ids.ids.to_pylist() == ["cy", "dee"]
    assert data.dropped == {
        "interactions of users missing in the users table": 5,
    }


def test_take_compact_and_emptying() -> None:
    data = example(items={"i": ["z", "w", "x", "y"], "year": [1, 2, 3, 4]})
    part = data.take(np.array([5, 0]))
    assert raw_rows(part, "label") == [("bo", "z", 3.0), ("cy", "x", 4.0)]
    assert (part.n_users, part.n_items) == (3, 4)
    assert part.user_offsets.tolist() == [0, 1, 1, 2]
    same = data.take(data.column("label") > 3)
    assert same.column("label").tolist() == [6, 5, 4]
    small = part.compact()
    assert raw_rows(small, "label") == [("bo", "z", 3.0), ("cy", "x", 4.0)]
    assert small.user_ids.ids.to_pylist() == ["bo", "cy"]
    assert small.items.column("year").to_pylist() == [3, 1]
    assert small.fingerprint != data.fingerprint
    empty = data.without_interactions()
    assert (empty.n_interactions, empty.n_users, empty.n_items) == (0, 3, 4)
    assert empty.interactions.schema == data.interactions.schema


def test_empty_data_are_stored(tmp_path: Path) -> None:
    empty = example(session="u", split="i").without_interactions()
    empty.save(tmp_path / "empty")
    stored = Dataset.open(tmp_path / "empty")
    assert stored.column("item").shape == (0,)
    assert stored.user_offsets.tolist() == [0, 0, 0, 0]
    assert stored.fingerprint == content_hash(stored)
    assert stored.describe()["interactions"] == 0
    assert stored.compact().n_items == 0


def test_replaced_interactions_are_sorted_again() -> None:
    data = example()
    other = data.with_interactions(
        np.array([2, 0, 0]), np.array([1, 1, 0]), {"timestamp": np.array([5, 9, 7])}
    )
    assert raw_rows(other, "timestamp") == [("bo", "x", 7), ("bo", "y", 9), ("cy", "y", 5)]
    assert other.interactions.column_names == ["user", "item", "timestamp"]
    assert set(other.schema.roles) == {Role.USER, Role.ITEM, Role.TIMESTAMP}
    with pytest.raises(DataError, match="no column 'tame'"):
        data.with_interactions(np.array([0]), np.array([0]), {"tame": np.array([0])})
    with pytest.raises(DataError, match="items must be codes from 0 to 2"):
        data.with_interactions(np.array([0]), np.array([3]), {})
    with pytest.raises(DataError, match="differ in length"):
        data.with_interactions(np.array([0]), np.array([1, 2]), {})


def test_unknown_column_is_refused() -> None:
    with pytest.raises(DataError, match="'lable'; did you mean 'label'"):
        example().column("lable")


def test_one_user_and_one_item() -> None:
    data = Dataset.from_frame({"u": ["a"], "i": ["x"]}, user="u", item="i")
    assert (data.n_users, data.n_items, data.n_interactions) == (1, 1, 1)
    assert data.describe()["density"] == 1.0


def test_rows_without_users_are_users() -> None:
    data = Dataset.from_frame({"i": ["x", "y", "x"]}, user=None, item="i")
    assert data.n_users == 3
    assert data.column("user").tolist() == [0, 1, 2]
    assert Role.USER not in data.schema.roles


def test_describe() -> None:
    summary = example().describe()
    assert summary["interactions_per_user"] == {
        "min": 1,
        "25%": 1.5,
        "median": 2,
        "75%": 2.5,
        "max": 3,
    }
    assert summary["time"] == {"first": "1970-01-01T00:00:10Z", "last": "1970-01-01T00:00:40Z"}
    assert summary["density"] == pytest.approx(6 / 9)
    assert summary["columns"]["interactions"]["label"] == "float"


def test_schema_round_trip_and_refusals() -> None:
    schema = Schema({Role.USER: "u", Role.ITEM: "i"}, items={"t": Kind.TEXT}, title="t")
    assert Schema.from_json(schema.to_json()) == schema
    with pytest.raises(DataError, match="'usr' is no role; did you mean 'user'"):
        Schema({"usr": "u"})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="column 'a': 'txt' is no kind"):
        Schema({}, items={"a": "txt"})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="unknown key 'item'; did you mean 'items'"):
        Schema.from_json({"item": {}})


def test_content_decides_the_fingerprint() -> None:
    assert example().fingerprint == example(name="other").fingerprint
    assert example().fingerprint != example(label=None).fingerprint
    twice = [example(columns={"r": "numeric"}) for _ in range(2)]
    assert twice[0].fingerprint == twice[1].fingerprint
