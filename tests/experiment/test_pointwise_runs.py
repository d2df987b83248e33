"""Runs of methods that predict labels: what training watches, and what is kept and shown."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tastemaker import cli
from tastemaker.data import Dataset
from tastemaker.errors import ConfigError, RunError
from tastemaker.evaluation import evaluate_pointwise
from tastemaker.experiment.compare import compare
from tastemaker.experiment.fitting import fit
from tastemaker.experiment.run import Run, open_run

SMALL = {"epochs": 6, "patience": 0, "hidden_size": 4, "hidden_sizes": (8,), "batch_size": 64}
SPLIT = "ratio:valid=0.2,test=0.2"


@pytest.fixture(scope="module")
def rated() -> Dataset:
    """Ratings of 1 to 5: high where the place suits the item."""
    generator = np.random.default_rng(0)
    n = 900
    user, item = np.arange(n) % 30, generator.integers(0, 20, n)
    place = generator.integers(0, 2, n)
    rating = np.where(item % 2 == place, 4, 1) + generator.integers(0, 2, n)
    frame = pl.DataFrame(
        {
            "user": user,
            "item": item,
            "at": np.arange(n),
            "rating": rating,
            "place": [("home", "work")[code] for code in place],
        }
    )
    return Dataset.from_frame(
        frame,
        user="user",
        item="item",
        order="at",
        label="rating",
        columns={"place": "categorical"},
        name="rated",
    )


@pytest.fixture(scope="module")
def run(rated, tmp_path_factory) -> Run:
    return trained(rated, "deepfm", tmp_path_factory.mktemp("runs") / "deepfm")


def trained(rated: Dataset, model: str, folder, **settings) -> Run:
    filters = ["binary-label:threshold=4"]
    learning = {**SMALL, "learning_rate": 2e-2, "regularization": 0.0, **settings}
    return fit(rated, model, out=folder, split=SPLIT, filters=filters, device="cpu", **learning)


def test_training_watches_labels(run):
    assert [set(record["valid"]) for record in run.history] == [{"auc", "gauc", "log_loss"}] * 6
    kept = run.evaluation("valid")
    best = run.history[run.record.best["fit"]]["valid"]
    assert best["auc"] == max(record["valid"]["auc"] for record in run.history)
    assert kept["auc"] == pytest.approx(best["auc"], abs=1e-6)


def test_a_run_keeps_pointwise_metrics(run):
    assert set(run.metrics["test"]) == {"auc", "gauc", "log_loss", "calibration_error"}
    assert run.metrics["test"]["auc"] > 0.95
    found = evaluate_pointwise(run.model, run.part("test"))
    kept = run.evaluation("test")
    assert kept.values == found.values
    np.testing.assert_array_equal(kept.per_query["gauc"], found.per_query["gauc"])
    assert "labelled rows" in kept.protocol


def test_targets_are_scored_in_their_own_contexts(run):
    part = run.part("test")
    place = part.contexts["place"]
    items = run.dataset.item_ids.decode(part.targets.values).to_numpy()
    np.testing.assert_array_equal(part.labels, (items % 2 == (place == "work")).astype(float))
    assert len(np.unique(place[: part.targets.lengths[0]])) == 2  # of one user


def test_the_monitor_may_be_one_that_falls(rated, tmp_path):
    run = trained(rated, "deepfm", tmp_path / "run", monitor="log_loss", epochs=4)
    losses = [record["valid"]["log_loss"] for record in run.history]
    assert run.record.best["fit"] == int(np.argmin(losses))


def test_evaluating_again_takes_pointwise_metrics(run):
    again = open_run(run.folder)
    found = again.evaluate("test", metrics=["log_loss", "auc"])
    assert list(found.values) == ["log_loss", "auc"]
    with pytest.raises(ConfigError, match="unknown pointwise metric 'ndcg@10'"):
        again.evaluate("test", metrics=["ndcg@10"])
    assert set(again.evaluate("test").values) == {"auc", "gauc", "log_loss", "calibration_error"}


def test_runs_are_compared_query_by_query(rated, run, tmp_path):
    other = trained(rated, "dcnv2", tmp_path / "dcnv2", epochs=1, learning_rate=1e-3)
    lines = compare(other, run).rows(named=True)
    assert [line["metric"] for line in lines] == ["gauc", "log_loss"]
    for line in lines:
        values = run.evaluation("test").per_query[line["metric"]]
        assert line["value"] == pytest.approx(np.nanmean(values))
    assert lines[0]["low"] > 0
    assert lines[1]["high"] < 0


def test_runs_with_other_labels_are_not_compared(rated, run, tmp_path):
    filters = ["binary-label:threshold=5"]
    settings = {**SMALL, "epochs": 1}
    other = fit(rated, "deepfm", out=tmp_path / "run", split=SPLIT, filters=filters, **settings)
    with pytest.raises(RunError, match="were measured differently"):
        compare(run, other)


def test_the_report_shows_labels_and_curves(run):
    html = run.report().read_text(encoding="utf-8")
    for words in ("test AUC", "test GAUC", "test log loss", "labelled rows", "fit: validation"):
        assert words in html, words


def test_the_command_line_trains_and_shows_metrics(rated, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    frame = pl.from_arrow(rated.interactions).drop("order").with_row_index("at")
    frame.write_csv(tmp_path / "log.csv")
    (tmp_path / "dataset.toml").write_text(
        '[interactions]\nfile = "log.csv"\nuser = "user"\nitem = "item"\norder = "at"\n'
        'label = "label"\n[interactions.columns]\nplace = "categorical"\n'
    )
    words = ["train", str(tmp_path), "--model", "din", "--split", SPLIT, "--device", "cpu"]
    words += ["--filter", "binary-label:threshold=4", "--out", str(tmp_path / "run")]
    words += [word for name in ("epochs=1", "hidden_size=4") for word in ("--set", name)]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert "auc" in done.output
    assert "log_loss" in done.output
    values = json.loads((tmp_path / "run" / "evaluation" / "test.json").read_text())["values"]
    assert not math.isnan(values["auc"]["value"])
