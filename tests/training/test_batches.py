"""Batches and negatives: what is in them, and that they are functions of their generators."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data import Dataset, Ragged, TrainingSet
from tastemaker.errors import DataError
from tastemaker.training import (
    NegativeSampler,
    PairBatches,
    PrefixBatches,
    SequenceBatches,
    SharedPairBatches,
)
from tests.models.sequences import log, random_log

PAD = 6


def training_set(*histories):
    """Users 0, 1, ... with these item codes as histories, and a catalog of six items."""
    rows = [(u, i, t) for u, items in enumerate(histories) for t, i in enumerate(items)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    items = pl.DataFrame({"item": list(range(6))})
    dataset = Dataset.from_frame(
        frame, user="user", item="item", order="time", items=items, item_id="item", name="six"
    )
    return TrainingSet.whole(dataset)


def codes(data, rows):
    """Item codes of raw items, in nested lists (-1 stands for padding)."""
    return [
        [PAD if item < 0 else int(data.dataset.item_ids.encode([item])[0]) for item in row]
        for row in rows
    ]


def test_sequences_have_every_next_item_as_target():
    data = training_set([0, 1, 2, 3], [4], [5, 0])
    batches = SequenceBatches.of(data, max_length=3, batch_size=8)
    batch = batches.gather(np.array([1, 0]), np.random.default_rng(0))
    assert batch["items"].tolist() == codes(
        data,
        [
            [5, -1, -1],  # user 2: the last event is a target only
            [0, 1, 2],
        ],
    )
    assert batch["targets"].tolist() == codes(
        data,
        [
            [0, -1, -1],
            [1, 2, 3],
        ],
    )
    assert batch["users"].tolist() == [2, 0]


def test_long_sequences_keep_the_most_recent_inputs():
    data = training_set([0, 1, 2, 3, 4, 5])
    batch = SequenceBatches.of(data, max_length=2, batch_size=1).gather(
        np.array([0]), np.random.default_rng(0)
    )
    assert batch["items"].tolist() == codes(data, [[3, 4]])
    assert batch["targets"].tolist() == codes(data, [[4, 5]])


def test_windows_make_a_target_of_every_event_once():
    data = training_set([0, 1, 2, 3, 4, 5], [1, 2])
    batches = SequenceBatches.of(data, max_length=2, batch_size=9, stride=2)
    assert batches.users.tolist() == [0, 0, 0, 1]
    batch = batches.gather(np.arange(4), np.random.default_rng(0))
    assert batch["items"].tolist() == codes(data, [[3, 4], [1, 2], [0, -1], [1, -1]])
    assert batch["targets"].tolist() == codes(data, [[4, 5], [2, 3], [1, -1], [2, -1]])


def test_sequences_without_a_next_item_are_refused():
    with pytest.raises(DataError, match="no user has two"):
        SequenceBatches.of(training_set([0], [1]), max_length=3, batch_size=2)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=60), st.integers(1, 9))
def test_a_plan_visits_every_sequence_once_in_batches_of_like_length(lengths, batch_size):
    data = training_set(*[[k % 6 for k in range(n)] for n in lengths])
    batches = SequenceBatches.of(data, max_length=50, batch_size=batch_size)
    plan = batches.plan(np.random.default_rng(3))
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    again = batches.plan(np.random.default_rng(3))
    assert all(np.array_equal(a, b) for a, b in zip(plan, again, strict=True))


def test_batches_of_sequences_weigh_about_alike():
    """Steps move the weights equally far, so a batch of short sequences needs more of them."""
    generator = np.random.default_rng(0)
    lengths = np.concatenate([generator.integers(2, 10, 400), generator.integers(80, 100, 100)])
    data = training_set(*[[k % 6 for k in range(n)] for n in lengths])
    batches = SequenceBatches.of(data, max_length=100, batch_size=8)
    plan = batches.plan(generator)
    shapes = [tuple(batches.gather(rows, generator)["items"].shape) for rows in plan]
    tokens = np.array([n * width for n, width in shapes])
    assert np.all(np.abs(np.sort(tokens)[1:] - 8 * batches.widths.mean()) <= 104 / 2)
    assert len(set(shapes)) <= 5, "every further shape is a kernel to compile"
    assert {width for _, width in shapes} <= {8, 16, 80, 88, 96, 100}


def test_pairs_visit_every_interaction_with_unknown_negatives():
    data = training_set([0, 1, 2, 3, 4], [5, 0], [1, 2, 3])
    batches = PairBatches.of(data, batch_size=4, num_negatives=7)
    generator = np.random.default_rng(0)
    seen = []
    for rows in batches.plan(generator):
        batch = batches.gather(rows, generator)
        seen += list(zip(batch["users"].tolist(), batch["positives"].tolist(), strict=True))
        for user, negatives in zip(batch["users"].tolist(), batch["negatives"], strict=True):
            assert not set(negatives.tolist()) & set(data.histories().items.row(user).tolist())
    assert sorted(seen) == sorted(zip(data.users.tolist(), data.items.tolist(), strict=True))


def test_a_user_who_knows_everything_still_gets_negatives():
    sampler = NegativeSampler.build(3, known=Ragged.from_lists([[0, 1, 2], [0]]))
    drawn = sampler.draw_for(np.array([0, 1]), 5, np.random.default_rng(0))
    assert drawn.shape == (2, 5)
    assert 0 not in drawn[1]


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_popularity_sampling_follows_its_law(alpha):
    counts = np.array([1, 4, 16, 64])
    sampler = NegativeSampler.build(4, counts=counts, alpha=alpha)
    drawn = sampler.draw((200_000,), np.random.default_rng(0))
    law = counts**alpha / (counts**alpha).sum()
    assert np.bincount(drawn, minlength=4) / len(drawn) == pytest.approx(law, abs=0.005)


def test_negatives_of_unbounded_users_equal_the_plain_law():
    sampler = NegativeSampler.build(50)
    drawn = sampler.draw_for(np.arange(1000), 50, np.random.default_rng(0))
    assert np.bincount(drawn.ravel(), minlength=50) / drawn.size == pytest.approx(0.02, abs=0.002)


@pytest.mark.parametrize("count", [3, 40])
def test_what_rows_do_not_know_of_shared_items(count):
    """A few items of many rows and many items of a few rows are found from either side."""
    generator = np.random.default_rng(0)
    lists = [generator.choice(40, size, replace=False).tolist() for size in range(0, 40, 2)]
    sampler = NegativeSampler.build(40, known=Ragged.from_lists(lists))
    for rows in (np.array([7, 3, 7, 0, 19]), np.arange(20)[::-1].copy()):
        items = sampler.draw_shared(count, generator)
        assert len(set(items.tolist())) == count
        expected = [[item not in lists[row] for item in items] for row in rows]
        assert sampler.unknown(rows, items).tolist() == expected


def test_a_bit_and_a_search_agree_on_what_is_known(monkeypatch):
    generator = np.random.default_rng(0)
    lists = [generator.choice(37, size, replace=False).tolist() for size in (0, 37, 1, 20)]
    known = Ragged.from_lists(lists)
    rows = np.arange(4)
    fast = NegativeSampler.build(37, known=known).draw_for(rows, 9, np.random.default_rng(1))
    monkeypatch.setattr("tastemaker.training.samplers._BITMAP_BYTES", 0)
    slow = NegativeSampler.build(37, known=known).draw_for(rows, 9, np.random.default_rng(1))
    assert np.array_equal(fast, slow)
    assert not set(fast[3].tolist()) & set(lists[3])


def test_shared_pairs_visit_every_interaction_and_compare_unknown_items():
    data = training_set([0, 1, 2, 3, 4], [5, 0], [1, 2, 3])
    batches = SharedPairBatches.of(data, batch_size=4, num_negatives=4)
    generator = np.random.default_rng(0)
    seen = []
    for rows in batches.plan(generator):
        batch = batches.gather(rows, generator)
        seen += list(zip(batch["users"].tolist(), batch["positives"].tolist(), strict=True))
        negatives = batch["negatives"].tolist()
        assert len(set(negatives)) == 4
        for user, unknown in zip(batch["users"].tolist(), batch["unknown"].tolist(), strict=True):
            known = set(data.histories().items.row(user).tolist())
            assert unknown == [item not in known for item in negatives]
    assert sorted(seen) == sorted(zip(data.users.tolist(), data.items.tolist(), strict=True))


def test_shared_negatives_are_uniform_over_the_items_a_user_does_not_know():
    data = training_set([0, 1, 2, 3, 4, 5], [5, 0])
    batches = SharedPairBatches.of(data, batch_size=8, num_negatives=3)
    generator = np.random.default_rng(0)
    counts = np.zeros((data.n_users, data.n_items))
    for _ in range(4000):
        batch = batches.gather(np.arange(8), generator)
        drawn, unknown = batch["negatives"].numpy(), batch["unknown"].numpy()
        for row in (0, 7):  # a pair of either user
            counts[batch["users"][row], drawn[unknown[row]]] += 1
    known = data.histories().items.row(1)
    assert not counts[0].any(), "the first user knows every item"
    assert not counts[1][known].any()
    rest = np.delete(counts[1], known) / counts[1].sum()
    assert rest == pytest.approx(1 / 4, abs=0.015)


def test_more_shared_negatives_than_items_are_all_items():
    drawn = NegativeSampler.build(5).draw_shared(9, np.random.default_rng(0))
    assert sorted(drawn.tolist()) == [0, 1, 2, 3, 4]


def test_parts_of_a_batch_keep_what_is_shared():
    data = training_set([0, 1, 2], [3, 4])
    batch = PairBatches.of(data, batch_size=5).gather(np.arange(5), np.random.default_rng(0))
    parts = [batch.part(0, 2), batch.part(2, 5)]
    assert [len(part) for part in parts] == [2, 3]
    assert torch.equal(torch.cat([part["users"] for part in parts]), batch["users"])
    batches = SharedPairBatches.of(data, batch_size=5, num_negatives=3)
    batch = batches.gather(np.arange(5), np.random.default_rng(0))
    for part, n_rows in zip([batch.part(0, 2), batch.part(2, 5)], (2, 3), strict=True):
        assert part["unknown"].shape == (n_rows, 3)
        assert torch.equal(part["negatives"], batch["negatives"])


def test_a_batch_of_one_row_keeps_its_last_target():
    data = training_set([0, 1, 2, 3])
    batch = SequenceBatches.of(data, 3, 8).gather(np.arange(1), np.random.default_rng(0))
    assert batch["items"].tolist() == codes(data, [[0, 1, 2]])
    assert batch["targets"].tolist() == codes(data, [[1, 2, 3]])


def test_prefixes_are_everything_before_each_target():
    data = log([[1, 2, 3, 4], [5, 6], [7]])
    batches = PrefixBatches.of(data, max_length=2, batch_size=8)
    batch = batches.gather(np.arange(4), np.random.default_rng(0))
    n = data.n_items
    assert batch["items"].tolist() == [[1, n], [1, 2], [2, 3], [5, n]]
    wide = PrefixBatches.of(data, max_length=9, batch_size=8)
    assert wide.gather(np.arange(4), np.random.default_rng(0))["items"].shape == (4, 8)
    assert batch["lengths"].tolist() == [1, 2, 2, 1]
    assert batch["targets"].tolist() == [2, 3, 4, 6]
    assert batch["users"].tolist() == [0, 0, 0, 1]


def test_prefixes_carry_columns_and_the_value_of_the_target():
    data = log([[1, 2, 3]])
    batches = PrefixBatches.of(data, 5, 8, min_history=2, columns=("order",))
    batch = batches.gather(np.arange(1), np.random.default_rng(0))
    assert batch["order"][0, :3].tolist() == [0, 1, 0]
    assert batch["next_order"].tolist() == [2]


def test_an_epoch_has_every_prefix_once():
    data = random_log()
    batches = PrefixBatches.of(data, 5, 7)
    rows = np.concatenate(batches.plan(np.random.default_rng(0)))
    lengths = data.histories().items.lengths
    assert np.array_equal(np.sort(rows), np.arange((lengths - 1).clip(0).sum()))


def test_prefixes_need_somebody_with_two_events():
    with pytest.raises(DataError, match="no next item"):
        PrefixBatches.of(log([[0], [1]]), 5, 7)
