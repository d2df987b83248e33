from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from tastemaker.errors import ConfigError, DataError
from tastemaker.evaluation import evaluate_pointwise
from tastemaker.evaluation.pointwise import (
    BINS,
    auc,
    calibration_error,
    gauc,
    grouped_auc,
    log_loss,
    mae,
    rmse,
)
from tests.evaluation.toys import TableModel, make_part

RNG = np.random.default_rng(7)
LABELS = (RNG.random(400) < 0.3).astype(float)
SCORES = {
    "distinct": RNG.normal(size=400) + LABELS,
    "heavy ties": RNG.integers(0, 4, 400) / 3.0,
    "two values": RNG.integers(0, 2, 400).astype(float),
    "constant": np.full(400, 0.25),
    "perfect": LABELS.copy(),
    "reversed": 1.0 - LABELS,
}


def sklearn_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn has the curve only: the distance of its points, weighted by their rows."""
    true, predicted = calibration_curve(labels, probabilities, n_bins=BINS, strategy="uniform")
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.searchsorted(edges[1:-1], probabilities)
    counts = np.bincount(bins, minlength=BINS)
    return float(np.abs(true - predicted) @ counts[counts > 0] / len(labels))


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_auc_agrees_with_scikit_learn(scores: np.ndarray) -> None:
    assert auc(scores, LABELS) == pytest.approx(sk.roc_auc_score(LABELS, scores), abs=1e-12)


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_probability_metrics_agree_with_scikit_learn(scores: np.ndarray) -> None:
    probabilities = np.clip(scores, 0, 1)
    assert log_loss(probabilities, LABELS) == pytest.approx(
        sk.log_loss(LABELS, probabilities, labels=[0, 1]), abs=1e-6
    )
    assert calibration_error(probabilities, LABELS) == pytest.approx(
        sklearn_calibration_error(probabilities, LABELS), abs=1e-12
    )


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_error_metrics_agree_with_scikit_learn(scores: np.ndarray) -> None:
    ratings = np.random.default_rng(1).integers(1, 6, 400).astype(float)
    expected = sk.root_mean_squared_error(ratings, scores)
    assert rmse(scores, ratings) == pytest.approx(expected, abs=1e-12)
    expected = sk.mean_absolute_error(ratings, scores)
    assert mae(scores, ratings) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_grouped_auc_agrees_with_scikit_learn_group_by_group(scores: np.ndarray) -> None:
    groups = np.random.default_rng(2).integers(0, 60, 400)
    found = grouped_auc(scores, LABELS, groups, 61)  # group 60 has no rows
    weighted, total = 0.0, 0
    for group in range(61):
        mine = groups == group
        if len(set(LABELS[mine])) < 2:
            assert math.isnan(found[group])
            continue
        expected = sk.roc_auc_score(LABELS[mine], scores[mine])
        assert found[group] == pytest.approx(expected, abs=1e-12)
        weighted += expected * mine.sum()
        total += mine.sum()
    assert gauc(scores, LABELS, groups) == pytest.approx(weighted / total, abs=1e-12)


def test_undefined_is_nan() -> None:
    scores = np.array([0.1, 0.2])
    nothing = np.empty(0)
    assert math.isnan(auc(scores, np.ones(2)))
    assert math.isnan(auc(scores, np.zeros(2)))
    assert math.isnan(gauc(scores, np.array([0.0, 1.0]), np.array([0, 1])))
    assert math.isnan(auc(nothing, nothing))
    assert math.isnan(gauc(nothing, nothing, np.empty(0, np.int64)))
    assert math.isnan(log_loss(nothing, nothing))
    assert math.isnan(calibration_error(nothing, nothing))
    assert math.isnan(rmse(nothing, nothing))


def test_certain_and_wrong_is_finite() -> None:
    found = log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    expected = sk.log_loss([1.0, 0.0], np.array([0.0, 1.0]), labels=[0, 1])
    assert found == pytest.approx(expected, rel=1e-9)


def test_evaluation_of_a_part() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(size=(50, 30)) * 2
    targets = [rng.choice(30, rng.integers(0, 9), replace=False).tolist() for _ in range(50)]
    rows = [(user, item) for user, items in enumerate(targets) for item in items]
    labels = [float(rng.random() < 1 / (1 + np.exp(-table[row]))) for row in rows]
    found = evaluate_pointwise(TableModel(table), make_part(targets, labels=labels))
    scores = np.array([table[row] for row in rows], np.float32).astype(float)
    users = np.array([user for user, _ in rows])
    probabilities = 1 / (1 + np.exp(-scores))
    assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-9)
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities), abs=1e-6)
    assert found["gauc"] == pytest.approx(gauc(scores, np.array(labels), users))
    assert found["calibration_error"] == pytest.approx(
        calibration_error(probabilities, np.array(labels))
    )
    asked = [user for user, items in enumerate(targets) if items]
    assert found.users.tolist() == asked
    assert (found.n_queries, found.n_skipped) == (len(asked), 50 - len(asked))
    for estimate in found.values.values():
        assert estimate.low < estimate.value < estimate.high
    losses = -np.log(np.where(labels, probabilities, 1 - probabilities))
    per_user = [losses[users == user].mean() for user in asked]
    np.testing.assert_allclose(found.per_query["log_loss"], per_user)


def test_batch_size_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    targets = [rng.choice(30, rng.integers(1, 9), replace=False).tolist() for _ in range(40)]
    labels = rng.integers(0, 2, sum(map(len, targets))).tolist()
    model, part = TableModel(rng.normal(size=(40, 30))), make_part(targets, labels=labels)
    whole, single = (evaluate_pointwise(model, part, batch_size=size) for size in (10_000, 1))
    assert whole.to_json() == single.to_json()


def test_ratings_get_the_error_metrics() -> None:
    model, part = TableModel(np.full((2, 3), 3.0)), make_part([[0, 1], [2]], labels=[1.0, 5.0, 4.0])
    found = evaluate_pointwise(model, part)
    assert found["mae"] == pytest.approx(5 / 3)
    assert found["rmse"] == pytest.approx(math.sqrt(3))
    with pytest.raises(DataError, match=r"'auc' is for labels 0 and 1.*rmse or mae"):
        evaluate_pointwise(model, part, metrics=["auc"])


def test_what_is_missing_is_said() -> None:
    model = TableModel(np.zeros((1, 3)))
    with pytest.raises(DataError, match="label"):
        evaluate_pointwise(model, make_part([[1]]))
    with pytest.raises(DataError, match="no query"):
        evaluate_pointwise(model, make_part([[]], labels=[]))
    with pytest.raises(ConfigError, match="did you mean 'gauc'"):
        evaluate_pointwise(model, make_part([[1]], labels=[1.0]), metrics=["gaucc"])
