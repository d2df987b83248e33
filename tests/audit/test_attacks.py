from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tastemaker.audit import (
    ATTACKS,
    BandwagonAttack,
    Budget,
    RandomAttack,
    SurrogateAttack,
    poison,
)
from tastemaker.data import Dataset, Split, split
from tastemaker.data.leaks import check_leaks
from tastemaker.errors import ConfigError, DataError
from tastemaker.testing import tiny_dataset
from tests.models.toys import random_matrix, training_set

QUICK = SurrogateAttack(epochs=3, round_epochs=1, rounds=2)
FAST = {**ATTACKS, "surrogate": QUICK}
BUDGET = Budget(share=0.05, profile_length=12, n_targets=3)


def clean(spec: str = "ratio:valid=0.1,test=0.2,by=user,order=random") -> Split:
    """150 users and 80 items, with times, labels, a behaviour and features of users."""
    rows, items = np.nonzero(random_matrix(150, 80))
    generator = np.random.default_rng(1)
    dataset = Dataset.from_frame(
        pl.DataFrame(
            {
                "user": rows,
                "item": items,
                "time": 1_600_000_000 + generator.integers(0, 10**6, len(rows)),
                "rating": 1.0 + generator.integers(0, 5, len(rows)),
                "what": generator.choice(["view", "buy"], len(rows)),
            }
        ),
        user="user",
        item="item",
        timestamp="time",
        label="rating",
        behavior="what",
        users=pl.DataFrame({"user": np.arange(150), "city": [f"c{n % 7}" for n in range(150)]}),
        user_id="user",
        name="log",
    )
    return split(dataset, spec)


@pytest.mark.parametrize("attack", FAST.values(), ids=FAST)
def test_profiles_hold_the_targets_and_distinct_items(attack):
    before = clean()
    poisoned = poison(before, attack, budget=BUDGET, seed=3)
    data = poisoned.split.train
    assert len(poisoned.fakes) == round(0.05 * 150)
    np.testing.assert_array_equal(poisoned.fakes, np.arange(150, data.n_users))
    profiles = data.histories().take(poisoned.fakes).items
    for number in range(len(profiles)):
        profile = profiles.row(number)
        assert len(np.unique(profile)) == len(profile) == 12
        assert set(poisoned.targets) <= set(profile)


@pytest.mark.parametrize("spec", [None, "leave-one-out", "global-time", "held-out-users"])
def test_what_is_real_and_what_is_asked_stay_as_they_are(spec):
    before = clean(spec) if spec else clean()
    poisoned = poison(before, BandwagonAttack(), budget=BUDGET)
    after, n_real = poisoned.split, before.dataset.n_interactions
    assert (after.valid, after.test) == (before.valid, before.test)
    assert before.test.users.max() < poisoned.fakes.min()
    real = after.dataset.interactions.slice(0, n_real)
    assert real.equals(before.dataset.interactions)
    np.testing.assert_array_equal(after.train.rows[: len(before.train)], before.train.rows)
    assert (after.dataset.column("user")[n_real:] >= 150).all()
    users = after.dataset.user_ids
    assert users.ids[:150].equals(before.dataset.user_ids.ids)
    assert len(set(users.ids.to_pylist())) == len(users)
    assert after.dataset.users.num_rows == len(users)
    assert after.dataset.items is before.dataset.items
    check_leaks(after)
    assert len(after.train) == len(before.train) + 12 * len(poisoned.fakes)
    assert after.report.train.rows == len(after.train)
    assert f"{len(poisoned.fakes)} fake users in training" in after.report.lines()


def test_fake_events_look_like_training_events_and_praise_the_targets():
    before = clean("global-time")
    poisoned = poison(before, RandomAttack(), budget=BUDGET, seed=1)
    dataset, n_real = poisoned.dataset, before.dataset.n_interactions
    assert set(dataset.column("behavior")[n_real:]) == {"view", "buy"}
    known = set(
        zip(before.train.items, before.train.column("timestamp"), strict=True)
    )  # each fake event has the time of a real one with its item
    items, times = dataset.column("item")[n_real:], dataset.column("timestamp")[n_real:]
    assert set(zip(items, times, strict=True)) <= known
    pushed = np.isin(items, poisoned.targets)
    labels = dataset.column("label")[n_real:]
    assert (labels[pushed] == 5.0).all()
    assert labels[~pushed].min() < 5.0


def test_targets_are_unpopular_and_the_same_for_every_attack():
    before = clean()
    counts = before.train.item_counts()
    limit = np.sort(counts[counts > 0])[round(0.2 * (counts > 0).sum()) - 1]
    found = [poison(before, attack, budget=BUDGET, seed=5).targets for attack in FAST.values()]
    for targets in found:
        np.testing.assert_array_equal(targets, found[0])
        assert (counts[targets] <= limit).all()
        assert (counts[targets] > 0).all()
    other = poison(before, RandomAttack(), budget=BUDGET, seed=6).targets
    assert not np.array_equal(other, found[0])


@pytest.mark.parametrize("attack", FAST.values(), ids=FAST)
def test_the_seed_decides_everything(attack):
    first, again = (poison(clean(), attack, budget=BUDGET, seed=2) for _ in range(2))
    assert first.dataset.fingerprint == again.dataset.fingerprint
    assert first.split.train.fingerprint == again.split.train.fingerprint
    other = poison(clean(), attack, budget=BUDGET, seed=4)
    assert other.dataset.fingerprint != first.dataset.fingerprint


def test_budgets_are_one_percent_of_users_with_profiles_of_average_length():
    before = clean()
    poisoned = poison(before, RandomAttack())
    lengths = np.diff(poisoned.split.train.offsets)
    assert len(poisoned.fakes) == round(0.01 * 150)
    assert len(poisoned.targets) == 5
    assert (lengths[150:] == round(lengths[:150].mean())).all()


def test_half_of_a_bandwagon_are_popular_items():
    before = clean()
    poisoned = poison(before, BandwagonAttack(popular=0.1), budget=BUDGET, seed=2)
    counts = before.train.item_counts()
    counts[poisoned.targets] = 0
    popular = np.argsort(-counts, kind="stable")[:8]
    profiles = poisoned.split.train.histories().take(poisoned.fakes).items
    shares = [np.isin(profiles.row(number), popular).sum() for number in range(len(profiles))]
    assert min(shares) >= 4  # half of the nine fillers, and what chance adds
    uniform = poison(before, RandomAttack(), budget=BUDGET, seed=2)
    profiles = uniform.split.train.histories().take(uniform.fakes).items
    assert np.isin(profiles.values, popular).mean() < np.mean(shares) / 12


def test_fillers_of_the_learned_attack_are_learned():
    """Users of two groups share no items; targets are of the first group, and so are fillers."""
    matrix = np.zeros((120, 60))
    generator = np.random.default_rng(0)
    matrix[:60, :30] = generator.random((60, 30)) < 0.4
    matrix[60:, 30:] = generator.random((60, 30)) < 0.4
    matrix[:60, :2] = 0
    matrix[[3, 9], [0, 1]] = 1
    data = training_set(matrix)
    order = Budget(share=0.05, profile_length=12, n_targets=2, unpopular=0.01).order(data, seed=0)
    assert order.targets.tolist() == [0, 1]
    shares = {}
    for attack in (SurrogateAttack(epochs=60, round_epochs=10, rounds=2), RandomAttack()):
        profiles = attack.profiles(data, order, np.random.default_rng(0))
        shares[attack.name] = np.mean(profiles.values < 30)
    assert shares["surrogate"] > shares["random"] + 0.1


def test_ids_of_fakes_are_new_whatever_the_ids():
    named = poison(split(tiny_dataset(), "leave-one-out"), RandomAttack(), seed=1)
    assert named.dataset.user_ids.raw(int(named.fakes[0])) == "fake-0"
    rows = [("fake-0", "a"), ("fake-0", "b"), ("x", "b"), ("x", "c"), ("y", "a"), ("y", "c")]
    frame = pl.DataFrame(rows * 2, schema=["user", "item"], orient="row")
    taken = split(
        Dataset.from_frame(frame, user="user", item="item"),
        "ratio:valid=0,test=0.3,by=user,order=random",
    )
    poisoned = poison(
        taken, RandomAttack(), budget=Budget(n_targets=1, profile_length=2, unpopular=1.0)
    )
    assert poisoned.dataset.user_ids.raw(int(poisoned.fakes[0])) == "fake_-0"
    numbered = poison(clean(), RandomAttack(), budget=BUDGET)
    first = numbered.dataset.user_ids.ids[:150].to_numpy().max() + 1
    assert numbered.dataset.user_ids.raw(int(numbered.fakes[0])) == first


def test_a_poisoned_split_can_be_refitted():
    poisoned = poison(clean(), RandomAttack(), budget=BUDGET).split
    whole = poisoned.refit()
    assert len(whole.train) == len(poisoned.train) + len(poisoned.valid.rows)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(share=0), "share is 0"),
        (lambda: Budget(unpopular=2), "unpopular is 2"),
        (lambda: Budget(n_targets=0), "promotes at least 1"),
        (lambda: BandwagonAttack(popular=0), "popular is 0"),
    ],
)
def test_impossible_budgets_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("budget", [Budget(n_targets=200), Budget(profile_length=3)])
def test_too_few_items_are_refused(budget):
    with pytest.raises(DataError, match="ask for fewer targets"):
        poison(clean(), RandomAttack(), budget=budget)
