"""HSTU for ranking: what candidates see, microbatches, and training that asks as scoring does."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.data import Dataset, Histories, Queries, Ragged, TrainingSet
from tastemaker.errors import ConfigError, DataError
from tastemaker.models.ranking.hstu_ranking import HSTURanking
from tests.models.sequences import first_batch

N_USERS, N_ITEMS = 14, 25


def labelled_log(*, clock: bool = True, ties: bool = True) -> TrainingSet:
    """Random labelled histories of 2 to 9 events, with a context; many at one moment."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 10, N_USERS)
    users = np.repeat(np.arange(N_USERS), lengths)
    steps = generator.choice([0, 1, 3_600, 10_000_000], len(users))
    moments = 1_600_000_000 + (steps if ties else np.maximum(steps, 1)).cumsum()
    every = np.arange(N_ITEMS)
    log = {
        "user": every % N_USERS,
        "item": every,
        "at": every,
        "liked": every % 2.0,
        "price": every / 10,
    }
    items = pl.DataFrame({"item": every, "kind": [f"kind {code % 4}" for code in every]})
    dataset = Dataset.from_frame(
        pl.DataFrame(log),
        user="user",
        item="item",
        label="liked",
        items=items,
        item_id="item",
        columns={"price": "numeric"},
        name="labelled",
        **({"timestamp": "at"} if clock else {"order": "at"}),
    )
    columns = {
        "timestamp" if clock else "order": moments,
        "label": generator.integers(0, 2, len(users)).astype(np.float32),
        "price": generator.random(len(users)),
    }
    items = generator.integers(0, N_ITEMS, len(users))
    return TrainingSet.whole(dataset.with_interactions(users, items, columns))


def built(data: TrainingSet | None = None, **settings) -> HSTURanking:
    data = data or labelled_log()
    sizes = {"hidden_size": 6, "token_size": 8, "num_heads": 2, "head_size": 5, "max_length": 12}
    model = HSTURanking.create({**sizes, **settings}, data.dataset).eval()
    model.stages(data)  # learns the fields
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "table" not in name:
                value.add_(0.3 * torch.randn_like(value))
            else:
                value[1:].add_(0.3 * torch.randn_like(value[1:]))
    return model


def queries_of(data: TrainingSet, rows: np.ndarray, before: np.ndarray) -> Queries:
    """Each row of the log as a query whose history is the first `before` events of its user."""
    users = data.users[rows]
    starts = data.offsets[users]
    places = np.concatenate(
        [np.arange(start, start + n) for start, n in zip(starts, before, strict=True)]
    )
    names = [
        name for name in ("timestamp", "label") if name in data.dataset.interactions.column_names
    ]
    items = Ragged.from_lengths(data.items[places], before)
    histories = Histories(items, {name: data.column(name)[places] for name in names})
    columns = {name: data.column(name)[rows] for name in (*names[:-1], "price")}
    return Queries(users, histories, columns)


@pytest.mark.parametrize("clock", [True, False])
def test_training_asks_about_each_event_as_scoring_does(clock):
    data = labelled_log(clock=clock)
    model = built(data)
    _, batch = first_batch(model, data)
    trained = model.sequence_logits(batch).detach()
    moments = data.column("timestamp" if clock else "order")
    compared = 0
    for line, row in enumerate(batch["row"][:, 0].tolist()):  # the first row of each window
        rows = np.arange(row, data.offsets[data.users[row] + 1])
        before = np.array([(moments[row:other] < moments[other]).sum() for other in rows])
        asked = queries_of(data, rows, before)
        scores = model.score(asked, torch.from_numpy(data.items[rows])[:, None])[:, 0]
        torch.testing.assert_close(trained[line, : len(rows)], scores, rtol=0, atol=1e-5)
        compared += len(rows)
    assert compared > 20


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_microbatches_score_as_one_by_one(size):
    data = labelled_log()
    rows = np.array([3, 20, 40, 41])
    asked = queries_of(data, rows, np.array([2, 0, 3, 1]))
    model = built(data, microbatch=size)
    items = torch.from_numpy(np.random.default_rng(0).integers(0, N_ITEMS, (4, 9)))
    found = model.score(asked, items)
    for column in range(items.shape[1]):
        alone = model.score(asked, items[:, column : column + 1])
        torch.testing.assert_close(found[:, column : column + 1], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.score(asked).gather(1, items), found, rtol=0, atol=1e-5)


def test_a_cached_history_answers_at_any_time():
    data = labelled_log()
    model = built(data)
    asked = queries_of(data, np.array([8]), np.array([3]))
    later = Queries(
        asked.users,
        asked.histories,
        {**asked.columns, "timestamp": asked.columns["timestamp"] + 10_000_000},
    )
    assert (model.score(asked) - model.score(later)).abs().max() > 1e-4
    items = torch.from_numpy(asked.histories.items.values)[None]
    labels = torch.from_numpy(asked.histories.columns["label"]).long()[None]
    times = torch.from_numpy(asked.histories.columns["timestamp"])[None]
    known = model.remember(model.item_tokens(items), labels, times)  # no time of asking goes in
    grown = model.remember(model.item_tokens(items[:, :2]), labels[:, :2], times[:, :2])
    for layer, other in zip(known, grown, strict=True):
        torch.testing.assert_close(layer.cut(2).keys, other.keys, rtol=0, atol=1e-6)


def test_a_label_counts_for_later_events_and_never_for_its_own():
    data = labelled_log(ties=False)
    model = built(data)
    _, batch = first_batch(model, data)
    before = model.sequence_logits(batch)
    changed = {name: value.clone() for name, value in batch.rows.items()}
    changed["label"][:, 1] = 1 - changed["label"][:, 1]
    changed["next_label"][:, 0] = changed["label"][:, 1]
    after = model.sequence_logits(type(batch)(changed))
    assert torch.equal(before[:, :2], after[:, :2])
    assert (before[:, 2:] - after[:, 2:]).abs().max() > 1e-4


def test_events_of_one_moment_do_not_know_of_each_other():
    data = labelled_log()
    model = built(data)
    _, batch = first_batch(model, data)
    times = torch.cat([batch["timestamp"][:, :1], batch["next_timestamp"]], 1)
    items = torch.cat([batch["items"][:, :1], batch["targets"]], 1)
    tied = (times[:, 1:] == times[:, :-1]) & (items[:, 1:] != model.n_items)
    line, place = tied.nonzero()[0].tolist()
    before = model.sequence_logits(batch)
    changed = {name: value.clone() for name, value in batch.rows.items()}
    changed["label"][line, place] = 1 - changed["label"][line, place]
    after = model.sequence_logits(type(batch)(changed))
    assert torch.equal(before[line, place + 1], after[line, place + 1])


def test_every_row_of_the_log_is_asked_about():
    data = labelled_log()
    model = built(data, max_length=3)
    (stage,) = model.stages(data)
    batches = stage.objectives[0].batches
    generator = np.random.default_rng(0)
    seen = []
    for rows in batches.plan(generator):
        batch = batches.gather(rows, generator)
        events = torch.cat([batch["row"][:, :1], batch["next_row"]], 1)
        valid = torch.cat([batch["items"][:, :1], batch["targets"]], 1) != N_ITEMS
        seen += events[valid].tolist()
        assert torch.equal(
            batch["context_numbers"][valid],
            torch.from_numpy(batches.contexts.numbers)[events[valid]],
        )
    assert set(seen) == set(range(len(data)))


def test_a_history_without_labels_is_of_liked_events():
    data = labelled_log()
    model = built(data)
    asked = queries_of(data, np.array([8, 9]), np.array([3, 4]))
    columns = asked.histories.columns
    liked = {**columns, "label": np.ones_like(columns["label"])}
    bare = {name: column for name, column in columns.items() if name != "label"}
    scores = [
        model.score(Queries(asked.users, Histories(asked.histories.items, known), asked.columns))
        for known in (liked, bare)
    ]
    assert torch.equal(*scores)


def test_every_parameter_of_every_layer_gets_a_gradient():
    data = labelled_log()
    model = built(data).train()
    compute, batch = first_batch(model, data)
    compute(batch).value.backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None]
    assert missing == []


def test_labels_that_are_no_clicks_are_refused():
    data = labelled_log()
    stars = {"timestamp": data.column("timestamp"), "label": 1.0 + np.arange(len(data)) % 5}
    rated = data.dataset.with_interactions(data.users, data.items, stars)
    model = HSTURanking.create({}, rated)
    with pytest.raises(DataError, match="binary-label"):
        model.stages(TrainingSet.whole(rated))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="'num_heads': 3 does not divide"):
        built(num_heads=3)
