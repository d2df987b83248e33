"""What sequential methods share: event columns, blocks of prefixes, holes."""

from __future__ import annotations

import numpy as np
import torch

from tastemaker.data import Histories, Queries, Ragged
from tastemaker.models.sequential.encoder import Sequences
from tastemaker.models.sequential.sasrec import SASRec
from tests.models.sequences import random_log, shaken


class Clocked(SASRec):
    """SASRec that keeps what it was given."""

    columns = ("timestamp",)

    def encode(self, sequences):
        self.seen = sequences
        return super().encode(sequences)


def built(kind=SASRec, **settings):
    settings = {"hidden_size": 16, "max_length": 24, **settings}
    return kind.create(settings, random_log().dataset).eval()


def queries(columns=None, asked=None):
    items = Ragged.from_lists([[3, 4], [5], []])
    return Queries(np.full(3, -1), Histories(items, columns or {}), asked or {})


def test_columns_arrive_beside_the_items():
    model = built(Clocked)
    times = {"timestamp": np.array([10, 20, 30]), "label": np.ones(3, np.float32)}
    model.score(queries(times, {"timestamp": np.array([25, 37, 50])}))
    order = model.seen.lengths.argsort(descending=True)
    assert set(model.seen.columns) == {"timestamp", "next_timestamp"}
    assert model.seen.columns["timestamp"][order].tolist() == [[10, 20], [30, 0], [0, 0]]
    assert model.seen.columns["next_timestamp"][order].tolist() == [25, 37, 50]


def test_a_query_without_a_time_stands_at_its_last_event():
    model = built(Clocked)
    model.score(queries({"timestamp": np.array([10, 20, 30])}))
    order = model.seen.lengths.argsort(descending=True)
    assert model.seen.columns["next_timestamp"][order].tolist() == [20, 30, 0]


def test_histories_without_times_have_zeros():
    model = built(Clocked)
    model.score(queries(asked={"timestamp": np.array([25, 37, 50])}))
    assert not model.seen.columns["timestamp"].any()
    assert not model.seen.columns["next_timestamp"].any()


def test_prefixes_in_blocks_equal_prefixes_at_once():
    model = built()
    shaken(model)
    lengths = torch.randint(0, 25, (40,))
    items = torch.randint(30, (40, 24))
    items[torch.arange(24) >= lengths[:, None]] = model.n_items
    rows = Sequences(items, lengths)
    torch.testing.assert_close(
        model.encode_prefixes(rows), model.encode_last(rows), rtol=0, atol=1e-6
    )


def test_holes_are_not_attended_to():
    model = built()
    shaken(model)
    items = torch.tensor([[3, 4, 5, 6]])
    lengths = torch.tensor([4])
    valid = torch.tensor([[True, False, True, True]])
    other = torch.tensor([[3, 9, 5, 6]])
    whole = model.encode_last(Sequences(items, lengths))
    holed = model.encode_last(Sequences(items, lengths, valid=valid))
    assert (whole - holed).abs().max() > 1e-4
    torch.testing.assert_close(
        model.encode_last(Sequences(other, lengths, valid=valid)), holed, rtol=0, atol=1e-6
    )


def test_last_item_loss_is_the_cross_entropy_over_the_catalog():
    model = built()
    vectors, targets = torch.randn(5, 16), torch.randint(30, (5,))
    torch.testing.assert_close(
        model.last_item_loss(vectors, targets),
        torch.nn.functional.cross_entropy(vectors @ model.item_vectors().T, targets),
    )
