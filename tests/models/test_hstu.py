"""HSTU: order and time, the losses, stochastic length, and data without clocks."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.data import Dataset, Histories, Queries, Ragged, TrainingSet
from tastemaker.errors import ConfigError
from tastemaker.losses.softmax import full_softmax
from tastemaker.models.sequential.encoder import Sequences
from tastemaker.models.sequential.hstu import HSTU
from tastemaker.training import fit
from tests.models.sequences import first_batch, random_log, shaken, walks


def timed_log(n_users: int = 12, n_items: int = 30, longest: int = 9) -> TrainingSet:
    """Random histories with seconds, hours or months between events, and some at one moment."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, longest + 1, n_users)
    users = np.repeat(np.arange(n_users), lengths)
    steps = generator.choice([0, 1, 3_600, 10_000_000], len(users))
    every = np.arange(max(n_users, n_items))
    codes = {"user": every % n_users, "item": every % n_items, "at": every}
    dataset = Dataset.from_frame(
        pl.DataFrame(codes), user="user", item="item", timestamp="at", name="timed"
    )
    columns = {"timestamp": 1_600_000_000 + steps.cumsum()}
    items = generator.integers(0, n_items, len(users))
    return TrainingSet.whole(dataset.with_interactions(users, items, columns))


def built(data=None, **settings):
    data = data or timed_log()
    return HSTU.create({"hidden_size": 16, "max_length": 12, **settings}, data.dataset).eval()


def sequences(rows: int = 3, length: int = 8, n_items: int = 30) -> Sequences:
    torch.manual_seed(2)
    times = 1_600_000_000 + torch.randint(0, 100_000, (rows, length + 1)).cumsum(1)
    columns = {"timestamp": times[:, :-1], "next_timestamp": times[:, -1]}
    return Sequences(torch.randint(n_items, (rows, length)), torch.full((rows,), length), columns)


def with_times(asked: Sequences, **columns) -> Sequences:
    return Sequences(asked.items, asked.lengths, {**asked.columns, **columns})


def test_editing_an_item_never_changes_earlier_states():
    model, asked = built(), sequences()
    shaken(model)
    items = asked.items.clone()
    items[:, 5] = (items[:, 5] + 1) % 30
    before = model.encode(asked)
    after = model.encode(Sequences(items, asked.lengths, asked.columns))
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amax(2).min() > 1e-4


def test_a_state_knows_the_time_of_the_next_event_and_no_later_one():
    model, asked = built(), sequences()
    shaken(model)
    before = model.encode(asked)
    times = asked.columns["timestamp"].clone()
    times[:, 5] += 3_000_000
    after = model.encode(with_times(asked, timestamp=times))
    assert torch.equal(before[:, :4], after[:, :4])  # event 5 is two or more later
    assert (before[:, 4] - after[:, 4]).abs().amax(1).min() > 1e-4  # it is the next one
    last = model.encode(with_times(asked, next_timestamp=asked.columns["next_timestamp"] + 10**7))
    assert torch.equal(before[:, :7], last[:, :7])
    assert (before[:, 7] - last[:, 7]).abs().amax(1).min() > 1e-4


def test_only_gaps_count_not_the_date():
    model, asked = built(), sequences()
    shaken(model)
    moved = {name: column + 10**8 for name, column in asked.columns.items()}
    assert torch.equal(model.encode(asked), model.encode(with_times(asked, **moved)))


def test_padding_changes_nothing():
    model, asked = built(), sequences(length=6)
    shaken(model)
    padded = Sequences(
        torch.nn.functional.pad(asked.items, (0, 4), value=model.n_items),
        asked.lengths,
        {**asked.columns, "timestamp": torch.nn.functional.pad(asked.columns["timestamp"], (0, 4))},
    )
    torch.testing.assert_close(
        model.encode_last(padded), model.encode_last(asked), rtol=0, atol=1e-6
    )


def test_a_hole_is_seen_by_nobody():
    model, asked = built(), sequences()
    shaken(model)
    valid = torch.ones_like(asked.items, dtype=torch.bool)
    valid[:, 3] = False
    items = asked.items.clone()
    items[:, 3] = (items[:, 3] + 1) % 30
    states = [
        model.encode(Sequences(row, asked.lengths, asked.columns, valid))
        for row in (asked.items, items)
    ]
    assert torch.equal(states[0][:, 4:], states[1][:, 4:])


def test_a_query_is_scored_as_the_batch_it_was_trained_in():
    data = timed_log()
    model = built(data)
    shaken(model)
    _, batch = first_batch(model, data)
    states, _ = model.next_item_states(batch)
    items, times = batch["items"], batch["timestamp"]
    lengths = (items != model.n_items).sum(1).numpy()
    last = batch["next_timestamp"].numpy()[np.arange(len(items)), lengths - 1]
    told = np.arange(items.shape[1]) < lengths[:, None]
    histories = Histories(
        Ragged.from_lengths(items.numpy()[told], lengths), {"timestamp": times.numpy()[told]}
    )
    asked = Queries(np.full(len(items), -1), histories, {"timestamp": last})
    expected = states[torch.arange(len(items)), torch.from_numpy(lengths)]
    torch.testing.assert_close(model.query_vectors(asked), expected, rtol=0, atol=1e-5)


def test_data_without_timestamps_have_no_time_weights():
    data = random_log()
    model = built(data)
    assert not any("time_weights" in name for name in model.state())
    assert model.columns == ()
    timed = built()
    assert timed.encoder.layers[0].time_weights.shape == (129,)
    assert not any("time_weights" in name for name in built(time_bias=False).state())


def test_a_history_without_times_is_one_moment():
    model = built()
    shaken(model)
    items = Ragged.from_lists([[1, 2, 3], [4, 5]])
    bare = Queries(np.array([-1, -1]), Histories(items))
    at_once = Histories(items, {"timestamp": np.full(5, 1_600_000_000)})
    torch.testing.assert_close(
        model.score(bare), model.score(Queries(np.array([-1, -1]), at_once)), rtol=0, atol=1e-6
    )


def test_scores_are_cosines_up_to_the_length_of_the_state():
    model = built()
    shaken(model)
    torch.testing.assert_close(model.item_vectors().norm(dim=1), torch.ones(30))
    asked = Queries.from_histories([[1, 2, 3], [], [4]])
    items = torch.from_numpy(np.array([[0, 5], [29, 29], [7, 1]]))
    torch.testing.assert_close(model.score(asked, items), model.score(asked).gather(1, items))


def test_negatives_that_are_all_other_items_make_the_full_softmax():
    data = timed_log()
    model = built(data)
    shaken(model)
    _, batch = first_batch(model, data)
    rows = {name: value[:1].clone() for name, value in batch.rows.items()}
    rows["items"][:, 1:], rows["targets"][:, 0] = 30, 7  # an event, and one after it: both item 7
    rows["items"][:, 0], rows["targets"][:, 1:] = 7, 30
    others = torch.tensor([[item for item in range(30) if item != 7]])
    batch = type(batch)({**rows, "negatives": others})
    states, _ = model.next_item_states(batch)
    expected = full_softmax(
        states[0, :2],
        model.item_embeddings.weight[:30],
        torch.tensor([7, 7]),
        temperature=0.05,
        cosine=True,
    )
    torch.testing.assert_close(model.loss(batch).value, expected)


def test_the_chunked_softmax_is_the_full_one():
    data = timed_log()
    model = built(data, loss="chunked")
    shaken(model)
    compute, batch = first_batch(model, data)
    states, targets = model.next_item_states(batch)
    valid = targets != data.n_items
    expected = full_softmax(
        states[valid],
        model.item_embeddings.weight[:30],
        targets[valid],
        temperature=0.05,
        cosine=True,
    )
    torch.testing.assert_close(compute(batch).value, expected)


@pytest.mark.parametrize("loss", ["sampled", "chunked"])
def test_every_loss_learns_a_ring(loss):
    data = walks()
    model = HSTU.create(
        {
            "loss": loss,
            "num_negatives": 8,
            "hidden_size": 16,
            "max_length": 12,
            "epochs": 10,
            "batch_size": 12,
            "learning_rate": 1e-2,
            "dropout": 0.0,
            "precision": "float32",
            "monitor": None,
        },
        data.dataset,
    )
    fit(model, data, seed=0, device="cpu")
    model.eval()
    asked = Queries.from_histories([[item - 2, item - 1, item] for item in range(2, 12)])
    best = model.recommend(asked, 1, exclude=asked.histories.items).items.squeeze(1)
    assert (best == torch.arange(3, 13)).sum() >= 9


def batches_of(data, **settings):
    (stage,) = built(data, **settings).stages(data)
    return stage.objectives[0].batches


def test_stochastic_length_two_changes_nothing():
    data = timed_log(longest=13)
    plain, thinned = batches_of(data), batches_of(data, length_alpha=2.0)
    assert type(plain) is type(thinned)


def test_long_sequences_are_thinned_to_a_part_of_their_events():
    data = timed_log(n_users=200, longest=40)
    batches = batches_of(data, max_length=36, length_alpha=1.5, loss="chunked")
    whole = batches_of(data, max_length=36, loss="chunked")
    assert batches.thinned_length == 15  # 36 ** .75 is 14.7
    generator = np.random.default_rng(0)
    n_rows = len(whole.users)
    long, kept_whole, chances = 0, 0, 0.0

    def events(batch, line):
        """Item, target and times of each event of a row."""
        names = ("items", "targets", "timestamp", "next_timestamp")
        length = int((batch["items"][line] != 30).sum())
        return list(zip(*(batch[name][line, :length].tolist() for name in names), strict=True))

    for rows in batches.plan(generator):
        batch, own = batches.gather(rows, generator), whole.gather(rows % n_rows, generator)
        for line, row in enumerate(rows):
            found, every = events(batch, line), events(own, line)
            rest = iter(every)
            assert all(event in rest for event in found)  # each with its target, in order
            assert len(found) == (15 if row >= n_rows else len(every))
            assert row < n_rows or len(every) > 15
            if len(every) > 15:
                long += 1
                kept_whole += row < n_rows
                chances += min(1.0, 36**1.5 / len(every) ** 2)
    assert kept_whole == pytest.approx(chances, abs=1.5 * long**0.5)


def test_thinned_rows_keep_the_next_time_of_each_event():
    data = timed_log(n_users=60, longest=40)
    model = built(data, max_length=36, length_alpha=1.1)
    compute, batch = first_batch(model, data)
    assert torch.isfinite(compute(batch).value)
    assert batch["next_timestamp"].shape == batch["items"].shape


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="'num_heads': 3 does not divide hidden_size, 16"):
        built(num_heads=3)
    built(num_heads=3, query_size=5, value_size=4)
