from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tastemaker.errors import ConfigError
from tastemaker.models.collaborative.apr import APR, pair_losses
from tastemaker.models.collaborative.bpr_mf import BPRMF
from tastemaker.models.collaborative.lightgcn import LightGCN
from tastemaker.testing import tiny_dataset
from tastemaker.training import Batch, GradientStage, PairBatches, fit
from tests.models.toys import all_queries, fitted, random_matrix, training_set

QUICK = {"epochs": 6, "learning_rate": 0.02, "batch_size": 256, "monitor": None}
BASES = {
    "bpr-mf": (BPRMF, {"hidden_size": 8, "num_negatives": 2, "regularization": 0.01}),
    "lightgcn": (LightGCN, {"hidden_size": 8, "num_layers": 2, "regularization": 0.01}),
}


def batch_of(data, seed=0, size=256) -> Batch:
    batches = PairBatches.of(data, size, num_negatives=2)
    generator = np.random.default_rng(seed)
    return batches.gather(batches.plan(generator)[0], generator)


def started(kind, data, **settings):
    """A model whose stages are made, so that it has what losses need, and its gradient stage."""
    model = kind.create(settings, data.dataset, seed=3)
    stage = model.stages(data)[0]
    assert isinstance(stage, GradientStage)
    return model, stage


@dataclasses.dataclass
class Moment:
    epoch: int
    step: int = 0
    generator = None


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("off", [{"adversarial_weight": 0.0}, {"begin_epoch": 99}])
def test_without_the_adversarial_term_it_is_the_base(base, off):
    kind, settings = BASES[base]
    data = training_set(random_matrix())
    alone = fitted(kind, data, **settings, **QUICK)
    plugged = fitted(APR, data, base=base, base_settings=settings, rho=0.5, **off, **QUICK)
    for name, value in alone.state().items():
        assert torch.equal(value, plugged.state()[f"base.{name}"]), name
    queries = all_queries(data)
    assert torch.equal(alone.score(queries), plugged.score(queries))


@pytest.mark.parametrize("base", BASES)
def test_loss_is_that_of_the_paper(base):
    settings = BASES[base][1]
    data = training_set(random_matrix())
    model, stage = started(APR, data, base=base, base_settings=settings, rho=0.3)
    stage.before_epoch[-1](Moment(epoch=4))
    batch = batch_of(data)
    users, positives, negatives = model.base.batch_vectors(batch)
    terms = []
    for u, p, drawn in zip(users.detach(), positives.detach(), negatives.detach(), strict=True):
        rows = [u.clone().requires_grad_(), p.clone().requires_grad_()]
        others = [n.clone().requires_grad_() for n in drawn]
        ranking = sum(F.softplus(rows[0] @ n - rows[0] @ rows[1]) for n in others) / len(others)
        gammas = torch.autograd.grad(ranking, [*rows, *others])
        moved = [
            row.detach() + 0.3 * gamma / gamma.norm()
            for row, gamma in zip([*rows, *others], gammas, strict=True)
        ]
        u, p, *drawn = moved
        terms.append(sum(F.softplus(u @ n - u @ p) for n in drawn) / len(drawn))
    expected = model.base.loss(batch).value + torch.stack(terms).mean()
    torch.testing.assert_close(model.loss(batch).value, expected, rtol=1e-5, atol=1e-6)


def test_shifts_are_constants_of_length_rho_on_propagated_rows():
    data = training_set(random_matrix())
    model, _ = started(APR, data, base="lightgcn", base_settings=BASES["lightgcn"][1], rho=0.3)
    batch = batch_of(data)
    rows = model.base.batch_vectors(batch)
    assert not torch.equal(rows[0], model.base.user_embedding(batch["users"]))
    for shift, part in zip(model.shifts(*rows, batch), rows, strict=True):
        assert shift.shape == part.shape
        assert not shift.requires_grad
        torch.testing.assert_close(shift.norm(dim=-1), torch.full(part.shape[:-1], 0.3))


def test_the_gradient_has_no_second_order_terms():
    data = training_set(random_matrix())
    model, stage = started(APR, data, base_settings=BASES["bpr-mf"][1], rho=0.3)
    stage.before_epoch[-1](Moment(epoch=9))
    batch = batch_of(data)
    model.loss(batch).value.backward()
    found = model.base.item_embedding.weight.grad.clone()
    model.zero_grad()
    rows = model.base.batch_vectors(batch)
    shifts = [shift.clone() for shift in model.shifts(*rows, batch)]
    shifted = pair_losses(*(row + shift for row, shift in zip(rows, shifts, strict=True))).mean()
    (model.base.triple_loss(*rows, batch).value + shifted).backward()
    torch.testing.assert_close(found, model.base.item_embedding.weight.grad)


def test_rows_without_a_gradient_stay():
    rows = [torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1, 3)]
    model, _ = started(APR, training_set(random_matrix()))
    shifts = model.shifts(*rows, Batch({"users": torch.tensor([0, 1])}))
    assert all(torch.equal(shift, torch.zeros_like(shift)) for shift in shifts)


def test_shifts_raise_the_loss_more_than_random_ones():
    data = training_set(random_matrix())
    model = fitted(APR, data, base_settings=BASES["bpr-mf"][1], rho=0.05, **QUICK)
    generator = torch.Generator().manual_seed(0)
    plain, worst, random = torch.zeros(3, 8).unbind()
    for seed in range(8):
        batch = batch_of(data, seed)
        with torch.no_grad():
            rows = model.base.batch_vectors(batch)
            plain[seed] = pair_losses(*rows).mean()
            shifted = zip(rows, model.shifts(*rows, batch), strict=True)
            worst[seed] = pair_losses(*(row + shift for row, shift in shifted)).mean()
            noise = [torch.randn(row.shape, generator=generator) for row in rows]
            moved = [
                row + 0.05 * F.normalize(step, dim=-1)
                for row, step in zip(rows, noise, strict=True)
            ]
            random[seed] = pair_losses(*moved).mean()
    assert (worst > plain).all()
    assert worst.mean() - plain.mean() > 2 * (random.mean() - plain.mean()).abs()


def test_adversarial_epochs_begin_when_asked():
    data = training_set(random_matrix())
    model, stage = started(APR, data, begin_epoch=3, adversarial_weight=0.7)
    weights = []
    for epoch in range(4):
        stage.before_epoch[-1](Moment(epoch))
        weights.append(round(float(model.weight), 6))
    assert weights == [0.0, 0.0, 0.7, 0.7]


def test_an_adversarial_epoch_is_resumed_where_it_stood(monkeypatch, tmp_path):
    data = training_set(random_matrix())
    settings = {"base_settings": BASES["bpr-mf"][1], "begin_epoch": 2, **QUICK, "batch_size": 100}
    straight = fitted(APR, data, **settings)
    step, calls = APR.loss, []

    def crash(self, batch):
        calls.append(len(batch))
        if len(calls) == 14:  # within the third epoch
            raise KeyboardInterrupt
        return step(self, batch)

    model = APR.create(settings, data.dataset, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(APR, "loss", crash)
        with pytest.raises(KeyboardInterrupt):
            fit(model, data, device="cpu", folder=tmp_path, checkpoint_seconds=0)
    resumed = APR.create(settings, data.dataset, seed=0)
    fit(resumed, data, device="cpu", folder=tmp_path, checkpoint_seconds=0)
    for name, value in straight.state().items():
        assert torch.equal(value, resumed.state()[name]), name


def test_training_settings_are_those_of_the_plug_in():
    data = training_set(random_matrix())
    model, stage = started(
        APR, data, base_settings={"epochs": 7, "batch_size": 32}, epochs=3, learning_rate=0.5
    )
    objective = stage.objectives[0]
    assert (stage.epochs, objective.optimizer.learning_rate) == (3, 0.5)
    assert objective.batches.batch_size == model.config.batch_size


@pytest.mark.parametrize("base", ["popularity", "ials", "sasrec"])
def test_other_bases_are_refused(base):
    with pytest.raises(ConfigError, match=f"'base': '{base}' is no PairwiseFactors"):
        APR.create({"base": base}, tiny_dataset())


def test_it_answers_as_its_base_does():
    data = training_set(random_matrix())
    model = fitted(APR, data, base_settings=BASES["bpr-mf"][1], **QUICK)
    queries = all_queries(data)
    expected = model.base.recommend(queries, 5)
    assert torch.equal(model.recommend(queries, 5).items, expected.items)
    assert torch.equal(model.score(queries.anonymous()), model.base.score(queries.anonymous()))


def test_a_base_whose_negatives_are_shared_is_refused():
    settings = {"base": "bpr-mf", "base_settings": {"negatives": "shared"}}
    with pytest.raises(ConfigError, match="needs 'own'"):
        APR.create(settings, training_set(random_matrix()).dataset)
