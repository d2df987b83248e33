"""The five lines of Python: names, frames in, frames out."""

from __future__ import annotations

import polars as pl
import pytest

import tastemaker as tm


@pytest.fixture
def frame():
    rows = [
        (f"u{user}", f"i{(user + step) % 25}", 1_600_000_000 + step)
        for user in range(20)
        for step in range(10)
    ]
    return pl.DataFrame(rows, schema=["who", "what", "when"], orient="row")


def test_every_public_name_is_there():
    for name in tm.__all__:
        assert getattr(tm, name) is not None
    assert set(tm.__all__) <= set(dir(tm))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tastemaker' has no attribute 'fitt'"):
        _ = tm.fitt


def test_from_frame_to_recommendations(frame, tmp_path):
    data = tm.dataset(frame, user="who", item="what", timestamp="when", name="mine")
    split = tm.split(data, "leave-one-out")
    run = tm.fit(split, "ease", out=tmp_path / "run", seed=0)
    found = run.evaluate()
    assert found.n_queries == 20
    assert run.metrics["test"]["ndcg@10"] == found["ndcg@10"]
    answer = tm.open_run(tmp_path / "run").recommend(users=["u3"], k=2)
    assert isinstance(answer, pl.DataFrame)
    assert answer["query"].to_list() == ["u3", "u3"]
    assert run.report().is_file()


def test_pandas_frames_are_read_alike(frame, tmp_path):
    pytest.importorskip("pandas")
    options = {"user": "who", "item": "what", "timestamp": "when"}
    ours = tm.dataset(frame, **options)
    theirs = tm.dataset(frame.to_pandas(), **options)
    assert ours.interactions.equals(theirs.interactions)


def test_a_data_set_is_split_by_what_suits_it(frame, tmp_path):
    data = tm.dataset(frame, user="who", item="what", name="mine")
    run = tm.fit(data, "popularity", out=tmp_path / "run")
    assert run.record.split.startswith("ratio:")


def test_the_default_folder_names_data_and_model(frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tm.dataset(frame, user="who", item="what", timestamp="when", name="mine")
    assert str(tm.fit(data, "popularity").folder) == "runs/mine-popularity"


def test_a_stored_folder_is_data_too(frame, tmp_path):
    data = tm.dataset(frame, user="who", item="what", timestamp="when", name="mine")
    data.save(tmp_path / "data")
    run = tm.fit(tmp_path / "data", "popularity", out=tmp_path / "run")
    assert run.dataset.fingerprint == data.fingerprint
    assert tm.load(tmp_path / "data").fingerprint == data.fingerprint
