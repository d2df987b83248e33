"""Tuning: validation only, resumable, honest about its budget."""

from __future__ import annotations

import json

import pytest

import tastemaker as tm
from tastemaker.errors import ConfigError, RunError
from tastemaker.experiment import tune as tuning
from tastemaker.experiment.record import RunRecord
from tastemaker.experiment.run import Run
from tastemaker.experiment.tune import tune
from tastemaker.models.catalog import find

pytest.importorskip("optuna")

SMALL = {"epochs": 2, "hidden_size": 8, "max_length": 8, "num_layers": 1, "num_heads": 1}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, dataset):
    out = tmp_path_factory.mktemp("tune") / "ease"
    return tune(dataset, "ease", out=out, trials=4, split="leave-one-out", seed=1)


def test_every_trial_is_a_run_that_never_saw_the_test_part(tuned):
    folders = sorted((tuned.folder / "trials").iterdir())
    assert [folder.name for folder in folders] == ["0000", "0001", "0002", "0003"]
    for folder in folders:
        run = tm.open_run(folder)
        assert set(run.metrics) == {"valid"}
        assert not (folder / "evaluation" / "test.json").exists()


def test_the_best_is_the_best_on_validation(tuned):
    values = {
        folder: tm.open_run(folder).metrics["valid"]["ndcg@10"]
        for folder in (tuned.folder / "trials").iterdir()
    }
    assert tuned.value == max(values.values())
    assert values[tuned.run] == tuned.value
    best = tm.open_run(tuned.run).record.settings
    assert {name: best[name] for name in tuned.settings} == tuned.settings


def test_the_budget_and_the_settings_are_written(tuned):
    written = json.loads((tuned.folder / "best.json").read_text())
    assert written == tuned.to_json()
    assert written["budget"]["trials"] == {"complete": 4}
    assert written["budget"]["seconds"] > 0
    assert json.loads((tuned.folder / "best-settings.json").read_text()) == tuned.settings


def test_the_first_trial_takes_the_defaults(tuned):
    kind = find("ease").load()
    first = tm.open_run(tuned.folder / "trials" / "0000").record.settings
    assert first == kind.Config().to_json()


def test_started_again_it_goes_on_and_repeats_what_one_call_does(tuned, dataset, tmp_path):
    asked = {"data": dataset, "model": "ease", "out": tmp_path / "t", "split": "leave-one-out"}
    assert tune(**asked, trials=2, seed=1).trials == {"complete": 2}
    again = tune(**asked, trials=4, seed=1)
    assert again.settings == tuned.settings
    assert again.value == tuned.value
    assert tune(**asked, trials=4, seed=1).trials == {"complete": 4}


def test_a_round_knows_only_the_rounds_before(tuned, dataset, tmp_path):
    """However the calls are cut, and though its own trials were run one after the other."""
    asked = {"data": dataset, "model": "ease", "out": tmp_path / "t", "at_once": 3, "seed": 1}
    assert tune(**asked, trials=2, split="leave-one-out").trials == {"complete": 2}
    found = tune(**asked, trials=4, split="leave-one-out")
    whole = tune(**{**asked, "out": tmp_path / "u"}, trials=4, split="leave-one-out")
    assert (found.settings, found.value) == (whole.settings, whole.value)
    with pytest.raises(RunError, match=r"its at_once differ"):
        tune(**{**asked, "at_once": 2}, trials=4, split="leave-one-out")


def test_an_interrupted_trial_is_resumed(dataset, tmp_path, monkeypatch):
    asked = {"data": dataset, "model": "sasrec", "out": tmp_path / "t", "trials": 2, **SMALL}
    real = tuning.fit

    def interrupted(*args, listeners, **kwargs):
        def stop(record):
            raise KeyboardInterrupt

        return real(*args, listeners=[*listeners, stop], **kwargs)

    monkeypatch.setattr(tuning, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(**asked)
    monkeypatch.setattr(tuning, "fit", real)
    assert RunRecord.read(tmp_path / "t" / "trials" / "0000").status == "training"
    assert tune(**asked).trials == {"complete": 2}
    assert len(tm.open_run(tmp_path / "t" / "trials" / "0000").history) == 2


def test_a_trial_that_falls_behind_is_pruned(dataset, tmp_path, monkeypatch):
    """Trials get made-up validation curves: the last one is far below the others."""
    curves = [0.5] * (tuning._STARTUP + 1) + [0.1]
    stopped = []

    def scripted(data, model, *, out, listeners, **settings):
        height = curves[int(out.name)]
        record = tm.fit(data, "popularity", out=out, evaluate_on=("valid",)).record
        for epoch in range(8):
            try:
                for listener in listeners:
                    listener({"epoch": epoch, "valid": {"ndcg@10": height + 0.001 * epoch}})
            except BaseException:
                stopped.append((out.name, epoch))
                record.changed(status="training").save(out)
                raise
        return Run(out, record.changed(metrics={"valid": {"ndcg@10": height}}))

    monkeypatch.setattr(tuning, "fit", scripted)
    found = tune(dataset, "ease", out=tmp_path / "t", trials=len(curves), split="leave-one-out")
    assert stopped == [(f"{len(curves) - 1:04d}", tuning._WARMUP)]
    assert found.trials == {"complete": len(curves) - 1, "pruned": 1}
    assert RunRecord.read(tmp_path / "t" / "trials" / stopped[0][0]).status == "stopped"


def test_time_runs_out_and_more_time_goes_on(dataset, tmp_path):
    asked = {"data": dataset, "model": "ease", "out": tmp_path / "t", "trials": 50}
    with pytest.raises(ConfigError, match="time was too short"):
        tune(**asked, minutes=1e-9)
    found = tune(**asked, minutes=0.02)
    assert 1 <= found.trials["complete"] < 50


def test_fixed_settings_are_not_varied(dataset, tmp_path):
    name = next(iter(find("ease").load().search))
    fixed = {name: find("ease").load().Config().to_json()[name]}
    if len(find("ease").load().search) == 1:
        with pytest.raises(ConfigError, match="nothing to search"):
            tune(dataset, "ease", out=tmp_path / "t", **fixed)
    else:
        found = tune(dataset, "ease", out=tmp_path / "t", trials=3, **fixed)
        assert found.settings[name] == fixed[name]


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"model": "ease", "split": "leave-one-out:valid=0"}, "no validation part"),
        ({"model": "ease", "trials": 0}, "trials is 0"),
        ({"model": "ease", "minutes": -1}, "minutes is -1"),
        ({"model": "ease", "at_once": 0}, "at_once is 0"),
        ({"model": "ease", "epochs": 1}, "unknown setting 'epochs'"),
        ({"model": "easy"}, "did you mean 'ease'"),
    ],
)
def test_what_cannot_be_tuned_is_refused(dataset, tmp_path, asked, complaint):
    with pytest.raises(ConfigError, match=complaint):
        tune(dataset, out=tmp_path / "t", **asked)
    assert not (tmp_path / "t" / "trials").exists()


def test_the_folder_of_another_tuning_is_refused(tuned, dataset):
    with pytest.raises(RunError, match=r"holds another tuning \(its seed differ\)"):
        tune(dataset, "ease", out=tuned.folder, split="leave-one-out", seed=2)
