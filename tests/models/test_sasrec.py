"""SASRec: order, padding, the loss switch, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tastemaker.data import Queries
from tastemaker.errors import ConfigError
from tastemaker.models.sequential.encoder import Sequences
from tastemaker.models.sequential.sasrec import SASRec
from tastemaker.training import fit
from tests.models.sequences import first_batch, log, random_log, shaken, walks, whole

LOSSES = ("chunked", "full", "sampled", "bce", "gbce")


def built(data=None, **settings):
    data = data or random_log()
    settings = {"hidden_size": 16, "max_length": 12, **settings}
    return SASRec.create(settings, data.dataset).eval()


def test_editing_an_item_never_changes_earlier_states():
    model = built()
    shaken(model)
    items = torch.randint(30, (3, 8))
    changed = items.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 30
    before, after = model.encode(whole(items)), model.encode(whole(changed))
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert (before[:, 5:] - after[:, 5:]).abs().amax(2).min() > 1e-4


def test_padding_changes_nothing():
    model = built()
    shaken(model)
    items = torch.randint(30, (3, 6))
    padded = torch.nn.functional.pad(items, (0, 4), value=model.n_items)
    lengths = torch.full((3,), 6)
    long, short = Sequences(padded, lengths), Sequences(items, lengths)
    torch.testing.assert_close(model.encode_last(long), model.encode_last(short), rtol=0, atol=1e-6)


def test_without_blocks_only_the_last_item_and_its_position_count():
    model = built(num_layers=0)
    shaken(model)
    scores = model.score(Queries.from_histories([[3, 4, 5], [7, 8, 5], [3, 4, 6]]))
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-6)
    assert (scores[0] - scores[2]).abs().max() > 1e-3


def test_only_the_most_recent_events_are_looked_at():
    model = built(max_length=4)
    shaken(model)
    scores = model.score(Queries.from_histories([[9, 9, 9, 1, 2, 3, 4], [1, 2, 3, 4]]))
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-6)


def test_an_empty_history_is_answered_by_the_start_alone():
    model = built()
    shaken(model)
    scores = model.score(Queries.from_histories([[], [2, 3]]))
    torch.testing.assert_close(scores[0], model.item_vectors() @ model.start)


@pytest.mark.parametrize("loss", ["chunked", "full"])
def test_the_first_loss_is_near_the_log_of_the_catalog(loss):
    data = random_log(n_items=1000)
    compute, batch = first_batch(built(data, loss=loss), data)
    assert compute(batch).value.item() == pytest.approx(math.log(1000), rel=0.02)


def test_full_and_chunked_softmax_are_one_loss():
    data = random_log()
    results = []
    for loss in ("full", "chunked"):
        model = built(data, loss=loss, cosine=True, temperature=0.2)
        shaken(model)
        compute, batch = first_batch(model, data)
        value = compute(batch).value
        value.backward()
        results.append((value.detach(), model.item_embeddings.weight.grad))
    torch.testing.assert_close(*results)


def test_gbce_without_calibration_is_bce():
    data = random_log()
    model = built(data, loss="gbce", calibration=0.0, num_negatives=1)
    shaken(model)
    compute, batch = first_batch(model, data)
    plain = SASRec(built(data, loss="bce").config, data.dataset).eval()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(compute(batch).value, plain.loss(batch).value)


def test_the_loss_counts_each_event_once_and_no_padding():
    data = log([[0, 1, 2, 3], [4, 5]])
    compute, batch = first_batch(built(data, max_length=20), data)
    counted = compute(batch)
    assert float(counted.weight) == 6  # four events of the first row, two of the second
    items, targets = batch["items"], batch["targets"]
    padded = type(batch)(
        {
            "items": torch.nn.functional.pad(items, (0, 3), value=data.n_items),
            "targets": torch.nn.functional.pad(targets, (0, 3), value=data.n_items),
        }
    )
    torch.testing.assert_close(compute(padded).value, counted.value)


@pytest.mark.parametrize(("loss", "shape"), [("sampled", (2, 7)), ("bce", (2, 4, 7))])
def test_negatives_are_nothing_the_user_has(loss, shape):
    data = log([[0, 1, 2, 3], [4, 5]], n_items=9)
    model = built(data, loss=loss, num_negatives=7, max_length=3)
    _, batch = first_batch(model, data)
    drawn = batch["negatives"]
    assert drawn.shape == shape
    for user, row in zip(batch["users"].tolist(), drawn, strict=True):
        assert not set(row.flatten().tolist()) & set(data.histories().items.row(user).tolist())


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_a_ring(loss):
    data = walks()
    settings = {"loss": loss, "num_negatives": 8, "hidden_size": 16, "max_length": 12}
    rates = {
        "epochs": 25,
        "batch_size": 12,
        "learning_rate": 1e-2,
        "dropout": 0.0,
        "precision": "float32",
    }
    model = SASRec.create({**settings, **rates, "monitor": None}, data.dataset)
    fit(model, data, seed=0, device="cpu")
    model.eval()
    asked = Queries.from_histories([[item - 2, item - 1, item] for item in range(2, 12)])
    best = model.recommend(asked, 1, exclude=asked.histories.items).items.squeeze(1)
    assert (best == torch.arange(3, 13)).sum() >= 9


@pytest.mark.parametrize("norm", ["pre", "post", "original"])
def test_the_layouts_all_train(norm):
    data = random_log()
    model = built(data, norm=norm, output_projection=norm != "original").train()
    compute, batch = first_batch(model, data)
    compute(batch).value.backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None]
    assert missing == []


def test_scores_of_chosen_items_are_those_of_the_catalog():
    model = built()
    shaken(model)
    asked = Queries.from_histories([[1, 2, 3], [], [4]])
    items = torch.from_numpy(np.array([[0, 5], [29, 29], [7, 1]]))
    torch.testing.assert_close(model.score(asked, items), model.score(asked).gather(1, items))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="'num_heads': 3 does not divide hidden_size, 16"):
        built(num_heads=3)
