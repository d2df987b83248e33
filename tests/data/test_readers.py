"""Files of every format, frames and queries give the same data set."""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from tastemaker.data import Dataset, Feature, Kind, import_files, read_sql
from tastemaker.data.building import build
from tastemaker.data.schema import Role
from tastemaker.data.sources import open_source

ROLES: dict[str, Any] = {"user": "user", "item": "item", "label": "rating", "timestamp": "time"}
ROWS = [
    ("007", "naïve item", 4.0, 1_600_000_300),
    ('say "hi"', "a,b", 5.0, 1_600_000_200),
    ("007", "名前", 3.5, 1_600_000_100),
    (" 7", "line\nbreak", 1.0, 1_600_000_000),
    ("7", "NA", 2.0, 1_600_000_000),
]
NAMES = ["user", "item", "rating", "time"]


def columns() -> dict[str, list[Any]]:
    return {name: list(values) for name, values in zip(NAMES, zip(*ROWS, strict=True), strict=True)}


def quoted(value: Any) -> str:
    return '"' + value.replace('"', '""') + '"' if isinstance(value, str) else str(value)


def as_csv(separator: str = ",") -> str:
    return "\n".join([separator.join(NAMES)] + [separator.join(map(quoted, row)) for row in ROWS])


def check(data: Dataset) -> None:
    assert data.user_ids.ids.to_pylist() == ["007", 'say "hi"', " 7", "7"]
    assert data.item_ids.ids.to_pylist() == [row[1] for row in ROWS]
    assert data.column("user").tolist() == [0, 0, 1, 2, 3]
    assert data.column("item").tolist() == [2, 0, 1, 3, 4]
    assert data.column("label").tolist() == [3.5, 4.0, 5.0, 1.0, 2.0]
    assert data.column("timestamp").tolist() == [1_600_000_000 + s for s in (100, 300, 200, 0, 0)]
    assert data.column("timestamp").dtype == np.int64


def write(path: Path) -> Path:
    """The rows in the format of the file's ending."""
    table = pa.table(columns())
    match path.name.split(".", 1)[1]:
        case "csv" | "txt":
            path.write_text(as_csv())
        case "tsv":
            path.write_text(as_csv("\t"))
        case "bom.csv":
            path.write_text(as_csv(), encoding="utf-8-sig")
        case "crlf.csv":
            path.write_bytes(as_csv().replace("\n", "\r\n").replace("line\r\n", "line\n").encode())
        case "csv.gz":
            path.write_bytes(gzip.compress(as_csv().encode()))
        case "jsonl" | "ndjson":
            path.write_text(
                "\n".join(json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS)
            )
        case "parquet":
            pq.write_table(table, path, row_group_size=2)
        case "arrow" | "feather":
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize(
    "ending",
    [
        "csv",
        "txt",
        "tsv",
        "bom.csv",
        "crlf.csv",
        "csv.gz",
        "jsonl",
        "ndjson",
        "parquet",
        "arrow",
        "feather",
    ],
)
def test_files(ending: str, tmp_path: Path) -> None:
    data = import_files(write(tmp_path / f"log.{ending}"), **ROLES)
    check(data)
    assert data.name == "log"


def test_separator(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(as_csv(";"))
    check(import_files(tmp_path / "log.csv", separator=";", **ROLES))


@pytest.mark.parametrize(
    "frame",
    [
        lambda: columns(),
        lambda: pa.table(columns()),
        lambda: pl.DataFrame(columns()),
        lambda: pl.DataFrame(columns()).with_columns(pl.col("user", "item").cast(pl.Categorical)),
        lambda: pd.DataFrame(columns()),
        lambda: pd.DataFrame(columns()).astype({"user": "category", "item": "category"}),
        lambda: pd.DataFrame(columns(), index=[5, 4, 3, 2, 1]),
    ],
    ids=[
        "mapping",
        "arrow",
        "polars",
        "polars-categorical",
        "pandas",
        "pandas-category",
        "pandas-index",
    ],
)
def test_frames(frame: Any) -> None:
    check(Dataset.from_frame(frame(), **ROLES))


def test_query() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table log (user text, item text, rating real, time integer)")
    connection.executemany("insert into log values (?, ?, ?, ?)", ROWS)
    check(read_sql("select * from log", connection, **ROLES))
    data = read_sql("select * from log where rating > 3", connection, name="liked", **ROLES)
    assert (data.name, data.n_interactions) == ("liked", 3)


def test_query_with_columns_that_begin_empty() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table log (user integer, item integer, shop text)")
    rows = [(1, 1, None)] * 70_000 + [(2, 2, "east")]
    connection.executemany("insert into log values (?, ?, ?)", rows)
    data = read_sql(
        "select * from log", connection, user="user", item="item", columns={"shop": "categorical"}
    )
    assert data.interactions.column("shop").to_pylist()[-1] == "east"
    assert data.interactions.column("shop").null_count == 70_000


SECONDS = [1_600_000_000, 1_600_000_060]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1600000000", "1600000060"], SECONDS),
        (["1600000000000", "1600000060000"], SECONDS),
        (["1600000000000000", "1600000060000000"], SECONDS),
        (["1600000000000000000", "1600000060000000000"], SECONDS),
        (["1600000000.0", "1600000060.0"], SECONDS),
        (["1600000000.25", "1600000060"], [1_600_000_000.25, 1_600_000_060.0]),
        (["1600000000250", "1600000060000"], [1_600_000_000.25, 1_600_000_060.0]),
        (["2020-09-13T12:26:40Z", "2020-09-13T12:27:40Z"], SECONDS),
        (["2020-09-13 12:26:40", "2020-09-13 12:27:40"], SECONDS),
        (["2020-09-13T14:26:40+02:00", "2020-09-13T12:27:40Z"], SECONDS),
        (["2020-09-13T12:26:40", "2020-09-13T14:27:40+0200"], SECONDS),
        (["2020-09-13T12:26:40.250", "2020-09-13T12:27:40.000"], [1_600_000_000.25, 1_600_000_060]),
        (["2020-09-13T12:26:40.250000000Z", "2020-09-13T12:27"], [1_600_000_000.25, 1_600_000_020]),
        (["2020-09-13", "2020-09-14"], [1_599_955_200, 1_600_041_600]),
        (["2020-09-13", "2020-09-14T00:00:00Z"], [1_599_955_200, 1_600_041_600]),
        (["-86400", "0"], [-86400, 0]),
        (["1969-12-31", "1970-01-01"], [-86400, 0]),
    ],
)
def test_times(cells: list[str], expected: list[float], tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("u,i,t\n" + "".join(f"a,x,{cell}\n" for cell in cells))
    roles: dict[str, Any] = {"user": "u", "item": "i", "timestamp": "t"}
    file = import_files(tmp_path / "log.csv", **roles)
    frame = Dataset.from_frame({"u": ["a", "a"], "i": ["x", "x"], "t": cells}, **roles)
    whole = all(value == int(value) for value in expected)
    for data in (file, frame):
        assert data.column("timestamp").tolist() == expected
        assert data.column("timestamp").dtype == (np.int64 if whole else np.float64)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_typed_times(unit: str, zone: str | None) -> None:
    times = pa.array(SECONDS).cast(pa.timestamp("s", "UTC")).cast(pa.timestamp(unit, zone))
    frame = pa.table({"u": [1, 1], "i": [1, 2], "t": times})
    data = Dataset.from_frame(frame, user="u", item="i", timestamp="t")
    assert data.column("timestamp").tolist() == SECONDS


def test_fractions_may_come_late(tmp_path: Path) -> None:
    rows = 300_000  # several blocks; only the last row is no integer
    lines = [f"{row % 7},{row % 5},{1_600_000_000 + row}" for row in range(rows)]
    lines[-1] += ".5"
    (tmp_path / "log.csv").write_text("u,i,t\n" + "\n".join(lines))
    data = import_files(tmp_path / "log.csv", user="u", item="i", timestamp="t")
    assert data.column("timestamp").max() == 1_600_000_000 + rows - 0.5


def test_blocks_join_to_one_vocabulary(tmp_path: Path) -> None:
    rows = 1_200_000  # many blocks, and more users than may wait to be joined
    users = np.arange(rows) * 7919 % 1_100_003
    items = np.arange(rows) % 1009
    names = pc.binary_join_element_wise("u", pa.array(users).cast(pa.string()), "")
    table = pa.table({"u": names, "i": items})
    frame = Dataset.from_frame(table, user="u", item="i")
    csv.write_csv(table, tmp_path / "log.csv")
    data = import_files(tmp_path / "log.csv", user="u", item="i")
    assert data.user_ids == frame.user_ids
    assert data.interactions.equals(frame.interactions)
    assert data.user_ids.ids.equals(names.unique().cast(pa.large_string()))
    assert frame.item_ids.ids.to_pylist() == list(range(1009))


def test_json_fields_may_begin_late(tmp_path: Path) -> None:
    rows = 150_000  # more than one block
    lines = [f'{{"u": "user{row % 9}", "i": {row % 7}, "shop": null}}' for row in range(rows)]
    lines[-1] = lines[-1].replace("null", '"east"')
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    data = import_files(tmp_path / "log.jsonl", user="u", item="i", columns={"shop": "categorical"})
    assert data.n_interactions == rows
    assert data.interactions.column("shop").null_count == rows - 1


def test_ids_of_tables_may_be_typed_otherwise(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("u,i\n1,10\n2,20\n")
    pq.write_table(pa.table({"i": [20, 10, 30], "year": [1, 2, 3]}), tmp_path / "items.parquet")
    data = import_files(tmp_path / "log.csv", user="u", item="i", items=tmp_path / "items.parquet")
    assert data.item_ids.ids.to_pylist() == ["10", "20", "30"]
    assert data.items.column("year").to_pylist() == [2, 1, 3]


ITEMS = """id,title,genre,year,tags,vector,zip,note
x,One,Drama,1999,A|B,0.5 1.5,02139,
y,Two,Drama,,,1 2,10001,seen
z,Three,War,2001,C,3 4,02139,
w,Four,War,2002, D |A,5 6,02139,
"""


def test_given_kinds(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("u,id\na,x\nb,y\n")
    (tmp_path / "items.csv").write_text(ITEMS)
    data = import_files(
        tmp_path / "log.csv",
        user="u",
        item="id",
        items=tmp_path / "items.csv",
        item_columns={
            "title": Kind.TEXT,
            "genre": "categorical",
            "year": "numeric",
            "tags": Feature(Kind.CATEGORIES, "|"),
            "vector": Feature(Kind.EMBEDDING, " "),
            "note": "text",
        },
    )
    table = data.items
    assert table.column("genre").type == pa.dictionary(pa.int32(), pa.large_string())
    assert table.column("genre").to_pylist() == ["Drama", "Drama", "War", "War"]
    assert table.column("year").to_numpy()[[0, 2]].tolist() == [1999, 2001]
    assert table.column("tags").to_pylist() == [["A", "B"], [], ["C"], ["D", "A"]]
    assert table.column("vector").type == pa.list_(pa.float32(), 2)
    assert table.column("vector").to_pylist()[3] == [5, 6]
    assert table.column("note").to_pylist() == [None, "seen", None, None]
    assert data.titles([0]) == ["One"]


def test_guessed_kinds(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(ITEMS)
    log = {"u": ["a"], "id": ["x"]}
    data = Dataset.from_frame(log, user="u", item="id", items=tmp_path / "items.csv")
    assert {name: kind.value for name, kind in data.schema.items.items()} == {
        "title": "text",
        "genre": "categorical",
        "year": "numeric",
        "tags": "text",
        "vector": "text",
        "zip": "categorical",  # a leading zero is no number
        "note": "text",
    }
    typed = {
        "id": ["x", "y"],
        "v": [[1.0], [2.0]],
        "tags": [["a"], []],
        "new": [True, False],
        "png": [b"1", b"2"],
    }
    data = Dataset.from_frame(log, user="u", item="id", items=typed)
    assert list(data.schema.items.values()) == ["embedding", "categories", "categorical", "image"]


def test_roles_of_every_sort() -> None:
    frame = {
        "u": [1, 1, 2],
        "i": [5, 6, 5],
        "b": ["view", "buy", "view"],
        "w": [1, 2, 3],
        "p": [0.5, 0.25, 0.125],
        "s": ["train", "test", "train"],
        "visit": [901, 902, 901],
        "device": ["phone", None, "desk"],
    }
    data = Dataset.from_frame(
        frame,
        user="u",
        item="i",
        behavior="b",
        weight="w",
        propensity="p",
        split="s",
        session="visit",
        columns={"device": "categorical"},
    )
    assert data.column("behavior").tolist() == ["view", "buy", "view"]
    assert data.column("weight").tolist() == [1, 2, 3]
    assert data.column("propensity").dtype == np.float32
    assert (data.column("split") == "train").tolist() == [True, False, True]
    assert data.column("session").tolist() == [901, 902, 901]
    assert data.column("device").tolist() == ["phone", None, "desk"]
    assert data.user_ids.ids.type == pa.int64()


def test_one_column_in_two_uses(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("u,i,hour\na,x,7\na,y,5\n")
    data = import_files(
        tmp_path / "log.csv", user="u", item="i", order="hour", columns={"hour": "categorical"}
    )
    assert data.column("order").tolist() == [5, 7]
    assert data.column("hour").tolist() == ["5", "7"]


def test_a_catalog_without_a_log(tmp_path: Path) -> None:
    from tastemaker.data.building import FeatureTable

    (tmp_path / "items.csv").write_text(ITEMS)
    items = FeatureTable(open_source(tmp_path / "items.csv"), "id")
    data = build(None, {Role.ITEM: "id"}, {}, name="catalog", items=items)
    assert (data.n_users, data.n_items, data.n_interactions) == (0, 4, 0)
    assert data.titles([1]) == ["Two"]
