"""Mirrors of the metrics log."""

from __future__ import annotations

import importlib

import pytest

import tastemaker as tm
from tastemaker.errors import ConfigError, MissingExtraError
from tastemaker.experiment.trackers import scalars


def test_the_numbers_of_a_record():
    record = {"stage": "fit", "epoch": 3, "step": 40, "loss": 0.5, "valid": {"ndcg@10": 0.25}}
    assert scalars(record) == {"fit/loss": 0.5, "valid/ndcg@10": 0.25}


def test_tensorboard_holds_the_log(dataset, quick, tmp_path):
    pytest.importorskip("tensorboard")
    run = tm.fit(dataset, "sasrec", out=tmp_path / "run", track=["tensorboard"], **quick)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run.folder / "tensorboard"))
    log.Reload()
    losses = [event.value for event in log.Scalars("fit/loss")]
    assert losses == pytest.approx([record["loss"] for record in run.history])


def test_mlflow_holds_the_log(dataset, quick, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    run = tm.fit(dataset, "sasrec", out=tmp_path / "run", track=["mlflow"], **quick)
    (found,) = mlflow.search_runs(output_format="list", search_all_experiments=True)
    assert found.info.run_name == "run"
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "valid/ndcg_at_10")
    assert [point.value for point in history] == pytest.approx(
        [record["valid"]["ndcg@10"] for record in run.history]
    )


def test_an_unknown_tracker_is_refused_with_the_nearest(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"'tensorbord'; did you mean 'tensorboard'\?"):
        tm.fit(dataset, "popularity", out=tmp_path / "run", track=["tensorbord"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_names_the_extra(dataset, tmp_path, monkeypatch, name):
    real = importlib.import_module

    def without(module, *rest):
        if module == name:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(module, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'tastemaker\[track\]'"):
        tm.fit(dataset, "popularity", out=tmp_path / "run", track=[name])
    assert not (tmp_path / "run").exists()
