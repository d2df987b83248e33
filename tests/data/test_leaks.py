from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from tastemaker.data.dataset import Dataset
from tastemaker.data.queries import Histories, Queries, Ragged
from tastemaker.data.split_rules import TEST, Assignment
from tastemaker.data.splits import Part, PartReport, Split, SplitReport, check_leaks, split
from tastemaker.data.training_set import TrainingSet
from tastemaker.errors import DataError

DAY = 86_400
START = 1_577_836_800  # 2020-01-01T00:00:00Z


def log(events) -> Dataset:
    """A log from (user, item, day) triples."""
    users, items, days = zip(*events, strict=True)
    frame = {
        "user": users,
        "item": [f"i{item}" for item in items],
        "timestamp": [START + day * DAY for day in days],
    }
    return Dataset.from_frame(frame, name="small", **{name: name for name in frame})


def made(dataset, train, *, valid=(), test=(), claim="user") -> Split:
    """A split as a broken rule could make it; parts are (history rows, target rows) a query."""

    def part(queries):
        if not queries:
            return None
        items, users = dataset.column("item"), dataset.column("user")
        told = Ragged.from_lists([history for history, _ in queries])
        targets = Ragged.from_lists([rows for _, rows in queries])
        owners = np.array([users[rows[0]] for _, rows in queries], np.int64)
        histories = Histories(Ragged(items[told.values].astype(np.int64), told.offsets))
        return Part(
            queries=Queries(owners, histories),
            targets=Ragged(items[targets.values].astype(np.int64), targets.offsets),
            users=owners,
            rows=targets.values,
            history_rows=told.values,
        )

    train = TrainingSet(dataset, np.array(train))
    report = SplitReport(PartReport(len(train), 0, 0), None, None, 0, 0, {})
    return Split("made by hand", train, part(valid), part(test), report, claim)


@pytest.fixture
def two_users() -> Dataset:
    ann = [("ann", item, day) for day, item in enumerate([1, 2, 3, 4])]  # rows 0-3
    bob = [("bob", item, day) for day, item in enumerate([2, 1, 5, 3])]  # rows 4-7
    return log(ann + bob)


def test_sound_splits_pass(two_users):
    check_leaks(
        made(
            two_users,
            [0, 1, 4, 5],
            valid=[([0, 1], [2]), ([4, 5], [6])],
            test=[([0, 1, 2], [3]), ([4, 5, 6], [7])],
        )
    )
    check_leaks(made(two_users, [0, 3, 4], test=[([0, 3], [1]), ([4], [5])], claim=None))


@pytest.mark.parametrize(
    ("train", "parts", "message"),
    [
        (
            [0, 2, 4],
            {"test": [([0], [1])]},
            r"row 2 \(user 'ann', time 2020-01-03T00:00:00.* is later than the test target 1 ",
        ),
        (
            [0, 4, 7],
            {"valid": [([0], [1]), ([4], [6])]},
            r"the training row 7 \(user 'bob', .*04T.* later than the valid target 6 \(user 'bob'",
        ),
        (
            [0, 4],
            {"valid": [([0], [3])], "test": [([0], [2])]},
            r"the valid target 3 \(user 'ann'.* is later than the test target 2 ",
        ),
        (
            [0, 4],
            {"test": [([0, 3], [1, 2])]},
            r"the history row 3 \(user 'ann'.* is later than the test target 1 ",
        ),
    ],
)
def test_leaks_within_a_user_are_named(two_users, train, parts, message):
    with pytest.raises(DataError, match=message):
        check_leaks(made(two_users, train, **parts))


@pytest.mark.parametrize(
    ("train", "parts", "message"),
    [
        (
            [0, 1, 4, 7],
            {"test": [([0, 1], [2])]},
            r"row 7 \(user 'bob', .*04T.* is later than the test target 2 \(user 'ann', .*03T",
        ),
        (
            [0, 4],
            {"valid": [([0], [1, 3])], "test": [([4], [6])]},
            r"the valid target 3 \(user 'ann'.* is later than the test target 6 \(user 'bob'",
        ),
        (
            [0, 4],
            {"test": [([0, 3], [1])]},
            r"the history row 3 \(user 'ann'.* is later than the test target 1 ",
        ),
    ],
)
def test_leaks_across_users_are_named(two_users, train, parts, message):
    with pytest.raises(DataError, match=message):
        check_leaks(made(two_users, train, **parts, claim="global"))


def test_equal_times_leak_only_against_the_stored_order():
    data = log([("ann", 1, 0), ("ann", 2, 0), ("bob", 1, 0), ("bob", 2, 0)])
    check_leaks(made(data, [0, 2], test=[([0], [1]), ([2], [3])]))
    check_leaks(made(data, [0, 2, 3], test=[([0], [1])], claim="global"))
    with pytest.raises(DataError, match=r"training row 3 .* is later than the test target 2"):
        check_leaks(made(data, [0, 3], test=[([0], [1]), ([], [2])]))


@pytest.mark.parametrize(
    ("train", "parts", "message"),
    [
        ([0, 1], {"test": [([0], [1])]}, "1 .user 'ann'.* is a test target and in an earlier part"),
        ([0], {"valid": [([0], [1])], "test": [([0], [1])]}, "is a test target and in an earlier"),
        ([0], {"test": [([0, 1], [1])]}, "1 .user 'ann'.* is a target, but told in a test history"),
        ([0], {"valid": [([0, 3], [2])], "test": [([0], [3])]}, "told in a valid history"),
        ([0], {"test": [([0, 4], [1])]}, "query 0 is of user 'ann', but its history event is 4"),
        ([0], {"test": [([0], [1, 5])]}, "query 0 is of user 'ann', but its target is 5"),
        ([0], {"test": [([0], [2, 1])]}, "every query has targets, in rising rows"),
    ],
)
@pytest.mark.parametrize("claim", ["user", "global", None])
def test_mixed_up_parts_are_refused_without_a_claim_too(two_users, train, parts, message, claim):
    with pytest.raises(DataError, match=message):
        check_leaks(made(two_users, train, **parts, claim=claim))


def test_targets_that_are_not_the_stored_items_are_refused(two_users):
    result = made(two_users, [0], test=[([0], [1])])
    wrong = Ragged.from_lists([[0]])
    with pytest.raises(DataError, match=r"target 1 .user 'ann'.* has item 'i2', not 'i1'"):
        check_leaks(
            dataclasses.replace(result, test=dataclasses.replace(result.test, targets=wrong))
        )


def test_claims_about_histories_need_their_rows(two_users):
    result = made(two_users, [0], test=[([0], [1])])
    unproved = dataclasses.replace(result.test, history_rows=None)
    with pytest.raises(DataError, match="histories without rows cannot be checked"):
        check_leaks(dataclasses.replace(result, test=unproved))


def test_rows_out_of_time_order_are_refused(two_users):
    table = two_users.interactions
    times = table.column("timestamp").to_numpy().copy()
    times[[1, 2]] = times[[2, 1]]
    shuffled = dataclasses.replace(
        two_users, interactions=table.set_column(2, "timestamp", pa.array(times))
    )
    with pytest.raises(DataError, match=r"2 \(user 'ann', .* is stored after 1 "):
        check_leaks(made(shuffled, [0, 1], test=[([0, 1], [2])]))


class Careless:
    """A rule that claims time order and asks for every user's first event."""

    def __str__(self) -> str:
        return "careless"

    def assign(self, dataset, rng):
        parts = np.zeros(dataset.n_interactions, np.int8)
        parts[dataset.user_offsets[:-1]] = TEST
        return Assignment(parts, "user", earlier_only=False)


def test_split_checks_every_rule(two_users):
    with pytest.raises(DataError, match=r"'careless' leaks: the training row 3 .* test target 0"):
        split(two_users, Careless())
