"""Comparing runs: paired, on the same questions only."""

from __future__ import annotations

import numpy as np
import pytest

import tastemaker as tm
from tastemaker.errors import ConfigError, RunError
from tastemaker.evaluation import paired_test


@pytest.fixture(scope="module")
def runs(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: tm.fit(dataset, name, out=folder / name, split="leave-one-out")
        for name in ("popularity", "ease", "item-knn")
    }


def test_the_table_is_the_paired_test_of_the_kept_values(runs):
    found = tm.compare(runs["popularity"], runs["ease"], runs["item-knn"], metrics=["ndcg@10"])
    assert found["run"].to_list() == ["ease", "item-knn"]
    first, second = (
        runs[name].evaluation("test").per_query["ndcg@10"] for name in ("popularity", "ease")
    )
    row = found.row(0, named=True)
    expected = paired_test(first, second)
    assert row["difference"] == pytest.approx(second.mean() - first.mean())
    assert row["p_value"] == expected.p_value
    assert (row["low"], row["high"]) == (expected.difference.low, expected.difference.high)
    assert row["queries"] == len(first)


def test_a_run_against_itself_differs_in_nothing(runs):
    found = tm.compare(runs["ease"].folder, runs["ease"].folder)
    assert found["metric"].to_list() == ["ndcg@10", "recall@10", "mrr@10"]
    assert np.all(found["difference"].to_numpy() == 0)
    assert np.all(found["p_value"].to_numpy() == 1)


def test_other_queries_are_refused_with_the_reason(runs, dataset, tmp_path):
    other = tm.fit(dataset, "ease", out=tmp_path / "other", split="ratio:test=0.3")
    with pytest.raises(RunError, match=r"different queries .*split 'leave-one-out' against 'ratio"):
        tm.compare(runs["popularity"], other)


def test_another_protocol_is_refused(runs, dataset, tmp_path):
    other = tm.fit(dataset, "ease", out=tmp_path / "other", split="leave-one-out")
    other.evaluate("test", exclude_seen=False)
    with pytest.raises(RunError, match="measured differently"):
        tm.compare(runs["ease"], other)


def test_a_run_that_was_not_evaluated_names_the_command(dataset, runs, tmp_path):
    other = tm.fit(dataset, "ease", out=tmp_path / "run", split="leave-one-out", evaluate_on=[])
    with pytest.raises(RunError, match=r"tastemaker evaluate .*run --part test"):
        tm.compare(runs["ease"], other)
    other.evaluate("test")
    assert len(tm.compare(runs["ease"], other)) == 3


def test_one_run_alone_is_refused(runs):
    with pytest.raises(ConfigError, match="at least two runs"):
        tm.compare(runs["ease"])


def test_an_unknown_metric_is_refused_with_the_nearest(runs):
    with pytest.raises(ConfigError, match=r"'ndgc@10'.*did you mean 'ndcg@10'"):
        tm.compare(runs["ease"], runs["popularity"], metrics=["ndgc@10"])
