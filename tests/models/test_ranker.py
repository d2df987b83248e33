"""What all rankers share: fields, contexts of queries, users nobody knows, the penalty."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from tastemaker.data import Dataset, Queries, TrainingSet
from tastemaker.errors import DataError
from tastemaker.models.ranking.deepfm import DeepFM
from tastemaker.models.ranking.din import DIN
from tastemaker.training import fit
from tests.models.clicks import shaken


def log(labels=None) -> TrainingSet:
    """Items are liked by their colour and by the weather of the moment; nobody's taste matters."""
    generator = np.random.default_rng(0)
    n = 1200
    user, item = generator.integers(0, 30, n), generator.integers(0, 12, n)
    weather = generator.integers(0, 3, n)
    heat = generator.normal(20.0, 5.0, n)
    liked = ((item % 3 == weather) | (heat > 26)).astype(int) if labels is None else labels(n)
    frame = pl.DataFrame(
        {
            "user": user,
            "item": item,
            "at": np.arange(n),
            "liked": liked,
            "weather": [("sun", "rain", "snow")[code] for code in weather],
            "heat": heat,
        }
    )
    return TrainingSet.whole(
        Dataset.from_frame(
            frame,
            user="user",
            item="item",
            order="at",
            label="liked",
            columns={"weather": "categorical", "heat": "numeric"},
            items=pl.DataFrame(
                {"item": range(12), "colour": [f"c{code % 3}" for code in range(12)]}
            ),
            item_id="item",
            name="weather",
        )
    )


SETTINGS = {
    "hidden_size": 8,
    "hidden_sizes": (16,),
    "batch_size": 64,
    "epochs": 8,
    "learning_rate": 1e-2,
    "regularization": 1e-4,
    "monitor": None,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return log()


@pytest.fixture(scope="module")
def model(data) -> DeepFM:
    made = DeepFM.create(SETTINGS, data.dataset)
    fit(made, data, device="cpu")
    return made.eval()


def ask(n: int = 1, **columns) -> Queries:
    queries = Queries.from_histories([[]] * n)
    return dataclasses.replace(queries, columns=columns)


def raw(data: TrainingSet, model: DeepFM, queries: Queries) -> np.ndarray:
    """Scores of items 0, 1, ... 11 by their raw ids, [B, 12]."""
    codes = data.dataset.item_ids.encode(np.arange(12))
    return model.score(queries).numpy()[:, codes]


def test_scores_follow_the_context_of_the_query(data, model):
    weather = np.array(["sun", "rain", "snow"], object)
    scores = raw(data, model, ask(3, weather=weather, heat=np.full(3, 18.0)))
    for row in range(3):
        liked = np.arange(12) % 3 == row
        assert scores[row, liked].min() > 1 > -1 > scores[row, ~liked].max()
    hot = raw(data, model, ask(1, weather=weather[:1], heat=np.array([33.0])))
    assert hot.min() > scores.max(0).min()


def test_a_context_that_is_missing_unknown_or_not_given_is_answered(data, model):
    nothing = raw(data, model, ask(2))
    missing = ask(2, weather=np.array([None, None], object), heat=np.array([np.nan, np.nan]))
    np.testing.assert_array_equal(raw(data, model, missing), nothing)
    unknown = raw(data, model, ask(1, weather=np.array(["hail"], object)))
    assert np.isfinite(unknown).all()


def test_a_stored_model_codes_contexts_as_before(data, model):
    again = DeepFM.create(SETTINGS, data.dataset.without_interactions(), seed=3)
    again.load_state(model.state()).eval()
    columns = {"weather": np.array(["sun", "hail"], object), "heat": np.array([10.0, np.nan])}
    assert torch.equal(again.score(ask(2, **columns)), model.score(ask(2, **columns)))


def test_users_count_when_known(data, model):
    shaken(model_copy := DeepFM.create(SETTINGS, data.dataset))
    model_copy.stages(data)
    model_copy.eval()
    known = Queries(np.array([0, 1, -1]), ask(3).histories)
    scores = model_copy.score(known)
    assert (scores[0] - scores[1]).abs().min() > 1e-6
    assert (scores[0] - scores[2]).abs().min() > 1e-6


def test_the_penalty_is_half_its_weight_times_the_squared_norm(data):
    model = DeepFM.create({**SETTINGS, "regularization": 0.3}, data.dataset)
    (stage,) = model.stages(data)
    shaken(model)
    batch = stage.objectives[0].batches.gather(np.arange(50), np.random.default_rng(0))
    tables = [
        bank_values
        for bank in (model.embeddings, model.weights)
        for bank_values in (bank.table.weight, bank.directions)
    ]
    model.loss(batch).value.backward()
    plain = [table.grad.clone() for table in tables]
    (hook,) = stage.after_backward
    hook(None)  # type: ignore[arg-type]
    penalty = 0.15 * sum(table.square().sum() for table in tables)
    expected = torch.autograd.grad(penalty, tables)
    for table, before, added in zip(tables, plain, expected, strict=True):
        torch.testing.assert_close(table.grad, before + added)
    assert (
        DeepFM.create({**SETTINGS, "regularization": 0}, data.dataset)
        .stages(data)[0]
        .after_backward
        == []
    )


def test_a_whole_catalog_is_scored_in_parts(data, monkeypatch):
    model = DIN.create({**SETTINGS, "attention_sizes": (4,), "max_length": 5}, data.dataset)
    model.stages(data)
    shaken(model)
    model.eval()
    queries = Queries.from_histories([[1, 2], [], [3, 4, 5, 6, 7, 8], [1]])
    whole = model.score(queries)
    monkeypatch.setattr("tastemaker.models.ranking.ranker._PAIRS", 5)
    torch.testing.assert_close(model.score(queries), whole)


def test_labels_that_are_no_clicks_are_refused():
    stars = log(labels=lambda n: np.arange(n) % 5 + 1)
    with pytest.raises(DataError, match=r"labels from 1 to 5.*binary-label:threshold=VALUE"):
        DeepFM.create(SETTINGS, stars.dataset).stages(stars)
