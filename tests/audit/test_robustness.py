from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tastemaker.audit import (
    BandwagonAttack,
    Budget,
    RandomAttack,
    SurrogateAttack,
    Victim,
    assess,
    poison,
    target_exposure,
)
from tastemaker.data import Dataset, Histories, Part, Queries, Ragged, Split, split
from tastemaker.errors import ConfigError, DataError
from tastemaker.testing import tiny_dataset


@dataclass
class Lists:
    items: torch.Tensor


@dataclass
class Fixed:
    """A model whose lists are given, user by user."""

    lists: list[list[int]]
    n_items: int = 9

    def recommend(self, queries, k, *, exclude=None, allow=None):
        return Lists(torch.tensor([self.lists[user][:k] for user in queries.users]))


def part(histories, targets) -> Part:
    users = np.arange(len(histories))
    queries = Queries(users, Histories(Ragged.from_lists(histories)))
    asked = Ragged.from_lists(targets)
    return Part(queries, asked, users, np.arange(len(asked.values)))


LISTS = [
    [4, 1, 2, 7],
    [1, 7, 4, 2],
    [2, 1, 4, 3],
    [5, 6, 8, -1],
]


def test_exposure_counts_users_without_the_target_and_averages_over_targets():
    asked = part([[0], [0, 4], [0], [1]], [[7], [5], [3], [2]])
    found = target_exposure(Fixed(LISTS), asked, np.array([4, 7]), ks=(2, 4), batch_size=3)
    # target 4: user 1 has it; ranks 1, -, 3, - of users 0, 2, 3
    # target 7: user 0 is asked for it; ranks 2, -, - of users 1, 2, 3
    assert found["t-hr@2"].value == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert found["t-hr@4"].value == pytest.approx((2 / 3 + 1 / 3) / 2)
    gains = (1 + 1 / np.log2(4)) / 3, 1 / np.log2(3) / 3
    assert found["t-ndcg@4"].value == pytest.approx(sum(gains) / 2)
    assert found["t-hr@4"].low <= found["t-hr@4"].value <= found["t-hr@4"].high


def test_a_target_that_everybody_has_is_refused():
    asked = part([[0], [4]], [[4], [5]])
    with pytest.raises(DataError, match="has item 4 already"):
        target_exposure(Fixed(LISTS), asked, np.array([4]), ks=(2,))


def test_an_attack_raises_exposure_and_real_users_alone_are_measured():
    clean = split(tiny_dataset(), "leave-one-out")
    budget = Budget(share=0.3, n_targets=2)
    poisoned = poison(clean, RandomAttack(), budget=budget, seed=1)
    victim = Victim("bpr-mf", "bpr-mf", {"epochs": 30, "learning_rate": 0.02, "monitor": None})
    before = assess(victim, clean, poisoned.targets)
    after = assess(victim, poisoned.split, poisoned.targets)
    assert after["t-hr@10"] > before["t-hr@10"] + 0.1
    for outcome in (before, after):
        assert outcome.quality["ndcg@20"].n == len(clean.test)
        assert outcome.exposure["t-hr@10"].n == len(clean.test)
    assert after.to_json()["exposure"]["t-hr@10"]["value"] == after["t-hr@10"]


def planted() -> Split:
    """300 users with tastes in four dimensions, and 246 items, few of them popular."""
    generator = np.random.default_rng(0)
    taste = generator.normal(size=(300, 4)) @ generator.normal(size=(4, 250)) / 2
    liking = 1.5 * taste + generator.normal(0, 1.5, 250) - 3.5 + generator.gumbel(size=(300, 250))
    users, items = np.nonzero(liking > 0)
    dataset = Dataset.from_frame({"user": users, "item": items}, user="user", item="item")
    return split(dataset, "ratio:valid=0.1,test=0.2,by=user,order=random")


@pytest.mark.parametrize(
    "attack", [BandwagonAttack(), SurrogateAttack(epochs=10, rounds=2, list_length=20)]
)
def test_vat_takes_most_of_an_attack_away_and_keeps_the_accuracy(attack):
    base = {"hidden_size": 16, "num_negatives": 1, "regularization": 1e-4}
    training = {"learning_rate": 0.02, "epochs": 12, "batch_size": 512, "monitor": None}
    alone = Victim("alone", "bpr-mf", {**base, **training})
    defended = Victim("defended", "vat", {"base_settings": base, "rho": 0.4, **training})
    clean = planted()
    poisoned = poison(clean, attack, budget=Budget(share=0.15))
    before = assess(alone, clean, poisoned.targets)
    open_door = assess(alone, poisoned.split, poisoned.targets)
    closed = assess(defended, poisoned.split, poisoned.targets)
    assert before["t-hr@20"] < 0.002
    assert open_door["t-hr@20"] > 0.015
    assert closed["t-hr@20"] < 0.5 * open_door["t-hr@20"]
    assert closed["recall@20"] > 0.97 * open_door["recall@20"]


def test_an_unknown_part_is_refused():
    clean = split(tiny_dataset(), "leave-one-out").refit()
    with pytest.raises(ConfigError, match=r"part is 'valid'; .* has test"):
        assess(Victim("bpr-mf", "bpr-mf"), clean, np.array([1]), part="valid")
