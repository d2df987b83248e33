from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data.dataset import Dataset
from tastemaker.data.filters import FilterReport, parse_filter
from tastemaker.errors import ConfigError, DataError

DAY = 86_400
START = 1_577_836_800  # 2020-01-01T00:00:00Z


def log(rows, **columns) -> Dataset:
    """A log from (user, item) rows with further columns under their roles."""
    users, items = zip(*rows, strict=True)
    frame = {"user": users, "item": items, **columns}
    return Dataset.from_frame(frame, name="small", **{name: name for name in frame})


def pairs(data: Dataset) -> list[tuple[str, str]]:
    """The rows in raw ids, as stored."""
    users = data.user_ids.decode(data.column("user")).to_pylist()
    items = data.item_ids.decode(data.column("item")).to_pylist()
    return list(zip(users, items, strict=True))


def slow_core(rows, least_user, least_item):
    """Drop what occurs too rarely until nothing does."""
    while True:
        users, items = Counter(u for u, _ in rows), Counter(i for _, i in rows)
        kept = [(u, i) for u, i in rows if users[u] >= least_user and items[i] >= least_item]
        if kept == rows:
            return rows
        rows = kept


def test_k_core_drops_until_all_have_enough():
    # z falls with its users, then c has one event left, then y has one, then b.
    rows = [("a", "w"), ("a", "x"), ("d", "w"), ("d", "x"), ("b", "x"), ("b", "y")]
    rows += [("c", "y"), ("c", "z")]
    kept, report = parse_filter("k-core:users=2,items=2").apply(log(rows, order=range(8)))
    assert pairs(kept) == [("a", "w"), ("a", "x"), ("d", "w"), ("d", "x")]
    assert (kept.n_users, kept.n_items) == (2, 2)
    assert report == FilterReport("k-core:users=2,items=2", 4, 2, 2, 4, 2, 2, rounds=5)
    assert str(report) == (
        "k-core:users=2,items=2: kept 4 interactions of 2 users with 2 items; "
        "dropped 4 interactions, 2 users and 2 items in 5 rounds"
    )


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), min_size=1, max_size=40
    ),
    least=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_k_core_is_the_fixed_point(rows, least):
    expected = slow_core(rows, *least)
    rule = parse_filter(f"k-core:users={least[0]},items={least[1]}")
    data = log(rows)
    if not expected:
        with pytest.raises(DataError, match="leaves none of the"):
            rule.apply(data)
        return
    kept, report = rule.apply(data)
    assert sorted(pairs(kept)) == sorted(expected)
    assert report.rows + report.dropped_rows == len(rows)
    assert report.users + report.dropped_users == len({user for user, _ in rows})
    assert report.items + report.dropped_items == len({item for _, item in rows})
    again, second = rule.apply(kept)
    assert pairs(again) == pairs(kept)
    assert (second.dropped_rows, second.rounds) == (0, 1)


def test_min_label_keeps_the_threshold_itself():
    rows = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z")]
    kept, report = parse_filter("min-label:threshold=4").apply(log(rows, label=[4, 3.5, 5, 1]))
    assert pairs(kept) == [("a", "x"), ("b", "x")]
    assert kept.column("label").tolist() == [4, 5]
    assert (report.dropped_rows, report.dropped_users, report.dropped_items) == (2, 0, 2)


@pytest.mark.parametrize(("keep", "labels"), [("first", [1, 2, 4]), ("last", [2, 3, 4])])
def test_deduplicate_keeps_one_of_each_pair_in_time_order(keep, labels):
    rows = [("a", "x"), ("a", "y"), ("a", "x"), ("b", "x")]
    data = log(rows, order=[1, 2, 3, 1], label=[1, 2, 3, 4])
    kept, report = parse_filter(f"deduplicate:keep={keep}").apply(data)
    assert kept.column("label").tolist() == labels
    assert (report.rows, report.dropped_rows, report.rounds) == (3, 1, 1)


@pytest.mark.parametrize(
    ("spec", "days"),
    [
        ("date-range:start=2020-01-02", [1, 2, 3]),
        ("date-range:end=2020-01-02", [0]),
        ("date-range:start=2020-01-02,end=2020-01-04", [1, 2]),
        (f"date-range:start={START + DAY},end=2020-01-03T00:00:01", [1, 2]),
        ("date-range:start=2020-01-03T01:00:00+01:00", [2, 3]),
    ],
)
def test_date_range_holds_its_start_and_not_its_end(spec, days):
    rows = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z")]
    data = log(rows, timestamp=[START + day * DAY for day in range(4)])
    kept, _ = parse_filter(spec).apply(data)
    assert ((kept.column("timestamp") - START) // DAY).tolist() == days


def test_vocabularies_and_tables_shrink_with_the_log():
    frame = {"user": ["a", "a", "b", "b"], "item": [1, 2, 1, 3], "label": [5.0, 1.0, 5.0, 1.0]}
    items = {"item": [3, 2, 1], "title": ["Three", "Two", "One"]}
    data = Dataset.from_frame(frame, user="user", item="item", label="label", items=items)
    kept, _ = parse_filter("min-label:threshold=5").apply(data)
    assert kept.n_items == 1
    assert kept.titles(np.array([0])) == ["One"]


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("k-core", "k-core:users=5,items=5"),
        ("k-core:items=10", "k-core:users=5,items=10"),
        ("min-label: threshold = 3.5", "min-label:threshold=3.5"),
        ("deduplicate", "deduplicate:keep=first"),
        ("date-range:end=2020-01-01", "date-range:end=2020-01-01"),
        ("binary-label:threshold=4", "binary-label:threshold=4"),
        ("with-negatives", "with-negatives:per_positive=1,seed=0"),
        ("with-negatives:seed=3", "with-negatives:per_positive=1,seed=3"),
        ("date-range:start=1e9,end=2020-01-01", "date-range:start=1000000000,end=2020-01-01"),
    ],
)
def test_specs_round_trip(spec, canonical):
    assert str(parse_filter(spec)) == canonical
    assert parse_filter(canonical) == parse_filter(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("kcore", "unknown filter 'kcore'; did you mean 'k-core'.*known are k-core, min-label"),
        ("k-core:user=5", "unknown setting 'user'; did you mean 'users'.*takes users, items"),
        ("k-core:users=2.5", "users is a whole number from 0, not 2.5"),
        ("k-core:users=-1", "users is a whole number from 0"),
        ("k-core:users=inf", "users is a whole number from 0"),
        ("k-core:users=five", "users is a whole number from 0, not 'five'"),
        ("min-label", "needs threshold: write min-label:threshold=VALUE"),
        ("min-label:threshold=nan", "threshold is a number"),
        ("min-label:threshold=good", "threshold is a number, not 'good'"),
        ("deduplicate:keep=frist", "unknown keep 'frist'; did you mean 'first'.*first or last"),
        ("binary-label:threshold=good", "threshold is a number, not 'good'"),
        ("with-negatives:per_positive=0", "per_positive is a whole number from 1, not 0"),
        ("with-negatives:seed=1.5", "seed is a whole number from 0, not 1.5"),
        ("date-range", "needs start, end or both"),
        ("date-range:start=yesterday", "start='yesterday' is not a time; expected ISO 8601"),
        ("date-range:start=2020-01-02,end=2020-01-01", "is not before end=2020-01-01"),
        ("date-range:end=inf", "is not a time"),
    ],
)
def test_bad_specs_say_what_is_allowed(spec, message):
    with pytest.raises(ConfigError, match=message):
        parse_filter(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("k-core:users=9,items=1", "leaves none of the 3 interactions of data set 'small'"),
        ("min-label:threshold=1", "needs a label column, .* its columns are user, item"),
        ("date-range:end=2020-01-01", "needs clock timestamps"),
        ("binary-label:threshold=1", "needs a label column"),
    ],
)
def test_filters_that_cannot_work_say_why(spec, message):
    data = log([("a", "x"), ("a", "y"), ("b", "x")])
    with pytest.raises(DataError, match=message):
        parse_filter(spec).apply(data)


def test_binary_label_keeps_every_row():
    rows = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z")]
    made, report = parse_filter("binary-label:threshold=4").apply(log(rows, label=[4, 3.5, 5, 1]))
    assert pairs(made) == rows
    assert made.column("label").tolist() == [1, 0, 1, 0]
    assert (report.rows, report.dropped_rows) == (4, 0)


def test_negatives_follow_their_positives_in_their_moment_and_context():
    frame = {
        "user": ["a", "a", "b", "b", "c"],
        "item": ["v", "w", "w", "x", "y"],
        "at": [1, 2, 1, 4, 7],
        "place": ["home", "work", "work", "home", "home"],
    }
    data = Dataset.from_frame(
        frame, user="user", item="item", order="at", columns={"place": "categorical"}, name="few"
    )
    made, report = parse_filter("with-negatives:per_positive=2,seed=5").apply(data)
    assert made.column("label").tolist() == [1, 0, 0] * 5
    assert made.column("item")[::3].tolist() == data.column("item").tolist()
    for name in ("user", "order", "place"):
        assert made.column(name).tolist() == np.repeat(data.column(name), 3).tolist()
    known = {"a": {"v", "w"}, "b": {"w", "x"}, "c": {"y"}}
    for (user, item), label in zip(pairs(made), made.column("label"), strict=True):
        assert (item in known[user]) == bool(label)
    drawn = made.column("item").reshape(5, 3)[:, 1:]
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert (report.added_rows, report.dropped_rows) == (10, 0)
    assert str(report).startswith("with-negatives:per_positive=2,seed=5: added 10 interactions")


def test_negatives_are_fixed_by_their_seed():
    rows = [(f"u{user}", f"i{(user + step) % 40}") for user in range(20) for step in range(4)]
    data = log(rows)
    first, again, other = (
        parse_filter(f"with-negatives:seed={seed}").apply(data)[0].fingerprint for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_user_with_nearly_everything_gets_what_is_left():
    rows = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z")]
    made, _ = parse_filter("with-negatives:per_positive=2").apply(log(rows))
    assert pairs(made) == [
        *[("a", "x"), ("a", "z"), ("a", "y"), ("a", "z")],
        *[("b", "x"), ("b", "y"), ("b", "z"), ("b", "y")],
    ]


def test_negatives_are_for_data_without_labels():
    with pytest.raises(DataError, match="for data without labels, but 'small' has some"):
        parse_filter("with-negatives").apply(log([("a", "x"), ("b", "y")], label=[1, 2]))
    with pytest.raises(DataError, match="no user of 'small' has an item left"):
        parse_filter("with-negatives").apply(log([("a", "x"), ("b", "x")]))
