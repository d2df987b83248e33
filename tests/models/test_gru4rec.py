"""GRU4Rec: carried states, session slots, candidates and BPR-max."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tastemaker.data import Queries
from tastemaker.errors import ConfigError
from tastemaker.losses.softmax import full_softmax
from tastemaker.models.sequential.gru4rec import GRU4Rec, bpr_max
from tastemaker.training import fit
from tests.models.sequences import first_batch, log, random_log, shaken, walks


def built(data=None, **settings):
    data = data or random_log()
    settings = {"hidden_size": 16, "max_length": 12, "num_negatives": 20, **settings}
    return GRU4Rec.create(settings, data.dataset).eval()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("constrained", [True, False])
def test_events_one_by_one_score_like_the_whole_history(layers, constrained):
    model = built(num_layers=layers, constrained=constrained)
    shaken(model)
    history, state = [3, 7, 1, 1, 22], model.encoder.initial(1)
    for length, item in enumerate(history, 1):
        with torch.no_grad():
            vectors, state = model.step(torch.tensor([item]), state)
        whole = model.score(Queries.from_histories([history[:length]]))
        torch.testing.assert_close(vectors @ model.item_vectors().T, whole, rtol=0, atol=1e-6)


def test_a_session_in_a_reused_slot_scores_like_one_alone():
    first, second = [1, 2, 3, 4], [5, 6, 7]
    outputs = {}
    for name, sessions in {"reused": [first, second], "alone": [second]}.items():
        data = log(sessions, n_items=9)
        model = built(data, batching="sessions", loss="sampled", batch_size=1, dropout=0.0)
        shaken(model)
        (stage,) = model.stages(data)
        batches = stage.objectives[0].batches
        for rows in batches.plan(np.random.default_rng(0)):
            model.session_loss(batches.gather(rows, np.random.default_rng(0)))
            outputs[name] = model.carried.clone()
    torch.testing.assert_close(outputs["reused"], outputs["alone"])


def test_slots_are_refilled_in_order_and_reset_exactly_there():
    #             0  1  2    3  4    5  6  7  8   9 10   (positions)
    sessions = [[0, 1, 2], [3, 4], [5, 6, 7, 8], [1, 3]]
    data = log(sessions)
    model = built(data, batching="sessions", loss="sampled", batch_size=2)
    (stage,) = model.stages(data)
    batches = stage.objectives[0].batches
    plan = batches.plan(np.random.default_rng(0))
    assert [rows.tolist() for rows in plan] == [
        [0, 3],  # first events of sessions 0 and 1
        [1, 5],  # session 1 ended: slot 1 takes session 2
        [9, 6],  # session 0 ended: slot 0 takes session 3
        [-1, 7],  # nothing is waiting
    ]
    gathered = [batches.gather(rows, np.random.default_rng(0)) for rows in plan]
    assert [batch["items"].tolist()[1] for batch in gathered] == [3, 5, 6, 7]
    assert [batch["targets"].tolist()[1] for batch in gathered] == [4, 6, 7, 8]
    assert [batch["resets"].tolist() for batch in gathered[:3]] == [
        [True, True],
        [False, True],
        [True, False],
    ]
    assert gathered[3]["active"].tolist() == [False, True]
    own = gathered[3]["columns"][1]
    assert gathered[3]["candidates"][own] == 8


def test_more_slots_than_sessions():
    data = log([[0, 1, 2], [3, 4]])
    model = built(data, batching="sessions", loss="sampled", batch_size=4)
    (stage,) = model.stages(data)
    plan = stage.objectives[0].batches.plan(np.random.default_rng(0))
    assert [rows.tolist() for rows in plan] == [[0, 3, -1, -1], [1, -1, -1, -1]]


def test_a_session_loss_is_divided_by_all_slots():
    data = log([[0, 1, 2], [3, 4], [5, 6]], n_items=9)
    settings = {"batching": "sessions", "loss": "sampled", "dropout": 0.0, "num_negatives": 5}
    losses = {}
    for slots in (3, 6):
        model = built(data, batch_size=slots, **settings)
        compute, batch = first_batch(model, data)
        losses[slots] = compute(batch).value.item()
    assert losses[3] == pytest.approx(2 * losses[6], rel=1e-5)


def test_session_candidates_are_targets_then_samples_with_their_own_logq():
    data = log([[0, 1, 1, 1], [2, 1, 1, 2]])
    model = built(
        data, batching="sessions", loss="sampled", batch_size=2, num_negatives=50, alpha=0.5
    )
    _, batch = first_batch(model, data)
    assert batch["candidates"][:2].tolist() == [1, 1]  # a collision, kept
    support = {0: 1, 1: 5, 2: 2}
    expected = [math.log(5)] * 2 + [
        0.5 * math.log(support[item]) for item in batch["candidates"][2:].tolist()
    ]
    torch.testing.assert_close(batch["log_q"], torch.tensor(expected))


def test_history_candidates_know_how_often_they_are_expected():
    data = log([[0, 1, 1, 1], [2, 1, 1, 2]])
    model = built(data, loss="sampled", num_negatives=4000, alpha=1.0)
    _, batch = first_batch(model, data)
    drawn = np.bincount(batch["candidates"].numpy(), minlength=3)
    expected = torch.zeros(3)
    expected[batch["candidates"]] = batch["log_q"].exp()
    torch.testing.assert_close(expected, torch.tensor([500.0, 2500.0, 1000.0]))
    np.testing.assert_allclose(drawn, expected.numpy(), rtol=0.15)


def test_every_item_once_without_logq_is_the_full_softmax():
    data = random_log(n_items=15)
    model = built(data, loss="sampled", logq=0.0, item_bias=True)
    shaken(model)
    compute, batch = first_batch(model, data)
    shared = {"candidates": torch.arange(15), "log_q": torch.zeros(15)}
    states, targets = model.next_item_states(batch)
    valid = targets != 15
    expected = full_softmax(
        states[valid], model.item_vectors(), targets[valid], bias=model.item_bias
    )
    found = compute(type(batch)(batch.rows, shared)).value
    torch.testing.assert_close(found, expected)


def test_bpr_max_of_equal_negatives_is_bpr():
    positive = torch.tensor([0.3, -1.0, 2.0])
    negatives = torch.tensor([0.1, 0.4, -0.2])[:, None].expand(3, 5)
    hits = torch.zeros(3, 5, dtype=torch.bool)
    found = bpr_max(positive, negatives, hits, elu=0.0, decay=0.0)
    torch.testing.assert_close(found, -F.logsigmoid(positive - negatives[:, 0]).mean())


def test_bpr_max_equals_its_definition():
    torch.manual_seed(0)
    positive, negatives = torch.randn(4).double(), torch.randn(4, 6).double()
    hits = torch.zeros(4, 6, dtype=torch.bool)
    hits[1, 2] = True
    losses = []
    for row in range(4):
        kept = [j for j in range(6) if not hits[row, j]]
        s = F.elu(negatives[row, kept], 0.5)
        w = torch.softmax(s, 0)
        won = (w * torch.sigmoid(F.elu(positive[row], 0.5) - s)).sum()
        losses.append(-won.log() + 1.5 * (w * s**2).sum())
    found = bpr_max(positive, negatives, hits, elu=0.5, decay=1.5)
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_the_first_loss_is_near_the_log_of_the_catalog():
    data = random_log(n_items=1000)
    compute, batch = first_batch(built(data), data)
    assert compute(batch).value.item() == pytest.approx(math.log(1000), rel=0.02)


@pytest.mark.parametrize(
    ("batching", "loss"),
    [
        ("histories", "chunked"),
        ("histories", "sampled"),
        ("histories", "bpr-max"),
        ("sessions", "sampled"),
        ("sessions", "bpr-max"),
    ],
)
def test_every_way_of_training_learns_a_ring(batching, loss):
    data = walks()
    settings = {"batching": batching, "loss": loss, "num_negatives": 30, "hidden_size": 16}
    rates = {
        "epochs": 12,
        "batch_size": 12,
        "learning_rate": 1e-2,
        "dropout": 0.0,
        "precision": "float32",
    }
    if batching == "sessions":
        rates |= {"learning_rate": 0.1, "item_bias": True, "epochs": 6}
    model = GRU4Rec.create({**settings, **rates, "monitor": None}, data.dataset)
    fit(model, data, seed=0, device="cpu")
    model.eval()
    asked = Queries.from_histories([[item - 2, item - 1, item] for item in range(2, 12)])
    best = model.recommend(asked, 1, exclude=asked.histories.items).items.squeeze(1)
    assert (best == torch.arange(3, 13)).sum() >= 9


def test_presets_are_valid():
    data = random_log()
    for preset in GRU4Rec.presets:
        batching = GRU4Rec.create({"preset": preset}, data.dataset).config.batching
        assert batching == ("sessions" if preset.startswith("sessions") else "histories")


def test_session_batches_with_the_full_softmax_are_refused():
    with pytest.raises(ConfigError, match="choose 'sampled' or 'bpr-max'"):
        built(batching="sessions")
