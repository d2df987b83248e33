from __future__ import annotations

import numpy as np
import pytest

from tastemaker.data.dataset import Dataset
from tastemaker.data.training_set import TrainingSet
from tastemaker.errors import DataError


@pytest.fixture
def data() -> Dataset:
    frame = {
        "user": ["a", "a", "a", "b", "c", "c", "c", "c"],
        "item": ["x", "y", "x", "z", "y", "y", "w", "x"],
        "order": [1, 2, 3, 1, 1, 2, 3, 4],
        "label": [5.0, 4.0, 3.0, 2.0, 1.0, 2.0, 3.0, 4.0],
    }
    return Dataset.from_frame(frame, name="tiny", **{name: name for name in frame})


@pytest.fixture
def train(data: Dataset) -> TrainingSet:
    return TrainingSet(data, np.array([0, 1, 2, 4, 5, 7]))


def test_rows_columns_and_sizes(data, train):
    assert len(train) == 6
    assert (train.n_users, train.n_items) == (3, 4)
    assert train.users.tolist() == [0, 0, 0, 2, 2, 2]
    assert data.item_ids.decode(train.items).to_pylist() == ["x", "y", "x", "y", "y", "x"]
    assert train.users.dtype == train.items.dtype == np.int64
    assert train.column("label").tolist() == [5, 4, 3, 1, 2, 4]


def test_histories_of_all_users(data, train):
    histories = train.histories(columns=("label",))
    assert len(histories) == 3
    assert histories.items.lengths.tolist() == [3, 0, 3]
    assert data.item_ids.decode(histories.items.row(2)).to_pylist() == ["y", "y", "x"]
    assert histories.columns["label"].tolist() == [5, 4, 3, 1, 2, 4]
    assert train.histories().items.values is histories.items.values


def test_matrix_has_one_for_each_distinct_pair(data, train):
    items = dict(zip(["x", "y", "z", "w"], data.item_ids.encode(["x", "y", "z", "w"]), strict=True))
    expected = np.zeros((3, 4), np.float32)
    for user, item in [(0, "x"), (0, "y"), (2, "y"), (2, "x")]:
        expected[user, items[item]] = 1
    matrix = train.matrix()
    np.testing.assert_array_equal(matrix.toarray(), expected)
    assert matrix.dtype == np.float32
    assert matrix.has_canonical_format
    assert train.item_counts()[[items["x"], items["y"], items["z"], items["w"]]].tolist() == [
        3,
        3,
        0,
        0,
    ]


def test_the_matrix_of_all_rows_leaves_the_data_alone(data):
    before = data.column("item").copy()
    TrainingSet.whole(data).matrix()
    np.testing.assert_array_equal(data.column("item"), before)


def test_fingerprint_depends_on_the_rows(data, train):
    assert train.fingerprint == TrainingSet(data, train.rows.copy()).fingerprint
    assert train.fingerprint != TrainingSet.whole(data).fingerprint


def test_rows_are_checked(data):
    with pytest.raises(DataError, match="no interactions to learn from"):
        TrainingSet(data, np.empty(0, np.int64))
    for rows in ([1, 1], [2, 1], [-1, 3], [3, 8]):
        with pytest.raises(ValueError, match="training rows rise from 0 to at most 7"):
            TrainingSet(data, np.array(rows))


def test_unknown_columns_are_refused(train):
    with pytest.raises(DataError, match="labels"):
        train.column("labels")
