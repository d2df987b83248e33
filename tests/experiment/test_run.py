"""Run folders: whole or resumable, self-contained, and refused when somebody changed them."""

from __future__ import annotations

import json
import os
import shutil
import time

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import tastemaker as tm
from tastemaker.errors import ConfigError, DataError, RunError
from tastemaker.experiment.environment import describe_environment
from tastemaker.experiment.record import RunRecord


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("runs") / "ease"
    return tm.fit(dataset, "ease", out=folder, split="leave-one-out")


@pytest.fixture
def copied(finished, tmp_path):
    """A run that a test may damage."""
    return shutil.copytree(finished.folder, tmp_path / "copy")


class Stopped(Exception):
    pass


def stop_after(epochs):
    """A listener that ends the training like an interruption."""

    def listen(record):
        if record["epoch"] + 1 >= epochs:
            raise Stopped

    return listen


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_the_folder_holds_what_is_documented(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {"run.json", "model.safetensors", "metrics.jsonl", "data", "evaluation"}
    record = json.loads((finished.folder / "run.json").read_text())
    assert record["format"] == 1
    assert record["status"] == "finished"
    assert record["model"] == "ease"
    assert record["split"] == "leave-one-out"
    assert record["fingerprint"] == finished.dataset.fingerprint
    assert set(record["metrics"]) == {"valid", "test"}
    assert record["environment"]["python"]


def test_the_kept_evaluation_is_that_of_evaluating_again(finished):
    kept = finished.evaluation("test")
    again = tm.open_run(finished.folder).evaluate("test")
    assert again.to_json() == kept.to_json()
    for name, values in kept.per_query.items():
        np.testing.assert_array_equal(values, again.per_query[name])
    np.testing.assert_array_equal(kept.users, again.users)


def test_values_per_query_are_kept_with_raw_ids(finished):
    frame = pl.read_parquet(finished.folder / "evaluation" / "test.parquet")
    assert set(frame["user"]) == {f"u{user:02d}" for user in range(40)}
    assert frame["ndcg@10"].mean() == pytest.approx(finished.metrics["test"]["ndcg@10"])


def test_a_run_moves_and_answers_the_same(finished, copied):
    asked = {"users": ["u03", "u31"], "k": 5}
    moved = tm.open_run(copied).recommend(**asked)
    assert moved.equals(finished.recommend(**asked))


def test_interrupted_and_repeated_is_the_uninterrupted_run(dataset, quick, tmp_path):
    asked = {"data": dataset, "model": "sasrec", "split": "leave-one-out", "seed": 3, **quick}
    straight = tm.fit(**asked, out=tmp_path / "straight")
    broken = tmp_path / "broken"
    with pytest.raises(Stopped):
        tm.fit(**asked, out=broken, listeners=[stop_after(1)])
    assert RunRecord.read(broken).status == "training"
    with pytest.raises(RunError, match="is not finished"):
        tm.open_run(broken)
    resumed = tm.fit(**asked, out=broken)
    assert_same_weights(straight.folder, resumed.folder)
    assert resumed.metrics == straight.metrics
    assert len(resumed.history) == quick["epochs"]
    assert not (broken / "checkpoint.safetensors").exists()


def test_killed_between_weights_and_metrics_only_evaluates(dataset, quick, tmp_path, monkeypatch):
    asked = {"data": dataset, "model": "sasrec", "out": tmp_path / "run", **quick}
    run = tm.fit(**asked)
    metrics = run.metrics
    run.record.changed(status="evaluating", metrics={}).save(run.folder)
    shutil.rmtree(run.folder / "evaluation")
    monkeypatch.setattr("tastemaker.experiment.fitting.train", None)  # must not be called
    again = tm.fit(**asked)
    assert again.metrics == metrics


def test_a_finished_run_is_refused_and_overwritten_only_on_request(dataset, tmp_path):
    folder = tmp_path / "run"
    tm.fit(dataset, "popularity", out=folder)
    with pytest.raises(RunError, match=r"holds a finished run; .*overwrite"):
        tm.fit(dataset, "popularity", out=folder)
    assert tm.fit(dataset, "ease", out=folder, overwrite=True).record.model == "ease"


def test_other_settings_in_the_folder_of_an_unfinished_run_are_named(dataset, quick, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        tm.fit(dataset, "sasrec", out=folder, listeners=[stop_after(1)], **quick)
    with pytest.raises(RunError, match=r"other settings \(seed 0 against 1; dropout 0.2 against 0"):
        tm.fit(dataset, "sasrec", out=folder, seed=1, dropout=0.0, **quick)
    with pytest.raises(RunError, match='model "sasrec" against "ease"'):
        tm.fit(dataset, "ease", out=folder)


def test_overwrite_resumes_its_own_interrupted_run(dataset, quick, tmp_path):
    folder = tmp_path / "run"
    asked = {"data": dataset, "model": "sasrec", "out": folder, "overwrite": True, **quick}
    tm.fit(dataset, "popularity", out=folder)
    with pytest.raises(Stopped):
        tm.fit(**asked, listeners=[stop_after(1)])
    first = RunRecord.read(folder).started
    time.sleep(1.1)
    assert tm.fit(**asked).record.started == first


def test_a_folder_with_other_things_is_left_alone(dataset, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        tm.fit(dataset, "popularity", out=tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_bad_settings_leave_no_folder(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown setting 'epoch'; did you mean 'epochs'\?"):
        tm.fit(dataset, "sasrec", out=tmp_path / "run", epoch=3)
    assert not (tmp_path / "run").exists()


def test_half_written_files_of_a_killed_process_are_swept(dataset, quick, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        tm.fit(dataset, "sasrec", out=folder, listeners=[stop_after(1)], **quick)
    (folder / ".data.abc").mkdir()
    (folder / ".model.safetensors.xyz").write_bytes(b"half")
    tm.fit(dataset, "sasrec", out=folder, **quick)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_second_process_is_refused_while_one_trains(dataset, quick, tmp_path):
    folder = tmp_path / "run"
    refused = []

    def listen(record):
        try:
            tm.fit(dataset, "sasrec", out=folder, **quick)
        except RunError as error:
            refused.append(str(error))

    tm.fit(dataset, "sasrec", out=folder, listeners=[listen], **quick)
    assert "another process is training here" in refused[0]


def rewrite(folder, **values):
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_another_format_version_is_refused(copied):
    rewrite(copied, format=99)
    with pytest.raises(RunError, match="run format 99 is not 1"):
        tm.open_run(copied)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "status": "odd"}'])
def test_a_damaged_record_is_refused(copied, text):
    (copied / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        tm.open_run(copied)


def test_weights_of_another_shape_are_refused(copied):
    (name,) = [name for name, tensor in weights(copied).items() if tensor.dim() == 2]
    save_file({**weights(copied), name: torch.zeros(2, 2)}, copied / "model.safetensors")
    with pytest.raises(RunError, match=rf"tensor '{name}' has shape \(2, 2\)"):
        _ = tm.open_run(copied).model


def test_missing_and_unknown_tensors_are_refused(copied):
    save_file({"odd": torch.zeros(1)}, copied / "model.safetensors")
    with pytest.raises(RunError, match="the run recorded"):
        _ = tm.open_run(copied).model


@pytest.mark.parametrize("content", [b"", b"\x00" * 64])
def test_damaged_weights_are_refused(copied, content):
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="missing or damaged"):
        _ = tm.open_run(copied).model


@pytest.mark.parametrize("name", ["model.safetensors", "data", "data/interactions.arrow"])
def test_links_out_of_the_folder_are_refused(copied, tmp_path, name):
    outside = tmp_path / "outside"
    shutil.move(copied / name, outside)
    (copied / name).symlink_to(outside)
    with pytest.raises(RunError, match="leads out of the run folder"):
        _ = tm.open_run(copied).model


def test_a_model_name_that_is_a_path_is_refused(copied):
    rewrite(copied, model="../../evil")
    with pytest.raises(ConfigError, match="unknown model"):
        _ = tm.open_run(copied).model


def test_other_data_than_the_run_was_trained_on_are_refused(copied):
    rewrite(copied, fingerprint="0" * 64)
    with pytest.raises(RunError, match="is not the data this run was trained on"):
        _ = tm.open_run(copied).dataset


def test_missing_data_are_named(copied):
    shutil.rmtree(copied / "data")
    with pytest.raises(RunError, match="no stored data set here"):
        _ = tm.open_run(copied).dataset


def test_a_damaged_evaluation_names_the_remedy(copied):
    (copied / "evaluation" / "test.parquet").write_bytes(b"half")
    with pytest.raises(RunError, match="repeat it with: tastemaker evaluate"):
        tm.open_run(copied).evaluation("test")


def test_a_missing_run_names_the_folder(tmp_path):
    with pytest.raises(RunError, match="nowhere does not exist"):
        tm.open_run(tmp_path / "nowhere")


def test_refit_trains_on_the_validation_rows_and_keeps_the_test_queries(dataset, tmp_path):
    plain = tm.fit(dataset, "ease", out=tmp_path / "plain", split="leave-one-out")
    refitted = tm.fit(dataset, "ease", out=tmp_path / "refit", split="leave-one-out", refit=True)
    assert set(refitted.metrics) == {"test"}
    assert len(refitted.split.train) == len(plain.split.train) + 40
    with pytest.raises(DataError, match="no valid part, and the run was refitted"):
        refitted.evaluate("valid")
    assert tm.compare(plain, refitted)["queries"].to_list() == [40, 40, 40]


def test_filters_are_applied_before_the_split_and_kept(dataset, tmp_path):
    run = tm.fit(dataset, "popularity", out=tmp_path / "run", filters=["deduplicate:keep=last"])
    assert run.record.filters == ("deduplicate:keep=last",)
    assert run.dataset.n_interactions <= dataset.n_interactions
    assert "kept" in run.record.filtered[0]


@pytest.mark.parametrize("refit", [False, True])
def test_a_split_made_outside_is_dealt_again(dataset, tmp_path, refit):
    made = tm.split(dataset, "ratio:valid=0.1,test=0.2,order=random", seed=5)
    made = made.refit() if refit else made
    run = tm.fit(made, "popularity", out=tmp_path / "run", seed=1)
    np.testing.assert_array_equal(run.split.train.rows, made.train.rows)
    assert tm.open_run(tmp_path / "run").split.seed == 5


def test_a_split_is_not_split_again(dataset, tmp_path):
    made = tm.split(dataset, "ratio:test=0.2,order=random", seed=5)
    with pytest.raises(ConfigError, match="split already"):
        tm.fit(made, "popularity", out=tmp_path / "run", split_seed=1)


def test_the_environment_names_no_host_and_no_path():
    environment = json.dumps(describe_environment())
    assert os.uname().nodename not in environment
    assert os.path.expanduser("~") not in environment
