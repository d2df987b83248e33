from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tastemaker.errors import ConfigError, DataError
from tastemaker.evaluation import Estimate, Evaluation, bootstrap, compare, paired_test
from tastemaker.evaluation.intervals import FLIP_GROUPS, MAX_GROUPS, jackknife, match_users


def evaluation(users: list[int], **per_query: list[float]) -> Evaluation:
    arrays = {name: np.array(values) for name, values in per_query.items()}
    values = dict(zip(arrays, bootstrap(list(arrays.values())), strict=True))
    return Evaluation(values, arrays, np.array(users), n_queries=len(users))


def test_bootstrap_agrees_with_a_slow_one() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=80)
    (found,) = bootstrap([values], resamples=4_000)
    slow = [rng.choice(values, 80).mean() for _ in range(4_000)]
    assert found.value == pytest.approx(values.mean())
    assert found.n == 80
    spread = np.std(slow)
    assert found.low == pytest.approx(np.quantile(slow, 0.025), abs=0.15 * spread)
    assert found.high == pytest.approx(np.quantile(slow, 0.975), abs=0.15 * spread)


def test_bootstrap_leaves_out_queries_without_value() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=500)
    holes = np.where(rng.random(500) < 0.5, np.nan, values)
    (found,) = bootstrap([holes], resamples=2_000)
    (dense,) = bootstrap([holes[~np.isnan(holes)]], resamples=2_000)
    assert found.value == pytest.approx(dense.value)
    assert found.n == dense.n
    assert found.low == pytest.approx(dense.low, abs=0.02)
    assert found.high == pytest.approx(dense.high, abs=0.02)


def test_grouped_bootstrap_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(2).exponential(size=5 * MAX_GROUPS + 7)
    (found,) = bootstrap([values])
    error = values.std() / math.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("n", [60, MAX_GROUPS + 5_000])
def test_intervals_hold_the_truth_as_often_as_they_say(n: int) -> None:
    rng = np.random.default_rng(3)
    samples = [(rng.random(n) < 0.3).astype(float) for _ in range(200)]
    found = bootstrap(samples) if n > 100 else [bootstrap([sample])[0] for sample in samples]
    held = np.mean([estimate.low <= 0.3 <= estimate.high for estimate in found])
    assert 0.88 <= held <= 0.99


def test_bootstrap_repeats_under_a_seed() -> None:
    values = np.random.default_rng(4).normal(size=100)
    assert bootstrap([values], seed=1) == bootstrap([values], seed=1)
    assert bootstrap([values], seed=1) != bootstrap([values], seed=2)


def test_bootstrap_of_nothing_and_of_one() -> None:
    assert bootstrap([]) == []
    for empty in (np.empty(0), np.full(3, np.nan)):
        (found,) = bootstrap([empty])
        assert found.n == 0
        assert math.isnan(found.value)
        assert math.isnan(found.low)
    assert bootstrap([np.array([0.5])]) == [Estimate(0.5, 0.5, 0.5, 1)]


def test_jackknife_of_a_mean_is_the_classic_interval() -> None:
    values = np.random.default_rng(5).normal(size=20)
    without = np.array([np.delete(values, place).mean() for place in range(20)])
    found = jackknife(values.mean(), without, 20)
    classic = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(classic)
    assert math.isnan(jackknife(1.0, np.array([1.0]), 1).low)


def test_paired_tests_agree_with_scipy() -> None:
    rng = np.random.default_rng(6)
    first = rng.normal(size=40)
    second = first + rng.normal(0.2, 0.5, size=40)
    found = paired_test(first, second)
    assert found.p_value_t == pytest.approx(stats.ttest_rel(second, first).pvalue)
    oracle = stats.permutation_test(
        (second, first),
        lambda a, b: (a - b).mean(),
        permutation_type="samples",
        n_resamples=20_000,
        random_state=0,
    )
    assert found.p_value == pytest.approx(oracle.pvalue, abs=0.01)
    assert found.difference.value == pytest.approx((second - first).mean())
    assert (found.first, found.second) == pytest.approx((first.mean(), second.mean()))


@pytest.mark.parametrize("n", [50, 2 * FLIP_GROUPS + 5])
def test_p_values_are_uniform_without_a_difference(n: int) -> None:
    rng = np.random.default_rng(7)
    found = [paired_test(np.zeros(n), rng.laplace(size=n), seed=seed) for seed in range(40)]
    assert stats.kstest([test.p_value for test in found], "uniform").pvalue > 0.01
    assert stats.kstest([test.p_value_t for test in found], "uniform").pvalue > 0.01


def test_equal_models_do_not_differ_and_constant_gains_do() -> None:
    values = np.random.default_rng(8).random(100)
    same = paired_test(values, values)
    assert (same.p_value, same.p_value_t) == (1.0, 1.0)
    assert same.difference == Estimate(0.0, 0.0, 0.0, 100)
    better = paired_test(np.zeros(100), np.ones(100))
    assert better.p_value < 1e-3
    assert better.p_value_t == 0.0


def test_pairing_sees_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(9)
    first = rng.random(300)
    second = first + 0.01 + rng.normal(0, 0.01, 300)
    one, other = bootstrap([first, second])
    assert one.high > other.low
    found = paired_test(first, second)
    assert found.difference.low > 0
    assert found.p_value < 0.001


def test_queries_without_value_are_left_out_of_both() -> None:
    found = paired_test(np.array([1.0, np.nan, 3.0, 0.0]), np.array([2.0, 5.0, np.nan, 0.5]))
    assert (found.first, found.second, found.difference.n) == (0.5, 1.25, 2)
    nothing = paired_test(np.array([np.nan]), np.array([1.0]))
    assert math.isnan(nothing.p_value)
    assert nothing.to_json()["p_value"] is None


def test_users_are_matched_whatever_their_order() -> None:
    left, right = match_users(np.array([5, 1, 9]), np.array([9, 7, 5]))
    assert np.array([5, 1, 9])[left].tolist() == np.array([9, 7, 5])[right].tolist() == [5, 9]
    found = compare(
        evaluation([5, 1, 9], **{"ndcg@10": [0.5, 0.1, 0.9], "hr@10": [1, 1, 1]}),
        evaluation([9, 7, 5], **{"ndcg@10": [1.0, 0.7, 0.4]}),
    )
    assert list(found) == ["ndcg@10"]
    assert found["ndcg@10"].first == pytest.approx(0.7)
    assert found["ndcg@10"].second == pytest.approx(0.7)
    assert found["ndcg@10"].difference.n == 2


def test_what_cannot_be_compared_is_said() -> None:
    one = evaluation([1, 2], **{"ndcg@10": [0.5, 0.1]})
    with pytest.raises(DataError, match="share no user"):
        compare(one, evaluation([3], **{"ndcg@10": [0.5]}))
    with pytest.raises(ConfigError, match=r"'ndgc@10'.*did you mean 'ndcg@10'"):
        compare(one, one, ["ndgc@10"])
    with pytest.raises(DataError, match="several queries of user 2"):
        compare(one, evaluation([2, 2], **{"ndcg@10": [0.5, 0.1]}))
