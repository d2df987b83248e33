"""Ragged arrays, histories and queries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.data.queries import Histories, Queries, Ragged

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=8)


def lists(ragged):
    return [ragged.row(index).tolist() for index in range(len(ragged))]


@given(ROWS)
def test_rows_come_back(rows):
    ragged = Ragged.from_lists(rows)
    assert lists(ragged) == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.row_index().tolist() == [i for i, row in enumerate(rows) for _ in row]


@given(ROWS.filter(bool), st.integers(1, 7), st.data())
def test_taking_rows_and_their_ends(rows, last, data):
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    taken = Ragged.from_lists(rows).take(np.array(chosen, np.int64), last=last)
    assert lists(taken) == [rows[index][-last:] for index in chosen]


@given(ROWS, st.integers(0, 7))
def test_padding_keeps_the_ends(rows, length):
    ragged = Ragged.from_lists(rows)
    places = {"left": lambda row, pad: row + pad, "right": lambda row, pad: pad + row}
    for align, place in places.items():
        expected = []
        for row in rows:
            end = row[max(0, len(row) - length) :] if length else []
            expected.append(place(end, [-1] * (length - len(end))))
        assert ragged.padded(length, -1, align=align).tolist() == expected


@given(ROWS)
def test_distinct_values_are_those_of_a_set(rows):
    found = Ragged.from_lists(rows).distinct(10)
    assert lists(found) == [sorted(set(row)) for row in rows]


def test_an_unknown_alignment_is_refused():
    with pytest.raises(ValueError, match="'left' or 'right'"):
        Ragged.from_lists([[1]]).padded(2, 0, align="middle")


def test_columns_follow_their_histories():
    items = Ragged.from_lists([[1, 2, 3], [], [4, 5]])
    histories = Histories(items, {"timestamp": np.array([10, 20, 30, 40, 50])})
    taken = histories.take(np.array([2, 0]), last=2)
    assert lists(taken.items) == [[4, 5], [2, 3]]
    assert taken.columns["timestamp"].tolist() == [40, 50, 20, 30]
    assert histories.padded_column("timestamp", 2, 0).tolist() == [[20, 30], [0, 0], [40, 50]]


def test_windows_count_from_the_end():
    items = Ragged.from_lists([[0, 1, 2, 3, 4, 5, 6], [7], [8, 9], []])
    histories = Histories(items, {"timestamp": np.arange(10) * 10})
    windows, rows = histories.windows(4, 3)
    assert lists(windows.items) == [[3, 4, 5, 6], [0, 1, 2, 3], [8, 9]]
    assert rows.tolist() == [0, 0, 2]
    assert windows.columns["timestamp"].tolist() == [30, 40, 50, 60, 0, 10, 20, 30, 80, 90]
    overlapping, _ = histories.windows(4, 2)
    assert lists(overlapping.items)[:3] == [[3, 4, 5, 6], [1, 2, 3, 4], [0, 1, 2]]


def test_users_and_histories_belong_together():
    with pytest.raises(ValueError, match="2 users but 1 histories"):
        Queries(np.array([0, 1]), Histories(Ragged.from_lists([[1]])))


@given(ROWS.filter(bool), st.data())
def test_a_tie_key_depends_on_its_query_alone(rows, data):
    size = len(rows)
    users = np.array(data.draw(st.lists(st.integers(-1, 5), min_size=size, max_size=size)))
    queries = Queries(users, Histories(Ragged.from_lists(rows)))
    keys = queries.tie_keys()
    for index in range(len(rows)):
        alone = queries.take(np.array([index]))
        assert alone.tie_keys()[0] == keys[index]


def test_tie_keys_differ_from_query_to_query():
    queries = Queries.from_histories([[item] for item in range(500)])
    assert len(set(queries.tie_keys().tolist())) == 500
    known = Queries(np.arange(500), Histories(Ragged.empty(500)))
    assert len(set(known.tie_keys().tolist())) == 500
