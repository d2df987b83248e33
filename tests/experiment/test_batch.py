"""Lists for everybody: the same as one by one, resumable, whole or not at all."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest

from tastemaker.data import split
from tastemaker.errors import ConfigError
from tastemaker.experiment.batch import BatchJob, recommend_everybody
from tastemaker.experiment.fitting import fit
from tastemaker.experiment.run import open_run
from tastemaker.testing import tiny_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "ease"
    fit(split(tiny_dataset(), "leave-one-out"), "ease", out=place, device="cpu")
    return place


def test_everybody_gets_what_each_gets_alone(folder, tmp_path):
    job = BatchJob(folder, tmp_path / "lists.parquet", k=4, device="cpu", shard=32)
    assert recommend_everybody(job) == 80
    found = pl.read_parquet(job.out)
    run = open_run(folder, device="cpu")
    users = run.dataset.user_ids.decode(range(80)).to_pylist()
    alone = run.recommend(users, k=4)
    assert found["user"].to_list() == alone["query"].to_list()
    assert found["item"].to_list() == alone["item"].to_list()
    assert found["rank"].to_list() == alone["rank"].to_list()
    assert found["score"].to_list() == pytest.approx(alone["score"].to_list(), abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["lists.parquet"]


def test_an_interrupted_job_goes_on_where_it_stood(folder, tmp_path):
    job = BatchJob(folder, tmp_path / "lists.parquet", shard=20, device="cpu")
    run = open_run(folder, device="cpu")
    job.folder.mkdir()
    for number in (0, 2):
        job.answer(run, number)
    assert job.missing(80) == [1, 3]
    assert not job.out.exists()
    answered = []
    watching = _Watching(**dataclasses.asdict(job), answered=answered)
    recommend_everybody(watching)
    assert answered == [1, 3]
    whole = BatchJob(folder, tmp_path / "again.parquet", device="cpu")
    recommend_everybody(whole)
    assert pl.read_parquet(job.out).equals(pl.read_parquet(whole.out))


@dataclasses.dataclass(frozen=True)
class _Watching(BatchJob):
    answered: list = dataclasses.field(default_factory=list)

    def answer(self, run, number):
        self.answered.append(number)
        return super().answer(run, number)


def test_shards_of_another_question_are_not_taken(folder, tmp_path):
    job = BatchJob(folder, tmp_path / "lists.parquet", k=3)
    other = dataclasses.replace(job, k=4)
    assert job.folder != other.folder


def test_what_is_wrong_is_said_before_any_work(folder, tmp_path):
    out = tmp_path / "lists.parquet"
    with pytest.raises(ConfigError, match="at least one item"):
        recommend_everybody(BatchJob(folder, out, k=0))
    out.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        recommend_everybody(BatchJob(folder, out))
    assert out.read_text() == "mine"
