"""A Ray cluster does what one process does: the same trials, lists and trainings."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from tests.test_house import ROOT, commands, run

import tastemaker as tm
from tastemaker.data import split
from tastemaker.errors import ConfigError, RunError
from tastemaker.experiment import cluster
from tastemaker.experiment.batch import BatchJob, recommend_everybody
from tastemaker.experiment.cluster import HERE, RayEngine, engine_named
from tastemaker.experiment.tune import tune

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'tastemaker[ray]'")

SMALL = {
    "epochs": 4,
    "hidden_size": 8,
    "max_length": 8,
    "num_layers": 1,
    "num_heads": 1,
    "dropout": 0.0,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def workers():
    """A cluster of two workers on this machine; this process is connected to it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def engine(workers):
    return RayEngine(workers, device="cpu", workers=2)


@pytest.fixture(scope="module")
def ease(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("runs") / "ease"
    tm.fit(split(dataset, "leave-one-out"), "ease", out=folder, device="cpu")
    return folder


def trials_of(folder):
    """All that a study says of its trials, but for the clock."""
    optuna = pytest.importorskip("optuna")
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{folder / 'study.db'}")
    return [
        (trial.state.name, trial.params, trial.values, trial.intermediate_values)
        for trial in study.trials
    ]


def test_tuning_makes_the_same_trials_and_finds_the_same_settings(engine, dataset, tmp_path):
    asked = {"trials": 11, "at_once": 2, "split": "leave-one-out", "seed": 1, "device": "cpu"}
    here = tune(dataset, "bpr-mf", out=tmp_path / "here", epochs=6, **asked)
    there = tune(dataset, "bpr-mf", out=tmp_path / "there", epochs=6, engine=engine, **asked)
    assert trials_of(there.folder) == trials_of(here.folder)
    assert there.settings == here.settings
    assert there.value == here.value
    assert there.trials == here.trials
    assert here.trials["pruned"] > 0


def test_a_failed_trial_says_which_settings_failed(engine, dataset, tmp_path):
    asked = {"out": tmp_path / "t", "trials": 2, "at_once": 2, **SMALL}
    complaint = r"no trial was completed \(trial 0 \(batch_size=16\): .*loss is nan"
    with pytest.raises(ConfigError, match=complaint):
        tune(dataset, "sasrec", engine=engine, clip_norm=0.0, learning_rate=1e30, **asked)


def test_everybody_gets_the_same_lists_in_the_same_order(engine, ease, tmp_path):
    here = BatchJob(ease, tmp_path / "here.parquet", k=4, device="cpu", shard=16)
    there = BatchJob(ease, tmp_path / "there.parquet", k=4, device="cpu", shard=16)
    assert recommend_everybody(here) == recommend_everybody(there, engine) == 40
    assert there.out.read_bytes() == here.out.read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["here.parquet", "there.parquet"]


def test_shards_that_are_there_are_kept(engine, ease, tmp_path):
    job = BatchJob(ease, tmp_path / "lists.parquet", k=4, device="cpu", shard=16)
    job.folder.mkdir()
    opened = tm.open_run(ease, device="cpu")
    job.answer(opened, 1)
    kept = pl.read_parquet(job.path(1)).with_columns(score=pl.lit(7.0, pl.Float32))
    kept.write_parquet(job.path(1))
    recommend_everybody(job, engine)
    found = pl.read_parquet(job.out)
    assert found.filter(pl.col("score") == 7.0)["user"].unique().sort().to_list() == [
        f"u{user:02d}" for user in range(16, 32)
    ]


def test_two_workers_follow_the_trajectory_of_one_process(engine, dataset, tmp_path):
    asked = {"split": "leave-one-out", "device": "cpu", **SMALL}
    here = HERE.fit(dataset, "sasrec", out=tmp_path / "here", **asked)
    there = engine.fit(dataset, "sasrec", out=tmp_path / "there", **asked)
    losses = [record["loss"] for record in here.history]
    assert [record["loss"] for record in there.history] == pytest.approx(losses, abs=1e-5)
    assert there.record.environment["processes"] == 2
    assert there.record.differences(here.record) == []
    assert there.metrics["test"]["ndcg@10"] == pytest.approx(here.metrics["test"]["ndcg@10"])
    with pytest.raises(RunError, match="holds a finished run"):
        engine.fit(dataset, "sasrec", out=tmp_path / "there", **asked)


def test_errors_of_jobs_come_back(engine, tmp_path):
    def fail(shared, job):
        if job == "wrong":
            raise ConfigError(shared)
        if job == "broken":
            raise ZeroDivisionError(shared)
        return job

    def results(*jobs):
        return list(engine.spread(fail, "said so", jobs, folder=tmp_path))

    assert results("a", "b", "c") == ["a", "b", "c"]
    with pytest.raises(ConfigError, match=r"^said so$"):
        results("a", "wrong")
    with pytest.raises(RuntimeError, match="broken: ZeroDivisionError: said so"):
        results("a", "broken")
    assert list(tmp_path.iterdir()) == []


def test_a_job_whose_process_dies_is_named(engine, tmp_path):
    def die(shared, job):
        os._exit(1)

    with pytest.raises(RunError, match="shard 7 was lost with its process"):
        list(engine.spread(die, None, ["shard 7"], folder=tmp_path))


def test_a_folder_that_is_not_shared_is_refused(engine, tmp_path, monkeypatch):
    marker = nullcontext(SimpleNamespace(name="/elsewhere/marker"))
    files = SimpleNamespace(NamedTemporaryFile=lambda **_: marker)
    monkeypatch.setattr(cluster, "tempfile", files)
    with pytest.raises(RunError, match=r"/elsewhere is not the same folder on .* nodes share"):
        list(engine.spread(max, 1, [2], folder=tmp_path))


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"name": "rey"}, "engine 'rey' is neither 'local' nor 'ray'"),
        ({"name": "local", "workers": 2}, "are for --engine ray"),
        ({"name": "ray", "address": "127.0.0.1:1"}, r"'127.0.0.1:1' .*refused.*`ray start --head`"),
        ({"name": "ray", "address": "here"}, "no Ray cluster to be used at 'here'"),
    ],
)
def test_what_cannot_be_an_engine_is_refused(asked, complaint, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=complaint), engine_named(**asked):
        pass


def test_a_gpu_that_the_cluster_does_not_have_is_refused(workers):
    with pytest.raises(ConfigError, match="the cluster has no GPU"):
        RayEngine(workers, device="cuda")


def test_commands_of_the_page_run_as_printed(workers, csv_files, tmp_path, monkeypatch):
    """On the cluster at hand, with one epoch; the address is given by another process."""
    monkeypatch.chdir(tmp_path)
    columns = ["--user", "user", "--item", "item", "--time", "time"]
    log = str(csv_files / "log.csv")
    run(["tastemaker", "data", "import", log, *columns, "--to", "data/mine"], monkeypatch)
    for words in commands("docs/scale.md"):
        match words:
            case ["tastemaker", *given, "--address", _]:
                address = workers.get_runtime_context().gcs_address
                elsewhere(*given, "--address", address)
            case ["tastemaker", "recommend", *_]:
                run(words, monkeypatch)
            case ["tastemaker", *_]:
                run([*words, "--set", "epochs=1"], monkeypatch)
            case ["pip" | "export" | "ray", *_]:  # the cluster at hand stands for another
                pass
            case _:
                raise AssertionError(f"docs/scale.md: what is {words}?")
    assert tm.open_run("runs/sasrec").record.environment["processes"] == 2
    recommend_everybody(BatchJob(Path("runs/sasrec"), Path("here.parquet"), device="cpu"))
    for name in ("lists", "all"):
        assert Path(f"{name}.parquet").read_bytes() == Path("here.parquet").read_bytes()


def elsewhere(*given):
    """Give a command from a process that is not connected to the cluster yet."""
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "tastemaker", *given],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
