"""MCLRec: who steps when, what each loss is made of, and what falls away without its weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tastemaker.data import Queries
from tastemaker.errors import ConfigError
from tastemaker.models.sequential.encoder import Sequences
from tastemaker.models.sequential.mclrec import MCLRec, margin_regularizer
from tastemaker.models.sequential.sasrec import SASRec
from tastemaker.testing import tiny_dataset
from tastemaker.training import GradientStage, Objective, fit
from tastemaker.training.batches import PrefixBatches
from tastemaker.training.stages import Loss
from tests.losses.test_contrastive import slow_nt_xent
from tests.models.sequences import random_log, shaken

BASE = {"hidden_size": 16, "max_length": 12}
SHORT = {"batch_size": 16, "epochs": 2, "monitor": None, "precision": "float32"}


def built(data, **settings):
    return MCLRec.create({"base_settings": BASE, **SHORT, **settings}, data.dataset, seed=3)


def snapshot(model):
    return {name: value.clone() for name, value in model.state().items()}


def first_batch(model, data):
    (stage,) = model.stages(data)
    generator = np.random.default_rng(0)
    batches = stage.objectives[0].batches
    return batches.gather(batches.plan(generator)[0], generator)


class PlainSASRec(SASRec):
    """Next-item training on prefixes, and nothing else."""

    def stages(self, data):
        batches = PrefixBatches.of(data, self.max_length, 16, min_history=0)
        objective = Objective("next-item", self.prefix_loss, batches, self.config.optimizer())
        return [GradientStage("fit", [objective], **self.config.schedule())]

    def prefix_loss(self, batch):
        states = self.encode_prefixes(Sequences.of(batch))
        return Loss(self.last_item_loss(states, batch["targets"]), len(batch))


def test_without_contrasts_training_is_that_of_the_base():
    data = random_log()
    plain = PlainSASRec.create({**BASE, **SHORT, "learning_rate": 1e-3}, data.dataset, seed=3)
    model = built(data, view_weight=0.0, augmented_weight=0.0)
    fit(plain, data, seed=5, device="cpu")
    fit(model, data, seed=5, device="cpu")
    for name, value in plain.state().items():
        assert torch.equal(value, model.base.state()[name]), name


@pytest.mark.parametrize("updates", ["paper", "code", "joint"])
def test_each_step_moves_its_own_parameters_alone(updates):
    moments = []

    class Watched(MCLRec):
        def encoder_loss(self, batch):
            moments.append(("encoder", batch, snapshot(self)))
            return super().encoder_loss(batch)

        def augmenter_loss(self, batch):
            moments.append(("augmenters", batch, snapshot(self)))
            return super().augmenter_loss(batch)

    data = random_log()
    model = Watched.create({"base_settings": BASE, **SHORT, "updates": updates}, data.dataset)
    fit(model, data, device="cpu")
    turn = {"paper": ["encoder", "augmenters"], "joint": ["encoder"]}
    turn["code"] = [*turn["paper"], "encoder"]
    steps = len(turn[updates])
    assert [who for who, _, _ in moments[:steps]] == turn[updates]
    assert all(batch is moments[0][1] for _, batch, _ in moments[:steps])
    for (who, _, before), (_, _, after) in pairwise(moments):
        moved = {
            name.split(".")[0] for name in before if not torch.equal(before[name], after[name])
        }
        expected = {"encoder": {"base"}, "augmenters": {"augmenters"}}[who]
        assert moved == ({"base", "augmenters"} if updates == "joint" else expected)


def slow_margin(first, second):
    """View by view, pair by pair."""
    views = [*first, *second]
    n = len(first)
    near, far = [], []
    for own, view in enumerate(views):
        partner = (own + n) % (2 * n)
        positive = view @ views[partner]
        others = [view @ other for at, other in enumerate(views) if at not in (own, partner)]
        low, high = min(positive, max(others)), max(positive, max(others))
        near.append(torch.relu(positive - low))
        far += [torch.relu(high - other) for other in others]
    return torch.stack(near).mean() + torch.stack(far).mean()


def test_the_margin_regularizer_is_its_slow_transcription():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        first, second = (torch.randn(4, 6, generator=generator) for _ in range(2))
        found = margin_regularizer(first, second)
        torch.testing.assert_close(found, slow_margin(first, second))
        assert found >= 0


def test_the_margin_regularizer_is_zero_where_all_scores_are_equal():
    ones = torch.ones(5, 3)
    assert margin_regularizer(ones, ones) == 0
    assert margin_regularizer(torch.randn(1, 3), torch.randn(1, 3)) == 0


def by_hand(model, batch):
    """Every term of the losses, from one encoding per view."""
    rows = batch["lengths"] > 0
    states = [
        model.base.encode_last(
            Sequences(
                batch["views"][rows, view],
                batch["view_lengths"][rows, view],
                valid=batch["view_valid"][rows, view],
            )
        )
        for view in (0, 1)
    ]
    learned = [augmenter(state) for augmenter, state in zip(model.augmenters, states, strict=True)]
    pairs = [(learned[0], learned[1]), (states[0], learned[1]), (states[1], learned[0])]
    history = model.base.encode_last(Sequences(batch["items"], batch["lengths"]))
    return {
        "next": model.base.last_item_loss(history, batch["targets"]),
        "views": slow_nt_xent(*states),
        "augmented": sum(slow_nt_xent(*pair) for pair in pairs),
        "margin of one": slow_margin(*pairs[0]),
        "margin of all": sum(slow_margin(*pair) for pair in pairs),
    }


@pytest.mark.parametrize("updates", ["paper", "code"])
def test_the_losses_are_the_weighted_sums_of_their_terms(updates):
    data = random_log()
    model = built(data, updates=updates, view_weight=0.3, augmented_weight=0.5).eval()
    shaken(model.base, 0.1)
    batch = first_batch(model, data)
    terms = by_hand(model, batch)
    margin = terms["margin of all" if updates == "code" else "margin of one"]
    contrast = terms["augmented"] + 0.1 * margin
    encoder = terms["next"] + 0.3 * terms["views"] + 0.5 * contrast
    share = 0.1 if updates == "code" else 0.05
    augmenters = terms["augmented"] + share * margin
    options = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(model.encoder_loss(batch).value, encoder, **options)
    torch.testing.assert_close(model.augmenter_loss(batch).value, augmenters, **options)


def test_the_augmenters_loss_has_no_gradient_for_the_encoder():
    data = random_log()
    model = built(data)
    model.augmenter_loss(first_batch(model, data)).value.backward()
    assert all(value.grad is None for value in model.base.parameters())
    assert all(value.grad is not None for value in model.augmenters.parameters())


def test_without_learned_views_the_augmenters_stay_and_the_views_count():
    data = random_log()
    model = built(data, augmented_weight=0.0, view_weight=0.3)
    before = snapshot(model)
    fit(model, data, device="cpu")
    for name, value in model.state().items():
        assert torch.equal(value, before[name]) == name.startswith("augmenters"), name
    model.eval()
    batch = first_batch(model, data)
    terms = by_hand(model, batch)
    expected = terms["next"] + 0.3 * terms["views"]
    torch.testing.assert_close(
        model.encoder_loss(batch).value, expected, rtol=1e-5, atol=1e-5, check_dtype=False
    )


def test_histories_of_one_event_or_none_have_no_other_views():
    data = random_log()
    batch = first_batch(built(data, batch_size=1000), data)
    short = batch["lengths"] < 2
    width = batch["items"].shape[1]
    assert short.any()
    assert batch["views"].shape == (len(batch), 2, width)
    assert torch.equal(batch["views"][short, 0], batch["items"][short])
    assert torch.equal(batch["views"][short, 1], batch["items"][short])
    assert batch["view_valid"].sum() < batch["view_lengths"].sum()  # masked events are holes


@pytest.mark.parametrize("updates", ["paper", "joint"])
def test_a_batch_of_empty_histories_has_no_contrast(updates):
    data = random_log()
    model = built(data, batch_size=1000, updates=updates)
    batch = first_batch(model, data)
    empty = batch["lengths"] == 0
    batch = type(batch)({name: rows[empty] for name, rows in batch.rows.items()})
    found = model.encoder_loss(batch)
    expected = model.base.last_item_loss(model.base.start.expand(len(batch), -1), batch["targets"])
    torch.testing.assert_close(found.value, expected)
    assert model.augmenter_loss(batch).value == 0


def test_answers_are_those_of_the_base_without_the_augmenters():
    data = random_log()
    model = built(data).eval()
    asked = Queries.from_histories([[1, 2, 3], [], [4]])
    expected = model.base.score(asked)
    with torch.no_grad():
        for value in model.augmenters.parameters():
            value.fill_(torch.nan)
    torch.testing.assert_close(model.score(asked), expected)
    base = SASRec.create(BASE, data.dataset, seed=3)
    assert sum(v.numel() for v in base.parameters()) == sum(
        v.numel() for v in model.base.parameters()
    )


def test_a_base_that_encodes_no_sequences_is_refused():
    with pytest.raises(ConfigError, match="'ease' is no SequentialRecommender"):
        MCLRec.create({"base": "ease"}, random_log().dataset)


def test_a_base_that_reads_more_than_items_is_refused():
    with pytest.raises(ConfigError, match="'tim4rec' reads timestamp beside the items"):
        MCLRec.create({"base": "tim4rec"}, tiny_dataset())


def test_it_trains_another_encoder():
    data = random_log()
    settings = {"base": "gru4rec", "base_settings": {"hidden_size": 16}, **SHORT}
    model = MCLRec.create(settings, data.dataset)
    before = snapshot(model)
    fit(model, data, device="cpu")
    assert all(
        not torch.equal(before[name], value)
        for name, value in model.state().items()
        if value.numel()
    )
