"""Labelled rows: what was known before each of them, and nothing of its own moment."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tastemaker.data import Dataset, Histories, Ragged, TrainingSet
from tastemaker.data.features import Fields, learn_features
from tastemaker.errors import DataError
from tastemaker.training.ranking_batches import RankingBatches, told

PAD = 5


def rows(labels=(1, 0, 1, 1, 0, 1, 1, 1)) -> TrainingSet:
    """User a in moments 1, 1, 2, 3, 3 with items 0 1 2 3 4; user b in 1, 1, 2 with 2 3 0."""
    frame = {
        "user": ["a"] * 5 + ["b"] * 3,
        "item": ["i0", "i1", "i2", "i3", "i4", "i2", "i3", "i0"],
        "moment": [1, 1, 2, 3, 3, 1, 1, 2],
        "liked": list(labels),
        "place": ["x", "y", "x", "x", "y", "y", "y", "x"],
    }
    return TrainingSet.whole(
        Dataset.from_frame(
            pl.DataFrame(frame),
            user="user",
            item="item",
            order="moment",
            label="liked",
            columns={"place": "categorical"},
            name="rows",
        )
    )


def gathered(data: TrainingSet, chosen, **settings):
    contexts = learn_features(data, Fields.of(data.dataset)).contexts
    batches = RankingBatches.of(data, contexts, 8, **settings)
    return batches.gather(np.array(chosen), np.random.default_rng(0))


def test_a_history_ends_before_the_moment_of_its_row():
    batch = gathered(rows(), range(8), max_length=4)
    histories = [
        row[:length].tolist() for row, length in zip(batch["items"], batch["lengths"], strict=True)
    ]
    assert histories == [
        [],  # a, moment 1
        [],
        [0],  # item 1 was not liked
        [0, 2],  # moment 3 holds 3 and 4: neither tells of the other
        [0, 2],
        [],
        [],
        [2, 3],
    ]
    assert (batch["items"].numpy() == PAD).sum() == batch["items"].numel() - 7
    assert batch["targets"].tolist() == [0, 1, 2, 3, 4, 2, 3, 0]
    assert batch["labels"].tolist() == [1, 0, 1, 1, 0, 1, 1, 1]
    assert batch["users"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_all_events_and_their_columns_when_asked_for():
    batch = gathered(rows(), [4, 2, 7], max_length=2, only_liked=False, columns=("label", "order"))
    assert batch["items"][:, :2].tolist() == [[1, 2], [0, 1], [2, 3]]  # the last two
    assert batch["label"][:, :2].tolist() == [[0, 1], [1, 0], [1, 1]]
    assert batch["order"][:, :2].tolist() == [[1, 2], [1, 1], [1, 1]]
    assert batch["next_label"].tolist() == [0, 1, 1]
    assert batch["next_order"].tolist() == [3, 2, 2]
    assert (batch["label"][:, 2:] == 0).all()


def test_rows_without_histories_carry_their_contexts():
    batch = gathered(rows(), [1, 0])
    assert "items" not in batch.rows
    assert batch["contexts"].shape == (2, 1)
    assert batch["contexts"][0, 0] == batch["contexts"][1, 0] + 1  # y after x
    assert batch["context_numbers"].shape == (2, 0)


def test_every_row_once_an_epoch():
    data = rows()
    contexts = learn_features(data, Fields.of(data.dataset)).contexts
    batches = RankingBatches.of(data, contexts, 3)
    plan = batches.plan(np.random.default_rng(0))
    assert [len(part) for part in plan] == [3, 3, 2]
    assert sorted(np.concatenate(plan).tolist()) == list(range(8))


def test_histories_of_a_training_set_hold_no_other_rows():
    data = rows()
    part = TrainingSet(data.dataset, np.array([0, 1, 3, 4, 5, 7]))
    batch = gathered(part, range(6), max_length=4)
    histories = [
        row[:length].tolist() for row, length in zip(batch["items"], batch["lengths"], strict=True)
    ]
    assert histories == [[], [], [0], [0], [], [2]]


def test_labels_are_0_and_1_and_not_all_alike():
    with pytest.raises(DataError, match=r"labels from 1 to 5, but a click is 0 or 1.*binary-label"):
        gathered(rows([5, 4, 3, 2, 1, 1, 1, 1]), [0])
    with pytest.raises(DataError, match=r"every training row has label 1, .*with-negatives"):
        gathered(rows([1] * 8), [0])


def test_what_is_told_of_the_histories_of_queries():
    items = Ragged.from_lists([[4, 2, 3], [], [1]])
    columns = {"label": np.array([0.0, 1.0, 1.0, 0.0]), "timestamp": np.arange(4)}
    found = told(Histories(items, columns), only_liked=True, columns=("timestamp", "behavior"))
    assert [found.items.row(row).tolist() for row in range(3)] == [[2, 3], [], []]
    assert {name: column.tolist() for name, column in found.columns.items()} == {
        "timestamp": [1, 2]
    }
    assert told(Histories(items), only_liked=True).items is items  # nothing says what was liked
    assert told(Histories(items, columns), only_liked=False).items is items
