"""Asking a run: raw ids in and out, known and unknown users, filters, clear refusals."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import tastemaker as tm
from tastemaker.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("runs") / "ease"
    return tm.fit(dataset, "ease", out=folder, split="leave-one-out")


@pytest.fixture(scope="module")
def matrix_run(tmp_path_factory, dataset):
    """A method that learns something about each user, trained on all events of some users."""
    folder = tmp_path_factory.mktemp("runs") / "bpr"
    return tm.fit(
        dataset,
        "bpr-mf",
        out=folder,
        split="held-out-users:valid=0.1,test=0.1",
        epochs=2,
        hidden_size=8,
    )


def test_a_frame_of_raw_ids_and_titles(run):
    found = run.recommend(["u00", "u01"], k=3)
    assert found.columns == ["query", "rank", "item", "title", "score"]
    assert found["query"].to_list() == ["u00"] * 3 + ["u01"] * 3
    assert found["rank"].to_list() == [1, 2, 3] * 2
    assert found["title"].to_list() == [f"Stop <{int(item[1:])}> & more" for item in found["item"]]
    assert found.group_by("query").agg(pl.col("score").is_sorted(descending=True))["score"].all()


def test_one_alone_is_one_among_many(run):
    together = run.recommend(["u00", "u01"], k=4)
    for user in ("u00", "u01"):
        assert run.recommend(user, k=4).equals(together.filter(pl.col("query") == user))


def test_seen_items_are_left_out_unless_asked_for(run, dataset):
    (code,) = dataset.user_ids.encode(["u05"])
    start, stop = dataset.user_offsets[code : code + 2]
    seen = set(dataset.item_ids.decode(dataset.column("item")[start:stop]).to_pylist())
    n_unseen = 30 - len(seen)
    found = run.recommend("u05", k=30)["item"].to_list()
    assert len(found) == n_unseen
    assert seen.isdisjoint(found)
    assert len(run.recommend("u05", k=30, exclude_seen=False)) == 30


def test_a_history_answers_like_the_user_who_has_it(run, dataset):
    (code,) = dataset.user_ids.encode(["u05"])
    start, stop = dataset.user_offsets[code : code + 2]
    history = dataset.item_ids.decode(dataset.column("item")[start:stop]).to_pylist()
    asked = run.recommend(histories=history, k=5)
    assert asked["query"].to_list() == [0] * 5
    assert asked.drop("query").equals(run.recommend("u05", k=5).drop("query"))


def test_many_histories_and_an_empty_one(run):
    found = run.recommend(histories=[["i01", "i02"], []], k=2)
    assert found["query"].to_list() == [0, 0, 1, 1]


def test_allow_and_exclude(run):
    allowed = run.recommend(["u00", "u01"], k=30, allow=["i20", "i21", "i22"], exclude=["i21"])
    assert set(allowed["item"]) <= {"i20", "i22"}
    everyone = run.recommend(["u00", "u01"], k=30, exclude=["i03", "i04"])
    assert set(everyone["item"]).isdisjoint({"i03", "i04"})
    unseen = run.recommend("u00", k=30, exclude=["i03"], exclude_seen=False)
    assert len(unseen) == 29


def test_unknown_items_of_a_history_are_left_out_and_said(run, capsys):
    found = run.recommend(histories=["i01", "nope", "i02"], k=3)
    assert found.equals(run.recommend(histories=["i01", "i02"], k=3))
    assert "ignored, as the run does not know them: 'nope'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"users": "u99"}, r"unknown user 'u99'; did you mean 'u\d9'\?; the run knows 40 users"),
        ({"histories": ["x1", "x2"]}, "history: unknown item 'x1'"),
        ({"histories": [["i01"], ["x2"]]}, "history 1: unknown item 'x2'"),
        ({"users": "u00", "allow": ["x"]}, "allow: unknown item 'x'"),
    ],
)
def test_unknown_ids_are_named(run, asked, complaint):
    with pytest.raises(DataError, match=complaint):
        run.recommend(**asked)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({}, "exactly one of the two"),
        ({"users": "u00", "histories": ["i01"]}, "exactly one of the two"),
        ({"users": "u00", "k": 0}, "k is 0"),
        ({"histories": "i01"}, "a history is a list of item ids"),
    ],
)
def test_unclear_questions_are_refused(run, asked, complaint):
    with pytest.raises(ConfigError, match=complaint):
        run.recommend(**asked)


def test_a_user_is_known_to_the_model_only_with_all_events_trained_on(matrix_run, dataset):
    train = matrix_run.split.train
    trained = np.diff(train.offsets) == np.diff(dataset.user_offsets)
    assert 0 < trained.sum() < 40
    inside, outside = (
        str(dataset.user_ids.raw(int(np.flatnonzero(chosen)[0]))) for chosen in (trained, ~trained)
    )

    def same_as_stranger(user):
        (code,) = dataset.user_ids.encode([user])
        start, stop = dataset.user_offsets[code : code + 2]
        history = dataset.item_ids.decode(dataset.column("item")[start:stop]).to_pylist()
        asked = matrix_run.recommend(histories=history, k=5)
        return asked["score"].equals(matrix_run.recommend(user, k=5)["score"])

    assert same_as_stranger(outside)
    assert not same_as_stranger(inside)


def test_similar_items(matrix_run):
    found = matrix_run.similar("i07", k=4)
    assert found["query"].to_list() == ["i07"] * 4
    assert "i07" not in found["item"].to_list()
    assert len(matrix_run.similar(["i07", "i08"], k=2)) == 4
    with pytest.raises(DataError, match="unknown item 'i77'"):
        matrix_run.similar("i77")


def test_similar_is_refused_where_a_method_cannot_tell(dataset, tmp_path):
    run = tm.fit(dataset, "popularity", out=tmp_path / "run")
    with pytest.raises(ConfigError, match="has no item vectors"):
        run.similar("i01")


def test_number_ids_come_back_as_numbers(tmp_path):
    rows = [(user, (user + step) % 9, step) for user in range(20) for step in range(5)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    data = tm.dataset(frame, user="user", item="item", timestamp="time", name="numbers")
    run = tm.fit(data, "ease", out=tmp_path / "run")
    found = run.recommend([3, 4], k=2)
    assert found["query"].to_list() == [3, 3, 4, 4]
    assert found["item"].dtype == pl.Int64
    assert run.recommend("3", k=2).equals(found.head(2))
