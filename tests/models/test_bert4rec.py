"""BERT4Rec: both directions, masks, and the mask behind the history."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tastemaker.data import Queries
from tastemaker.errors import ConfigError
from tastemaker.models.sequential.bert4rec import BERT4Rec
from tastemaker.models.sequential.encoder import Sequences
from tastemaker.training import fit
from tests.models.sequences import first_batch, log, random_log, shaken, walks


def built(data=None, **settings):
    data = data or random_log()
    settings = {"hidden_size": 16, "feedforward_size": 32, "max_length": 12, **settings}
    return BERT4Rec.create(settings, data.dataset).eval()


def test_a_state_changes_when_a_later_item_does():
    model = built()
    shaken(model)
    items = torch.randint(30, (3, 8))
    changed = items.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 30
    difference = (model.encode(items) - model.encode(changed)).abs().amax(2)
    assert difference.min() > 1e-4


def test_padding_changes_nothing():
    model = built()
    shaken(model)
    items, lengths = torch.randint(30, (3, 6)), torch.full((3,), 6)
    padded = torch.nn.functional.pad(items, (0, 4), value=model.n_items)
    long, short = Sequences(padded, lengths), Sequences(items, lengths)
    torch.testing.assert_close(model.encode_last(long), model.encode_last(short), rtol=0, atol=1e-6)


def test_the_mask_stands_behind_each_row():
    model = built()
    shaken(model)
    items = torch.tensor([[4, 5, 30], [6, 30, 30], [30, 30, 30]])
    found = model.encode_last(Sequences(items, torch.tensor([2, 1, 0])))
    for row, history in zip(found, ([4, 5], [6], []), strict=True):
        states = model.encode(torch.tensor([[*history, model.mask]]))
        torch.testing.assert_close(row, states[0, -1], rtol=0, atol=1e-6)


def test_a_full_row_gives_up_its_oldest_event_for_the_mask():
    model = built(max_length=5)
    shaken(model)
    scores = model.score(Queries.from_histories([[9, 1, 2, 3, 4], [1, 2, 3, 4]]))
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-6)


def test_padding_and_mask_are_never_ranked():
    model = built()
    assert model.score(Queries.from_histories([[1, 2], []])).shape == (2, model.n_items)
    assert model.item_vectors().shape[0] == model.n_items


@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.6, 1.0])
def test_the_number_of_masks(ratio):
    data = random_log(n_users=40)
    model = built(data, mask_ratio=ratio, last_only_share=0.0, batch_size=40)
    _, batch = first_batch(model, data)
    masked = batch["targets"] != model.n_items
    assert torch.equal(masked, batch["items"] == model.mask)
    length = (batch["items"] != model.n_items).sum(1)
    expected = (ratio * length.double()).round().clamp(min=1)
    assert masked.sum(1).tolist() == expected.tolist()


def test_masks_hide_the_items_they_ask_for_and_leave_the_rest():
    data = random_log(n_users=40)
    model = built(data, batch_size=40, max_length=5)
    _, batch = first_batch(model, data)
    filled = torch.where(batch["items"] == model.mask, batch["targets"], batch["items"])
    histories = data.histories().items.take(batch["users"].numpy())
    np.testing.assert_array_equal(filled, histories.padded(5, model.n_items))


def test_masks_are_spread_evenly():
    data = log([list(range(10))] * 2000)
    model = built(data, mask_ratio=0.2, last_only_share=0.0, batch_size=2000)
    _, batch = first_batch(model, data)
    share = (batch["items"][:, :10] == model.mask).double().mean(0)
    np.testing.assert_allclose(share, 0.2, atol=0.04)  # 4.5 sigma of 2,000 rows


def test_last_only_rows_mask_the_last_event_alone():
    data = random_log(n_users=40)
    model = built(data, last_only_share=1.0, batch_size=40)
    _, batch = first_batch(model, data)
    for row, (items, user) in enumerate(zip(batch["items"], batch["users"], strict=True)):
        history = data.histories().items.row(int(user))
        expected = [*history[:-1].tolist(), model.mask]
        assert items[: len(history)].tolist() == expected, f"row {row}"


def test_labels_of_unmasked_positions_have_no_effect():
    data = random_log()
    model = built(data)
    compute, batch = first_batch(model, data)
    states = model.encode(batch["items"])
    masked = batch["targets"] != model.n_items
    losses = torch.nn.functional.cross_entropy(
        (states @ model.item_vectors().T)[masked], batch["targets"][masked], reduction="none"
    )
    found = compute(batch)
    torch.testing.assert_close(found.value, losses.mean())
    assert int(found.weight) == int(masked.sum())


def test_the_item_table_learns_from_input_and_output():
    data = log([[0, 1, 2, 3, 4, 5]], n_items=9)
    model = built(data)
    compute, batch = first_batch(model, data)
    compute(batch).value.backward()
    gradient = model.item_embeddings.weight.grad
    assert gradient[batch["items"][batch["items"] < 9]].abs().amax(1).min() > 0  # as inputs
    assert gradient[8].abs().max() > 0  # never an input: as an output alone
    assert gradient[model.mask].abs().max() > 0  # never an output
    assert not gradient[model.n_items].any()  # padding


@pytest.mark.parametrize("projection_head", [False, True])
def test_the_first_loss_is_near_the_log_of_the_catalog(projection_head):
    data = random_log(n_items=1000)
    compute, batch = first_batch(built(data, projection_head=projection_head), data)
    assert compute(batch).value.item() == pytest.approx(math.log(1000), rel=0.02)


def test_the_projection_head_is_the_papers():
    model = built(projection_head=True)
    shaken(model)
    dense, _, norm = model.head
    state = model.encode(torch.tensor([[3, 4, model.mask]]))[0, 2]
    hidden = torch.nn.functional.gelu(dense.weight @ state + dense.bias)
    hidden = (hidden - hidden.mean()) / (hidden.var(correction=0) + norm.eps).sqrt()
    hidden = hidden * norm.weight + norm.bias
    expected = model.item_vectors() @ hidden + model.item_bias
    found = model.score(Queries.from_histories([[3, 4]]))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_forced_causal_with_the_last_item_masked_it_sees_what_sasrec_sees():
    model = built()
    shaken(model)
    model.encoder.causal = True
    items = torch.tensor([[3, 4, 5, 6, model.mask]])
    changed = torch.tensor([[3, 4, 5, 7, model.mask]])
    before, after = model.encode(items), model.encode(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-6)
    assert (before[:, 4] - after[:, 4]).abs().max() > 1e-4


def test_it_learns_a_ring():
    data = walks()
    settings = {"hidden_size": 16, "max_length": 12, "feedforward_size": 32, "monitor": None}
    rates = {
        "epochs": 25,
        "batch_size": 12,
        "learning_rate": 1e-2,
        "dropout": 0.0,
        "precision": "float32",
    }
    model = BERT4Rec.create({**settings, **rates}, data.dataset)
    fit(model, data, seed=0, device="cpu")
    model.eval()
    asked = Queries.from_histories([[item - 2, item - 1, item] for item in range(2, 12)])
    best = model.recommend(asked, 1, exclude=asked.histories.items).items.squeeze(1)
    assert (best == torch.arange(3, 13)).sum() >= 8


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="'num_heads': 3 does not divide hidden_size, 16"):
        built(num_heads=3)
