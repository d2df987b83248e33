from __future__ import annotations

import math

import pytest
import torch

from tastemaker.models.collaborative.apr import APR
from tastemaker.models.collaborative.vat import VAT
from tastemaker.training import Batch
from tests.models.toys import fitted, random_matrix, training_set

QUICK = {"epochs": 6, "learning_rate": 0.02, "batch_size": 256, "monitor": None, "begin_epoch": 2}
SETTINGS = {"hidden_size": 8, "num_negatives": 2, "regularization": 0.01}


def vat(**settings) -> VAT:
    data = training_set(random_matrix())
    return VAT.create({"base_settings": SETTINGS, **settings}, data.dataset, seed=3)


def test_the_weight_of_users_is_that_of_the_paper():
    users = torch.tensor([4, 4, 7, 9])
    losses = torch.tensor([0.3, 0.5, 0.1, 1.5])
    totals = {4: 0.8, 7: 0.1, 9: 1.5}  # sums over a user's triples
    mean = sum(totals.values()) / 3  # over users, not over triples
    expected = [2 / (1 + math.exp(-(mean - totals[u]) / totals[u])) for u in users.tolist()]
    torch.testing.assert_close(vat().susceptibility(users, losses), torch.tensor(expected))
    totals[4] = 0.4
    mean = sum(totals.values()) / 3
    expected = [3 / (1 + math.exp(-(mean - totals[u]) / totals[u])) for u in users.tolist()]
    found = vat(per_user="mean", vulnerability=3.0).susceptibility(users, losses)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_weight_falls_with_the_loss_and_is_one_for_the_average_user():
    losses = torch.logspace(-6, 3, 50)
    weights = vat().susceptibility(torch.arange(50), losses)
    assert (weights[1:] <= weights[:-1]).all()
    assert 2 / (1 + math.e) - 1e-6 <= weights.min() < weights.max() <= 2
    alike = vat().susceptibility(torch.tensor([3, 5, 8]), torch.full((3,), 0.7))
    assert torch.equal(alike, torch.ones(3))


@pytest.mark.parametrize("base", ["bpr-mf", "lightgcn"])
def test_all_rows_of_a_triple_move_by_rho_times_the_users_weight(base):
    data = training_set(random_matrix())
    settings = {"hidden_size": 8}
    model = VAT.create({"base": base, "base_settings": settings, "rho": 0.3}, data.dataset)
    model.stages(data)
    batch = Batch(
        {
            "users": torch.tensor([0, 0, 3]),
            "positives": torch.tensor([1, 2, 5]),
            "negatives": torch.tensor([[5, 9], [6, 1], [7, 2]]),
        }
    )
    rows = model.base.batch_vectors(batch)
    users, positives, negatives = model.shifts(*rows, batch)
    lengths = users.norm(dim=-1)
    torch.testing.assert_close(lengths[0], lengths[1])
    assert lengths[0] < 0.3 < lengths[2], "two triples of one user sum to a larger loss"
    torch.testing.assert_close(positives.norm(dim=-1), lengths)
    torch.testing.assert_close(negatives.norm(dim=-1), lengths[:, None].expand(3, 2))
    assert not any(part.requires_grad for part in (users, positives, negatives))


def test_with_equal_weights_it_is_apr_bit_for_bit(monkeypatch):
    data = training_set(random_matrix())
    settings = {"base_settings": SETTINGS, "rho": 0.2, **QUICK}
    apr, own = fitted(APR, data, **settings), fitted(VAT, data, **settings)
    assert not torch.equal(apr.base.item_vectors(), own.base.item_vectors())
    monkeypatch.setattr(VAT, "susceptibility", lambda self, users, losses: torch.ones_like(losses))
    forced = fitted(VAT, data, **settings)
    for name, value in apr.state().items():
        assert torch.equal(value, forced.state()[name]), name
