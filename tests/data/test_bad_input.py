"""Bad input gets one error naming file, row, column, value and remedy, and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tastemaker.data import Dataset, import_files, read_folder
from tastemaker.errors import DataError

LOG = "user,item,rating,time\nann,x,4,100\nbob,y,5,200\nann,y,3,300\n"
ROLES = {"user": "user", "item": "item", "label": "rating", "timestamp": "time"}


@dataclass(frozen=True)
class Case:
    """Files by name (text or bytes), what is asked, and words the message must hold."""

    name: str
    words: tuple[str, ...]
    log: str | bytes = LOG
    roles: dict[str, Any] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    file: str = "log.csv"


def table(*rows: str) -> str:
    return "user,item,rating,time\n" + "".join(f"{row}\n" for row in rows)


CASES = [
    # columns
    Case(
        "missing-column",
        ("log.csv", "'usr'", "did you mean 'user'", "rating"),
        roles={"user": "usr"},
    ),
    Case("missing-time", ("log.csv", "'when'", "user, item"), roles={"timestamp": "when"}),
    Case("unknown-feature", ("'genre'", "log.csv"), roles={"columns": {"genre": "text"}}),
    Case(
        "unknown-kind",
        ("'categorial'", "did you mean 'categorical'"),
        roles={"columns": {"rating": "categorial"}},
    ),
    Case("column-twice", ("'item'", "twice"), log="user,item,item,rating,time\na,b,c,1,2\n"),
    Case(
        "reserved-name",
        ("'label'", "rename"),
        log="user,item,label,rating,time\na,b,c,1,2\n",
        roles={"columns": {"label": "text"}},
    ),
    # nothing there
    Case("no-file", ("lag.csv", "no such file", "did you mean 'log.csv'"), file="lag.csv"),
    Case("unknown-ending", ("log.xlsx", ".parquet"), file="log.xlsx"),
    Case("empty-file", ("log.csv", "empty"), log=""),
    Case("blank-file", ("log.csv", "empty"), log="\n\n"),
    Case("header-only", ("log.csv", "no rows"), log="user,item,rating,time\n"),
    Case("header-only-no-newline", ("log.csv", "no rows"), log="user,item,rating,time"),
    # ids
    Case("all-null-ids", ("log.csv, row 2", "'user'", "empty"), log=table(",x,4,1", ",y,5,2")),
    Case(
        "null-id",
        ("log.csv, row 4", "'item'", "an item id"),
        log=table("a,x,4,1", "b,y,5,2", "c,,5,2"),
    ),
    Case(
        "null-id-after-blank-line",
        ("log.csv, row 5", "'item'"),
        log=table("a,x,4,1", "", "b,y,5,2", "c,,5,2"),
    ),
    Case(
        "null-id-after-quoted-line-break",
        ("log.csv, row 5", "'item'"),
        log=table('"a\nb",x,4,1', "b,y,5,2", "c,,5,2"),
    ),
    # times
    Case(
        "text-time",
        ("log.csv, row 3", "'time'", "'soon'", "ISO 8601"),
        log=table("a,x,4,1", "b,y,5,soon"),
    ),
    Case("empty-time", ("log.csv, row 3", "'time'", "ISO 8601"), log=table("a,x,4,1", "b,y,5,")),
    Case("infinite-time", ("log.csv, row 3", "'time'", "inf"), log=table("a,x,4,1.5", "b,y,5,inf")),
    Case("nan-time", ("log.csv, row 3", "'time'", "nan"), log=table("a,x,4,1.5", "b,y,5,nan")),
    Case(
        "no-date",
        ("log.csv, row 3", "'time'", "'2021-13-01'", "ISO 8601"),
        log=table("a,x,4,2021-12-01", "b,y,5,2021-13-01"),
    ),
    Case(
        "dates-and-numbers",
        ("log.csv, row 3", "'time'", "1600000000"),
        log=table("a,x,4,2021-12-01", "b,y,5,1600000000"),
    ),
    Case(
        "mixed-units",
        ("log.csv, row 4", "'time'", "1600000000000", "milliseconds", "seconds", "one unit"),
        log=table("a,x,4,1600000000", "b,y,5,1600000001", "b,x,5,1600000000000"),
    ),
    Case(
        "mixed-units-fractional",
        ("log.csv, row 3", "seconds", "milliseconds"),
        log=table("a,x,4,1600000000000.5", "b,y,5,1600000000.5"),
    ),
    # labels
    Case(
        "text-label",
        ("log.csv, row 3", "'rating'", "'good'", "number"),
        log=table("a,x,4,1", "b,y,good,2"),
    ),
    Case(
        "infinite-label",
        ("log.csv, row 3", "'rating'", "inf", "finite"),
        log=table("a,x,4,1", "b,y,inf,2"),
    ),
    Case(
        "nan-label",
        ("log.csv, row 2", "'rating'", "nan", "finite"),
        log=table("a,x,NaN,1", "b,y,3,2"),
    ),
    Case(
        "empty-label",
        ("log.csv, row 3", "'rating'", "finite number"),
        log=table("a,x,4,1", "b,y,,2"),
    ),
    Case(
        "huge-label",
        ("log.csv, row 2", "'rating'", "too large"),
        log=table("a,x,1e300,1", "b,y,3,2"),
    ),
    Case(
        "fractional-order",
        ("log.csv, row 3", "'rating'", "1.5", "whole number"),
        log=table("a,x,1,1", "a,y,1.5,1"),
        roles={"label": None, "order": "rating"},
    ),
    # the text itself
    Case(
        "wrong-separator", ("one column", "a semicolon", "separator=';'"), log=LOG.replace(",", ";")
    ),
    Case("tabs", ("one column", "a tab", "separator='\\t'"), log=LOG.replace(",", "\t")),
    Case("two-characters", ("'::'", "one character"), log=LOG.replace(",", "::")),
    Case(
        "ragged",
        ("log.csv, row 3", "5 values", "4", "quote"),
        log=table("a,x,4,1", "b,y,z,5,2", "c,x,1,3"),
    ),
    Case(
        "short-row",
        ("log.csv, row 3", "2 values", "4", "complete the row"),
        log=table("a,x,4,1", "b,y", "c,x,1,3"),
    ),
    Case(
        "ragged-after-text-in-numbers",
        ("log.csv, row 3", "3 values"),
        log=table("a,x,4,1", "b,y,5", "c,z,good,7"),
    ),
    Case("binary", ("log.csv", "no column 'user'"), log=b"\x00\x01\x02\n\x00\n"),
    Case(
        "latin-1",
        ("log.csv, row 3", "0xe9", "offset 30", "UTF-8", "iconv"),
        log=table("a,x,4,1", "é,y,5,2").encode("latin-1"),
    ),
    Case(
        "latin-1-header",
        ("log.csv, row 1", "0xe9", "UTF-8"),
        log=LOG.replace("user", "usér").encode("latin-1"),
    ),
    Case("utf-16", ("log.csv, row 1", "UTF-16", "iconv"), log=LOG.encode("utf-16")),
    # the tables around the log
    Case(
        "duplicate-item",
        ("items.csv, row 4", "'item'", "'x'", "row 2", "remove"),
        roles={"items": "items.csv"},
        others={"items.csv": "item,title\nx,One\ny,Two\nx,Three\n"},
    ),
    Case(
        "duplicate-user",
        ("users.csv, row 3", "'user'", "'ann'", "row 2"),
        roles={"users": "users.csv"},
        others={"users.csv": "user,age\nann,3\nann,4\nbob,1\n"},
    ),
    Case(
        "unknown-item",
        ("log.csv, row 3, column 'item'", "1 of 2 items", "'y'", "items.csv", "unmatched='drop'"),
        roles={"items": "items.csv"},
        others={"items.csv": "item,title\nx,One\n"},
    ),
    Case(
        "unknown-user",
        ("log.csv, row 2, column 'user'", "1 of 2 users", "'ann'", "users.csv", "unmatched='drop'"),
        roles={"users": "users.csv"},
        others={"users.csv": "user,age\nbob,3\n"},
    ),
    Case(
        "nothing-left",
        ("no interaction is left", "compare"),
        roles={"users": "users.csv", "unmatched": "drop"},
        others={"users.csv": "user,age\nzoe,3\n"},
    ),
    Case(
        "null-item-id",
        ("items.csv, row 3", "'item'", "item's id"),
        roles={"items": "items.csv"},
        others={"items.csv": "item,title\nx,One\n,Two\n"},
    ),
    Case(
        "empty-items",
        ("items.csv", "no rows"),
        roles={"items": "items.csv"},
        others={"items.csv": "item,title\n"},
    ),
    Case(
        "no-such-title",
        ("'titel'", "did you mean 'title'"),
        roles={"items": "items.csv", "title": "titel"},
        others={"items.csv": "item,title\nx,One\ny,Two\n"},
    ),
    Case(
        "categories-without-separator",
        ("items.csv, row 2", "'genres'", "separator"),
        roles={"items": "items.csv", "item_columns": {"genres": "categories"}},
        others={"items.csv": "item,genres\nx,A|B\ny,C\n"},
    ),
    Case(
        "text-in-numeric-feature",
        ("items.csv, row 3", "'year'", "'soon'"),
        roles={"items": "items.csv", "item_columns": {"year": "numeric"}},
        others={"items.csv": "item,year\nx,1999\ny,soon\n"},
    ),
    Case("unknown-policy", ("'keep'", "'fail' or 'drop'"), roles={"unmatched": "keep"}),
    # JSON lines
    Case(
        "broken-json",
        ("log.jsonl, row 2", "JSON object"),
        log='{"user":"a","item":"x"}\n{"user":\n',
        file="log.jsonl",
        roles={"label": None, "timestamp": None},
    ),
    Case(
        "json-mixed-types",
        ("log.jsonl, row 3", "'user'", "5 is a number", "row 1 has text", "one way"),
        log='{"user":"a","item":"x"}\n\n{"user":5,"item":"y"}\n',
        file="log.jsonl",
        roles={"label": None, "timestamp": None},
    ),
    Case(
        "json-null-id",
        ("log.jsonl, row 3", "'item'"),
        log='{"user":"a","item":"x"}\n\n{"user":"b","item":null}\n',
        file="log.jsonl",
        roles={"label": None, "timestamp": None},
    ),
    Case(
        "json-missing-column",
        ("log.jsonl", "'item'", "did you mean 'itm'"),
        log='{"user":"a","itm":"x"}\n',
        file="log.jsonl",
        roles={"label": None, "timestamp": None},
    ),
]


def before_and_after(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_clear_error_and_nothing_written(case: Case, tmp_path: Path) -> None:
    log = case.log.encode() if isinstance(case.log, str) else case.log
    (tmp_path / ("log.csv" if case.name == "no-file" else case.file)).write_bytes(log)
    for name, text in case.others.items():
        (tmp_path / name).write_text(text)
    roles = ROLES | case.roles
    for role in ("items", "users"):
        if role in roles:
            roles[role] = tmp_path / roles[role]
    before = before_and_after(tmp_path)
    with pytest.raises(DataError) as raised:
        import_files(tmp_path / case.file, **roles).save(tmp_path / "out")
    message = str(raised.value)
    for word in case.words:
        assert word in message, message
    assert "\n" not in message, message
    assert before_and_after(tmp_path) == before


def test_truncated_parquet(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": ["a", "b"] * 500, "item": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"log.parquet: not a whole Parquet file .* copy"):
        import_files(path, user="user", item="item")


def test_parquet_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": [1, 2, None], "item": [1, 2, 3]}), path)
    with pytest.raises(DataError, match=r"log.parquet, row 3, column 'user': empty"):
        import_files(path, user="user", item="item")


def test_error_in_a_late_block_names_its_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = 400_000  # several blocks of the reader
    lines = [f"user{row % 997},item{row % 101},{row % 5},{row}" for row in range(rows)]
    lines[-3] = "user1,item1,five,17"
    path.write_text("user,item,rating,time\n" + "\n".join(lines))
    with pytest.raises(DataError, match=rf"log.csv, row {rows - 1}, column 'rating': 'five'"):
        import_files(path, **ROLES)
    lines[-3] = 'user1,"",5,17'
    path.write_text("user,item,rating,time\n" + "\n".join(lines))
    with pytest.raises(DataError, match=rf"log.csv, row {rows - 1}, column 'item'"):
        import_files(path, **ROLES)


@pytest.mark.parametrize(
    ("frame", "roles", "words"),
    [
        ({"u": [[1], [2]], "i": [1, 2]}, {}, ("row 1", "'u'", "integers or text")),
        ({"u": [1.5, 2.0], "i": [1, 2]}, {}, ("row 1", "'u'", "integers or text")),
        ({"u": [1, 2], "i": ["a", None]}, {}, ("row 2", "'i'", "empty")),
        ({"u": [], "i": []}, {}, ("no rows",)),
        ({"u": [1], "i": [1], "t": [[1]]}, {"timestamp": "t"}, ("row 1", "'t'", "list")),
        ({"u": [1], "i": [1], "t": [[1]]}, {"label": "t"}, ("row 1", "'t'", "expected numbers")),
        (
            {"u": [1, 1], "i": [1, 2], "e": [[1.0, 2.0], [1.0]]},
            {"columns": {"e": "embedding"}},
            ("row 2", "'e'", "width"),
        ),
        (
            {"u": [1, 1], "i": [1, 2], "e": [[1.0, 2.0], [1.0, float("inf")]]},
            {"columns": {"e": "embedding"}},
            ("row 2", "'e'", "finite"),
        ),
        ([1, 2], {}, ("list", "no table")),
    ],
)
def test_frames(frame: Any, roles: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as raised:
        Dataset.from_frame(frame, user="u", item="i", **roles)
    for word in words:
        assert word in str(raised.value)


def test_misspelt_argument() -> None:
    with pytest.raises(TypeError, match=r"'lable'; did you mean 'label'"):
        Dataset.from_frame({"u": [1], "i": [1]}, user="u", item="i", lable="r")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"missing argument 'item'"):
        Dataset.from_frame({"u": [1], "i": [1]}, user="u")  # type: ignore[call-arg]


TOML = '[interactions]\nfile = "log.csv"\nuser = "user"\nitem = "item"\n'
FOLDERS = [
    ("bad-toml", "[interactions\n", ("dataset.toml", "not TOML", "line 1")),
    ("no-table", 'name = "x"\n', ("dataset.toml", "[interactions]")),
    ("unknown-table", TOML + '[item]\nfile = "a"\n', ("'item'", "did you mean 'items'")),
    ("unknown-key", TOML + 'timestmp = "time"\n', ("[interactions]", "'timestmp'", "'timestamp'")),
    ("no-file-key", '[interactions]\nuser = "user"\nitem = "item"\n', ("[interactions]", "'file'")),
    ("no-item-key", '[interactions]\nfile = "log.csv"\nuser = "user"\n', ("'item'", "add a line")),
    (
        "file-gone",
        TOML.replace("log", "lag"),
        ("dataset.toml", "lag.csv", "did you mean 'log.csv'"),
    ),
    ("column-gone", TOML.replace('"user"', '"usr"'), ("log.csv", "'usr'", "did you mean 'user'")),
    (
        "unknown-kind",
        TOML + '[interactions.columns]\nrating = "numerical"\n',
        ("'rating'", "'numerical'", "'numeric'"),
    ),
    (
        "unknown-column",
        TOML + '[interactions.columns]\nratting = "numeric"\n',
        ("'ratting'", "'rating'"),
    ),
    (
        "unknown-option",
        TOML + '[interactions.columns]\nrating = { kind = "text", sep = "|" }\n',
        ("'sep'", "separator"),
    ),
    ("not-a-string", TOML + "label = 3\n", ("label", "3", "string")),
    ("not-a-table", "interactions = 3\n", ("[interactions]", "3", "table")),
    (
        "no-items",
        TOML
        + '[knowledge]\nfile = "log.csv"\nhead = "user"\nrelation = "item"\n'
        + 'tail = "user"\nitem_entity = "e"\n',
        ("item_entity", "'e'"),
    ),
]


@pytest.mark.parametrize(("name", "toml", "words"), FOLDERS, ids=[name for name, _, _ in FOLDERS])
def test_descriptions(name: str, toml: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(toml)
    (tmp_path / "log.csv").write_text(LOG)
    with pytest.raises(DataError) as raised:
        read_folder(tmp_path)
    for word in words:
        assert word in str(raised.value), raised.value


def test_folder_without_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither dataset.toml nor dataset.json"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match=r"no such folder"):
        read_folder(tmp_path / "none")


def test_damaged_stored_data_set(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    import_files(tmp_path / "log.csv", **ROLES).save(tmp_path / "out")
    arrow = tmp_path / "out" / "interactions.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"interactions.arrow: missing or damaged"):
        Dataset.open(tmp_path / "out")
    (tmp_path / "out" / "dataset.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match=r"format 99"):
        Dataset.open(tmp_path / "out")
    with pytest.raises(DataError, match=r"no stored data set"):
        Dataset.open(tmp_path)
