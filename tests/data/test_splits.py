from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tastemaker.data.dataset import Dataset
from tastemaker.data.folder import read_folder
from tastemaker.data.queries import Ragged
from tastemaker.data.splits import Part, Split, check_leaks, default_split, parse_split, split
from tastemaker.errors import ConfigError, DataError

DAY = 86_400
START = 1_577_836_800  # 2020-01-01T00:00:00Z


def log(events, *, time="days", split=None, label=None) -> Dataset:
    """A log from `user: items` rows, each with one event a day, or (user, item, day) triples."""
    if isinstance(events, dict):
        events = [(user, item, day) for user, row in events.items() for day, item in enumerate(row)]
    users, items, days = (list(column) for column in zip(*events, strict=True))
    frame = {"user": users, "item": [f"i{item}" for item in items]}
    if time == "days":
        frame["timestamp"] = [START + day * DAY for day in days]
    elif time == "order":
        frame["order"] = days
    if split is not None:
        frame["split"] = split
    if label is not None:
        frame["label"] = label
    roles = {name: name for name in frame}
    return Dataset.from_frame(frame, name="small", **roles)


def raw(dataset: Dataset, codes) -> list[str]:
    return [dataset.item_ids.raw(int(code)) for code in codes]


def asked(part: Part, dataset: Dataset) -> dict[str, tuple[list[str], list[str]]]:
    """User -> (history, targets), in raw ids."""
    return {
        dataset.user_ids.raw(int(user)): (
            raw(dataset, part.queries.histories.items.row(query)),
            raw(dataset, part.targets.row(query)),
        )
        for query, user in enumerate(part.users)
    }


def trained(result: Split) -> dict[str, list[str]]:
    """User -> training items, in raw ids, of users that have any."""
    dataset, histories = result.dataset, result.train.histories().items
    return {
        dataset.user_ids.raw(user): raw(dataset, histories.row(user))
        for user in range(dataset.n_users)
        if histories.lengths[user]
    }


def addressed(part: Part, dataset: Dataset) -> list[str | None]:
    return [dataset.user_ids.raw(int(user)) if user >= 0 else None for user in part.queries.users]


# Leave-one-out


def test_leave_one_out_asks_for_the_last_two_events():
    data = log({"ann": [1, 2, 3, 4], "bob": [2, 1, 5], "cat": [3, 1], "dan": [4]})
    result = split(data, "leave-one-out")
    assert trained(result) == {
        "ann": ["i1", "i2"],
        "bob": ["i2"],
        "cat": ["i3", "i1"],
        "dan": ["i4"],
    }
    assert asked(result.valid, data) == {"ann": (["i1", "i2"], ["i3"]), "bob": (["i2"], ["i1"])}
    assert asked(result.test, data) == {
        "ann": (["i1", "i2", "i3"], ["i4"]),
        "bob": (["i2", "i1"], ["i5"]),
    }
    assert result.report.notes == {"users with fewer than 3 events, wholly in training": 2}
    assert result.report.test.unknown_items == 1  # i5
    assert result.order_claim == "user"


def test_leave_one_out_without_validation_needs_two_events():
    data = log({"ann": [1, 2, 3], "cat": [3, 1], "dan": [4]})
    result = split(data, "leave-one-out:valid=0")
    assert result.valid is None
    assert asked(result.test, data) == {"ann": (["i1", "i2"], ["i3"]), "cat": (["i3"], ["i1"])}
    assert result.name == "leave-one-out:valid=0"
    assert result.report.notes == {"users with fewer than 2 events, wholly in training": 1}


def test_queries_carry_times_and_labels():
    data = log({"ann": [1, 2, 3, 4], "bob": [2, 1, 5]}, label=[1, 2, 3, 4, 5, 4, 3])
    test = split(data, "leave-one-out").test
    columns = test.queries.histories.columns
    np.testing.assert_array_equal((columns["timestamp"] - START) // DAY, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(columns["label"], [1, 2, 3, 5, 4])
    np.testing.assert_array_equal((test.queries.columns["timestamp"] - START) // DAY, [3, 2])
    np.testing.assert_array_equal(test.labels, [4, 3])
    assert columns["label"].dtype == test.labels.dtype == np.float32


def test_unlabelled_unordered_data_carry_neither():
    data = log({"ann": [1, 2, 3, 4], "bob": [2, 1, 5]}, time=None)
    test = split(data, "ratio:valid=0,test=0.5,order=random").test
    assert test.labels is None
    assert test.queries.columns == {}
    assert test.queries.histories.columns == {}


# Ratio


@pytest.mark.parametrize("valid", ["0", "0.1", "0.35"])
@pytest.mark.parametrize("order", ["time", "random"])
def test_ratio_by_user_counts_are_exact_floors(valid, order):
    lengths = range(1, 41)
    data = log({f"u{n:02}": list(range(n)) for n in lengths})
    result = split(data, f"ratio:valid={valid},test=0.3,order={order}", seed=3)
    train, both = 1 - Fraction("0.3") - Fraction(valid), 1 - Fraction("0.3")
    expected_train = [max(1, train * n // 1) for n in lengths]
    expected_both = [max(1, both * n // 1) for n in lengths]
    counts = np.diff(result.train.offsets)
    assert counts.tolist() == expected_train
    users = np.repeat(result.test.users, result.test.targets.lengths)
    assert np.bincount(users, minlength=len(lengths)).tolist() == [
        n - both for n, both in zip(lengths, expected_both, strict=True)
    ]


def test_ratio_test_part_does_not_depend_on_the_validation_share():
    data = log({f"u{n}": list(range(n)) for n in range(2, 30)})
    for order in ("time", "random"):
        one = split(data, f"ratio:valid=0,test=0.25,order={order}", seed=1)
        two = split(data, f"ratio:valid=0.25,test=0.25,order={order}", seed=1)
        np.testing.assert_array_equal(one.test.rows, two.test.rows)
        np.testing.assert_array_equal(one.train.rows, two.refit().train.rows)


def test_ratio_in_time_order_keeps_the_future_out_of_histories():
    data = log({"ann": [1, 2, 3, 4, 5], "bob": [2, 1, 5, 4, 3]})
    result = split(data, "ratio:valid=0.2,test=0.4")
    assert asked(result.valid, data)["ann"] == (["i1", "i2"], ["i3"])
    assert asked(result.test, data)["ann"] == (["i1", "i2", "i3"], ["i4", "i5"])


def test_ratio_at_random_tells_all_training_events():
    data = log({f"u{n}": list(range(20)) for n in range(5)})
    result = split(data, "ratio:valid=0.2,test=0.2,order=random")
    histories, training = result.valid.queries.histories.items, result.train.histories().items
    np.testing.assert_array_equal(histories.values, training.values)
    np.testing.assert_array_equal(histories.offsets, training.offsets)
    assert result.order_claim is None
    chosen = {tuple(training.row(user)) for user in range(5)}
    assert len(chosen) == 5  # every user's 12 of 20 are their own


def test_ratio_overall_in_time_cuts_the_log_once():
    events = [
        ("ann", 1, 0),
        ("bob", 2, 1),
        ("ann", 2, 2),
        ("bob", 1, 3),
        ("ann", 3, 4),
        ("bob", 4, 5),
    ]
    data = log(events)
    result = split(data, "ratio:valid=0,test=0.34,by=overall")
    assert trained(result) == {"ann": ["i1", "i2"], "bob": ["i2"]}  # floor(0.66 * 6) events
    assert asked(result.test, data) == {
        "ann": (["i1", "i2"], ["i3"]),
        "bob": (["i2"], ["i1", "i4"]),
    }
    assert result.order_claim == "global"


def test_ratio_overall_breaks_ties_by_stored_row():
    data = log([("ann", 1, 0), ("ann", 2, 0), ("bob", 1, 0), ("bob", 3, 0), ("cat", 1, 0)])
    result = split(data, "ratio:valid=0.2,test=0.2,by=overall")
    assert result.train.rows.tolist() == [0, 1, 2]
    assert result.valid.rows.tolist() == [3]
    assert result.test.rows.tolist() == [4]


def test_ratio_overall_at_random_counts_are_exact():
    data = log({f"u{n}": list(range(n)) for n in range(2, 30)}, time=None)
    result = split(data, "ratio:valid=0.15,test=0.1,by=overall,order=random")
    n = data.n_interactions
    assert len(result.train) == n * 75 // 100
    assert len(result.train) + len(result.valid.rows) == n * 90 // 100


def test_a_user_seen_only_in_test_is_asked_as_unknown_and_counted():
    data = log([("ann", 1, 0), ("ann", 2, 1), ("bob", 1, 2), ("bob", 3, 8), ("cat", 2, 9)])
    result = split(data, f"global-time:test_from={START + 8 * DAY}")
    assert addressed(result.test, data) == ["bob", None]
    assert asked(result.test, data) == {"bob": (["i1"], ["i3"]), "cat": ([], ["i2"])}
    report = result.report.test
    assert (report.unknown_users, report.empty_histories, report.unknown_items) == (1, 1, 1)
    assert "test: 1 queries with an empty history" in result.report.lines()


# Global time


def test_global_time_by_dates():
    data = log({"ann": [1, 2, 3, 4], "bob": [2, 1, 4, 3]})
    result = split(data, "global-time:valid_from=2020-01-03,test_from=2020-01-04T00:00:00")
    assert trained(result) == {"ann": ["i1", "i2"], "bob": ["i2", "i1"]}
    assert asked(result.valid, data)["bob"] == (["i2", "i1"], ["i4"])
    assert asked(result.test, data)["bob"] == (["i2", "i1", "i4"], ["i3"])
    assert result.order_claim == "global"


def test_global_time_keeps_one_moment_together():
    data = log([(f"u{n}", n % 3, day) for n in range(4) for day in (0, 1, 1, 2)])
    result = split(data, "global-time:valid=0,test=0.5")
    assert len(result.train) == 4
    assert len(result.test.rows) == 12


# Held-out users


def test_held_out_users_are_told_their_first_events():
    data = log({f"u{n}": list(range(10)) for n in range(10)})
    result = split(data, "held-out-users:valid=0.2,test=0.3,fold_in=0.75", seed=5)
    assert (len(result.valid), len(result.test), len(trained(result))) == (2, 3, 5)
    for part in (result.valid, result.test):
        assert (part.queries.users == -1).all()
        assert (np.diff(result.train.offsets)[part.users] == 0).all()
        for history, targets in asked(part, data).values():
            assert history == [f"i{n}" for n in range(7)]
            assert targets == ["i7", "i8", "i9"]
    assert result.report.fold_in == 5 * 7
    assert result.order_claim == "user"


def test_held_out_users_of_unordered_data_are_told_random_events():
    data = log({f"u{n}": list(range(20)) for n in range(40)}, time=None)
    result = split(data, "held-out-users:valid=0,test=0.5,fold_in=0.5")
    histories = [history for history, _ in asked(result.test, data).values()]
    assert all(len(history) == 10 for history in histories)
    assert len({tuple(history) for history in histories}) == 20
    assert result.order_claim is None


def test_held_out_users_always_have_something_told_and_something_asked():
    data = log({f"u{n}": list(range(n % 3 + 1)) for n in range(30)})
    result = split(data, "held-out-users:valid=0.3,test=0.3,fold_in=0.01")
    for part in (result.valid, result.test):
        assert (part.queries.histories.items.lengths == 1).all()
        assert (part.targets.lengths >= 1).all()
    assert result.report.notes == {"users with 1 event, never held out": 10}


# Cold items


def test_cold_items_never_occur_in_training():
    data = log({f"u{n}": [(n * k) % 20 for k in range(1, 8)] for n in range(1, 30)})
    result = split(data, "cold-items:valid=0.1,test=0.2", seed=2)
    valid, test = set(result.valid.targets.values), set(result.test.targets.values)
    assert (len(valid), len(test)) == (2, 4)
    assert not valid & test
    assert not (valid | test) & set(result.train.items)
    assert result.report.test.unknown_items == result.report.test.rows
    for query, user in enumerate(result.test.users):
        first = result.test.rows[result.test.targets.offsets[query]]
        own = np.arange(data.user_offsets[user], first)
        told = result.test.queries.histories.items.row(query)
        np.testing.assert_array_equal(told, data.column("item")[own])


# The ready-made column


def test_column_follows_the_data():
    parts = ["train", "test", "train", "Validation", "train", "test", "train"]
    data = log({"ann": [1, 2, 3, 4], "bob": [2, 1, 5]}, split=parts)
    result = split(data, "column")
    assert trained(result) == {"ann": ["i1", "i3"], "bob": ["i2", "i5"]}
    assert asked(result.valid, data) == {"ann": (["i1", "i3"], ["i4"])}
    assert asked(result.test, data) == {
        "ann": (["i1", "i3", "i4"], ["i2"]),
        "bob": (["i2", "i5"], ["i1"]),
    }


def test_column_without_validation():
    data = log({"ann": [1, 2], "bob": [2, 1]}, split=["train", "test"] * 2, time=None)
    assert split(data, "column").valid is None


def test_column_values_are_checked():
    data = log({"ann": [1, 2], "bob": [2, 1]}, split=["train", "test", "train", "tset"])
    with pytest.raises(DataError, match=r"interaction row 3.*'tset' is not a part; did you mean"):
        split(data, "column")


# Specs


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("leave-one-out", "leave-one-out"),
        ("leave-one-out:valid=1", "leave-one-out"),
        (" leave-one-out : valid = 0 ", "leave-one-out:valid=0"),
        ("leave-one-out:rows=2", "leave-one-out:rows=2"),
        ("leave-one-out:valid=0,rows=3", "leave-one-out:valid=0,rows=3"),
        ("ratio", "ratio:valid=0.1,test=0.2,by=user,order=time"),
        ("ratio:order=random,valid=0", "ratio:valid=0,test=0.2,by=user,order=random"),
        ("ratio:test=1e-05", "ratio:valid=0.1,test=0.00001,by=user,order=time"),
        ("global-time", "global-time:valid=0.1,test=0.1"),
        ("global-time:test_from=2020-01-01", "global-time:test_from=2020-01-01"),
        (
            "global-time:test_from=2020-01-01T12:00:00+02:00,valid_from=1500000000.5",
            "global-time:valid_from=1500000000.5,test_from=2020-01-01T12:00:00+02:00",
        ),
        ("held-out-users:fold_in=.5", "held-out-users:valid=0.1,test=0.1,fold_in=0.5"),
        ("cold-items:valid=0", "cold-items:valid=0,test=0.1"),
        ("column", "column"),
    ],
)
def test_specs_round_trip(spec, canonical):
    rule = parse_split(spec)
    assert str(rule) == canonical
    assert parse_split(canonical) == rule


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("leave-one-in", "unknown split 'leave-one-in'; did you mean 'leave-one-out'.*known are"),
        ("", "unknown split ''"),
        ("ratio:tset=0.1", "unknown setting 'tset'; did you mean 'test'.*takes valid, test, by"),
        ("ratio:test", "'test' has no value; write test=VALUE"),
        ("ratio:test=0.1,test=0.2", "'test' is given twice"),
        ("ratio:test=much", "test is a share from 0 to below 1, not 'much'"),
        ("ratio:test=nan", "test is a share from 0 to below 1"),
        ("ratio:test=0", "test is a share above 0"),
        ("ratio:test=20", "test is a share from 0 to below 1, not 20.0"),
        ("ratio:valid=0.5,test=0.5", "leave nothing for training"),
        ("ratio:by=usr", "unknown by 'usr'; did you mean 'user'.*user or overall"),
        ("ratio:order=rand", "unknown order 'rand'; did you mean 'random'"),
        ("leave-one-out:valid=2", "valid is 0 or 1"),
        ("leave-one-out:rows=1.5", "rows is a whole number from 1, not 1.5"),
        ("held-out-users:fold_in=1", "fold_in lies between 0 and 1"),
        ("global-time:valid=0.1,test_from=2020-01-01", "not a mixture"),
        ("global-time:valid_from=2020-01-01", "not a mixture"),
        ("global-time:test_from=2020-13-01", "'2020-13-01' is not a time; expected ISO 8601"),
        ("global-time:valid_from=2021-01-01,test_from=2020-01-01", "is not before"),
        ("column:name=fold", "it takes none"),
    ],
)
def test_bad_specs_say_what_is_allowed(spec, message):
    with pytest.raises(ConfigError, match=message):
        parse_split(spec)


# Data that cannot be split


@pytest.mark.parametrize(
    ("spec", "time", "message"),
    [
        ("leave-one-out", None, "neither a timestamp nor an order.*use ratio:order=random"),
        ("ratio", None, "needs the order of events"),
        ("global-time", None, "no clock timestamps; use ratio:order=random"),
        ("global-time", "order", "no clock timestamps; use leave-one-out or ratio:by=user"),
        ("ratio:by=overall", "order", "no clock timestamps"),
        ("column", "days", "no column with the role 'split'"),
    ],
)
def test_missing_roles_name_a_split_that_works(spec, time, message):
    data = log({"ann": [1, 2, 3, 4], "bob": [2, 1, 5]}, time=time)
    with pytest.raises(DataError, match=message):
        split(data, spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("leave-one-out", "no validation and no test .*training 4, validation 0, test 0"),
        ("ratio:valid=0.01,test=0.01", "leaves no validation interactions"),
        ("ratio:valid=0,test=0.8,by=overall", "leaves no training interactions"),
        ("global-time:test_from=2031-01-01", "leaves no test interactions"),
        ("global-time:valid_from=2019-01-01,test_from=2020-01-02", "leaves no training"),
        ("held-out-users", "leaves no validation and no test"),
        ("cold-items:valid=0,test=0.4", "training 4, test 0"),
    ],
)
def test_empty_parts_are_refused_with_their_counts(spec, message):
    data = log({"ann": [1, 2], "bob": [2, 1]})
    with pytest.raises(DataError, match=message):
        split(data, spec)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ({"ann": [1, 2, 3]}, "interactions of 1 user; a split needs at least 2 users"),
        ({"ann": [1, 1, 1], "bob": [1, 1, 1]}, "interactions of 1 item; a split needs at least 2"),
    ],
)
def test_one_user_or_one_item_is_refused(events, message):
    with pytest.raises(DataError, match=message):
        split(log(events), "leave-one-out")


def test_default_split_takes_what_the_data_offer():
    events = {"ann": [1, 2], "bob": [2, 1]}
    assert default_split(log(events, split=["train", "test"] * 2)) == "column"
    assert default_split(log(events)) == "leave-one-out"
    assert default_split(log(events, time="order")) == "leave-one-out"
    unordered = "ratio:valid=0.1,test=0.2,by=user,order=random"
    assert default_split(log(events, time=None)) == unordered


# Refit


def test_refit_trains_on_everything_before_the_test():
    data = log({"ann": [1, 2, 3, 4], "bob": [2, 1, 5], "cat": [3, 1]})
    result = split(data, "leave-one-out")
    refit = result.refit()
    assert refit.valid is None
    assert trained(refit) == {"ann": ["i1", "i2", "i3"], "bob": ["i2", "i1"], "cat": ["i3", "i1"]}
    np.testing.assert_array_equal(refit.test.rows, result.test.rows)
    assert refit.report.train.rows == len(refit.train) == len(result.train) + 2
    assert refit.report.notes == result.report.notes
    check_leaks(refit)


def test_refit_knows_users_that_only_validation_knew():
    data = log([("ann", 1, 0), ("ann", 2, 8), ("bob", 2, 0), ("cat", 1, 5), ("cat", 2, 9)])
    result = split(data, "global-time:valid_from=2020-01-05,test_from=2020-01-08")
    assert addressed(result.test, data) == ["ann", None]
    assert asked(result.test, data)["cat"] == (["i1"], ["i2"])
    assert addressed(result.refit().test, data) == ["ann", "cat"]


def test_refit_takes_in_the_whole_log_of_held_out_validation_users():
    data = log({f"u{n}": list(range(10)) for n in range(10)})
    result = split(data, "held-out-users:valid=0.2,test=0.3")
    refit = result.refit()
    assert len(refit.train) == 7 * 10
    assert (refit.test.queries.users == -1).all()
    check_leaks(refit)


# Seeds and reports


@pytest.mark.parametrize(
    "spec",
    ["ratio:order=random", "ratio:order=random,by=overall", "held-out-users", "cold-items"],
)
def test_the_seed_decides(spec):
    data = log({f"u{n}": [(n * k) % 31 for k in range(1, 12)] for n in range(1, 30)})
    one, same, other = (split(data, spec, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.test.rows, same.test.rows)
    np.testing.assert_array_equal(one.test.history_rows, same.test.history_rows)
    assert one.train.fingerprint == same.train.fingerprint != other.train.fingerprint


def test_the_report_adds_up():
    data = log({f"u{n}": list(range(10)) for n in range(10)})
    report = split(data, "held-out-users:valid=0.2,test=0.3").report
    parts = [report.train, report.valid, report.test]
    assert sum(part.rows for part in parts) + report.fold_in + report.dropped == 100
    assert [part.users for part in parts] == [5, 2, 3]
    assert report.to_json()["valid"]["unknown_users"] == 2
    assert report.lines()[0] == "train: 50 interactions of 5 users with 10 items"


# Any log

SPECS = [
    "leave-one-out",
    "leave-one-out:valid=0",
    "leave-one-out:rows=2",
    "ratio:valid=0.2,test=0.3",
    "ratio:valid=0,test=0.5",
    "ratio:valid=0.2,test=0.3,order=random",
    "ratio:valid=0.2,test=0.3,by=overall",
    "ratio:valid=0.2,test=0.3,by=overall,order=random",
    "global-time:valid=0.2,test=0.2",
    "global-time:valid=0,test=0.4",
    "held-out-users:valid=0.25,test=0.25,fold_in=0.6",
    "cold-items:valid=0.2,test=0.2",
]

events = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 8)), min_size=12, max_size=40
)


def any_split(rows, spec, seed) -> Split:
    """The split, or a discarded example where the log is too small for it."""
    try:
        return split(log([(f"u{user}", item, day) for user, item, day in rows]), spec, seed)
    except DataError as error:
        if "leaves no" not in str(error) and "needs at least 2" not in str(error):
            raise
        reject()
        raise


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=40, deadline=None)
@given(rows=events, seed=st.integers(0, 3))
def test_parts_cover_every_row_once(spec, rows, seed):
    result = any_split(rows, spec, seed)
    parts = [part for part in (result.valid, result.test) if part is not None]
    owned = [result.train.rows, *(part.rows for part in parts)]
    if spec.startswith("held-out"):
        owned += [part.history_rows for part in parts]
    every = np.sort(np.concatenate(owned))
    np.testing.assert_array_equal(every, np.arange(result.dataset.n_interactions))
    again = split(result.dataset, str(parse_split(spec)), seed)
    np.testing.assert_array_equal(again.train.rows, result.train.rows)
    np.testing.assert_array_equal(again.test.history_rows, result.test.history_rows)


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=40, deadline=None)
@given(rows=events, seed=st.integers(0, 3))
def test_queries_agree_with_a_slow_reading_of_the_rows(spec, rows, seed):
    result = any_split(rows, spec, seed)
    data, train = result.dataset, set(result.train.rows.tolist())
    users, times = data.column("user"), data.column("timestamp")
    trained_users = {int(users[row]) for row in train}
    known = set(train)
    for part in filter(None, (result.valid, result.test)):
        if spec.startswith("held-out"):
            known |= set(part.history_rows.tolist())
        told = Ragged(part.history_rows, part.queries.histories.items.offsets)
        targets = Ragged(part.rows, part.targets.offsets)
        for query, user in enumerate(part.users.tolist()):
            own = targets.row(query).tolist()
            assert part.queries.users[query] == (user if user in trained_users else -1)
            expected = [row for row in sorted(known) if users[row] == user]
            if result.order_claim or spec.startswith("cold"):
                expected = [row for row in expected if row < own[0]]
            assert told.row(query).tolist() == expected
            if result.order_claim == "user":
                assert not any(users[row] == user and row > own[0] for row in train)
            if result.order_claim == "global":
                assert max(times[list(known)]) <= min(times[own])
        known |= set(part.rows.tolist())
    check_leaks(result.refit())


# Published data

DATA = os.environ.get("TASTEMAKER_DATA", "").split(os.pathsep)


def published(name: str) -> Dataset:
    for folder in DATA:
        if folder and (Path(folder) / name / "dataset.toml").exists():
            return read_folder(Path(folder) / name)
    pytest.skip(f"the data set {name} is not in a folder of TASTEMAKER_DATA")


def test_movielens_counts_of_the_common_protocol():
    result = split(published("ml-100k"), "ratio:valid=0,test=0.2,by=user,order=time")
    assert (len(result.train), len(result.test.rows)) == (79_619, 20_381)
    assert len(result.test) == 943
    assert result.name == "ratio:valid=0,test=0.2,by=user,order=time"


@pytest.mark.parametrize(
    ("name", "train", "valid", "test"),
    [
        ("gowalla", 810_128, None, 217_242),
        ("retailrocket", 97_381, None, 2_174),
        ("tmall", 357_412, None, 10_000),
        ("amazon-book-kgat", 652_514, None, 193_920),
        ("yelp-sslrec", 182_357, 13_025, 65_128),
    ],
)
def test_published_splits_keep_their_counts(name, train, valid, test):
    result = split(published(name), "column")
    assert len(result.train) == train
    assert (None if result.valid is None else len(result.valid.rows)) == valid
    assert len(result.test.rows) == test


def test_leave_one_out_of_events_of_several_rows():
    data = log({"a": [1, 2, 3, 4, 5, 6, 7, 8], "b": [1, 2, 3, 4, 5]})
    result = split(data, "leave-one-out:rows=2")
    assert trained(result) == {"a": ["i1", "i2", "i3", "i4"], "b": [f"i{i}" for i in range(1, 6)]}
    assert asked(result.valid, data) == {"a": (["i1", "i2", "i3", "i4"], ["i5", "i6"])}
    assert asked(result.test, data)["a"][1] == ["i7", "i8"]
    assert "1 users with fewer than 3 events, wholly in training" in result.report.lines()


def test_targets_bring_their_contexts():
    frame = {
        "user": ["a", "a", "a", "a", "b", "b", "b", "b"],
        "item": ["v", "w", "x", "y", "v", "x", "w", "z"],
        "at": [1, 2, 3, 4, 1, 2, 3, 4],
        "place": ["home", "work", None, "bus", "home", "home", "work", "work"],
        "degrees": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    }
    data = Dataset.from_frame(
        frame,
        user="user",
        item="item",
        order="at",
        columns={"place": "categorical", "degrees": "numeric"},
        name="places",
    )
    test = split(data, "ratio:valid=0,test=0.5").test
    assert test.contexts["place"].tolist() == [None, "bus", "work", "work"]
    assert test.queries.columns["place"].tolist() == [None, "work"]  # of the first target
    queries = test.asked_for(np.array([3, 0, 1]))
    assert queries.users.tolist() == [1, 0, 0]
    assert queries.histories.items.lengths.tolist() == [2, 2, 2]
    assert queries.columns["place"].tolist() == ["work", None, "bus"]
    assert queries.columns["degrees"].tolist() == [8.0, 3.0, 4.0]
    plain = split(log({"a": [1, 2, 3], "b": [1, 2, 3]}), "leave-one-out").test
    assert dict(plain.contexts) == {}
