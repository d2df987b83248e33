"""The benchmarks' harness: its arithmetic, its turns, what it writes. No timing is asserted."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
QUESTIONS = sorted(
    path.stem for path in BENCHMARKS.glob("*.py") if "\nQUESTION = " in path.read_text()
)

SCRIPT = """
from pathlib import Path

from harness import Case, Curve, Question, Side, Target

FOLDER = Path(__file__).parent

def note(given, name):
    with (FOLDER / "order").open("a") as log:
        log.write(f"{given.case} {name} {(Path(given.folder) / 'ready').exists()}\\n")

def prepare(given):
    (Path(given.folder) / "ready").touch()

def ours(given):
    note(given, "ours")
    return {"rows_per_second": 6.0 * given.size**2, "seconds": 2.0}

def theirs(given):
    note(given, "theirs")
    return {"rows_per_second": 3.0 * given.size, "versions": {"peer": "1.0"}}

def broken(given):
    raise ValueError("no such column")

QUESTION = Question(
    "A question",
    cases=[Case("small", {"size": 1}), Case("large", {"size": 10})],
    sides=[Side("ours", ours), Side("theirs", theirs), Side("broken", broken, cases=("none",))],
    targets=[
        Target("rate", "rows_per_second", "theirs", at_least=3),
        Target("time", "seconds", at_most=1.5),
    ],
    curves=[Curve("rows_per_second", "size")],
    prepare=prepare,
    rounds=2,
)
if __name__ == "__main__":
    QUESTION.main()
"""


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("harness")


@pytest.fixture
def spreads(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("spreads")


@pytest.fixture
def performance(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("performance")


def answered(harness, monkeypatch, folder, *options, script=SCRIPT):
    """The result of a question whose file lies in `folder`."""
    (folder / "toy.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(BENCHMARKS), *sys.path]))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(harness, "RESULTS", folder / "results")
    monkeypatch.setattr(sys, "argv", [str(folder / "toy.py"), "--threads", "1", *options])
    monkeypatch.delitem(sys.modules, "toy", raising=False)
    importlib.import_module("toy").QUESTION.main()
    return json.loads((folder / "results" / "toy.json").read_text())


def test_spreads_and_ratios(spreads):
    assert spreads.spread([3.0, 1.0, 2.0]) == spreads.Spread(2.0, 1.0, 3.0)
    assert spreads.ratio([2.0, 6.0, 8.0], [1.0, 2.0, 8.0]) == spreads.Spread(2.0, 1.0, 3.0)
    assert spreads.ratio([2.0, 6.0], [2.0]) == spreads.Spread(2.0, 1.0, 3.0)  # one round of theirs


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponent_of_a_power_law(spreads, power):
    points = [(x, 3.0 * x**power) for x in (1.0, 2.0, 7.0)]
    assert math.isclose(spreads.exponent(points), power)


def test_a_line_has_a_fixed_part_and_one_of_each(spreads):
    fixed, each = spreads.line([(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)])
    assert (fixed, each) == (pytest.approx(3.0), pytest.approx(2.0))


@pytest.mark.parametrize(
    ("law", "most", "end"),
    [
        (lambda x: 3.0 * x, 300.0, 100.0),  # line and power law agree
        (lambda x: 50.0 + 2.0 * x, 250.0, 100.0),  # the power law would be later: a fixed part
        (lambda x: 2.0 * x**2, 20_000.0, 100.0),  # the line would be later
        (lambda x: 5.0 + 0.01 * x, 300.0, None),  # too little growth to tell
        (lambda x: 5.0 / x, 300.0, None),
    ],
)
def test_where_a_curve_comes_to_a_limit(spreads, law, most, end):
    points = [(x, law(x)) for x in (1.0, 2.0, 4.0, 8.0)]
    assert spreads.reach(points, most) == (None if end is None else pytest.approx(end))


def test_sides_take_turns_on_prepared_cases(harness, monkeypatch, tmp_path):
    answered(harness, monkeypatch, tmp_path)
    turns = ["small ours True", "small theirs True"] * 2 + [
        "large ours True",
        "large theirs True",
    ] * 2
    assert (tmp_path / "order").read_text().splitlines() == turns


def test_a_result_has_raw_numbers_targets_and_curves(harness, monkeypatch, tmp_path):
    result = answered(harness, monkeypatch, tmp_path, "--rounds", "1")
    assert result["question"] == "toy"
    assert result["command"] == "python benchmarks/toy.py --threads 1 --rounds 1"
    assert result["cases"]["large"]["raw"]["ours"] == [{"rows_per_second": 600.0, "seconds": 2.0}]
    assert result["cases"]["large"]["settings"]["size"] == 10
    assert result["versions"]["theirs"] == {"peer": "1.0"}
    assert result["machine"]["cores"] == os.cpu_count()
    verdicts = {(row["name"], row["case"]): (row["value"], row["met"]) for row in result["targets"]}
    assert verdicts == {
        ("rate", "small"): (2.0, False),
        ("rate", "large"): (20.0, True),
        ("time", "small"): (2.0, False),
        ("time", "large"): (2.0, False),
    }
    exponents = {row["side"]: round(row["exponent"], 6) for row in result["curves"]}
    assert exponents == {"ours": 2.0, "theirs": 1.0}


def test_memory_is_continued_to_that_of_the_machine(
    harness, performance, monkeypatch, tmp_path, capsys
):
    script = SCRIPT.replace('Curve("rows_per_second", "size")', 'Curve("seconds", "size", True)')
    script = script.replace('"seconds": 2.0', '"seconds": 100.0 * given.size')  # MiB here
    (row,) = answered(harness, monkeypatch, tmp_path, script=script)["curves"]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert row["bytes_each"] == pytest.approx(100 * 2**20)
    assert row["ends_at"] == pytest.approx(memory / (100 * 2**20))
    assert f"memory ends at {row['ends_at']:,.0f}" in capsys.readouterr().out
    monkeypatch.setattr(performance, "RESULTS", tmp_path / "results")
    line = performance.ends_table().splitlines()[-1]
    assert line.startswith("| ours (`toy`) | size | 1 to 10 | 100 to 1,000 | 1.00 | 100,000,000 |")


def test_a_quick_run_leaves_out_what_is_not_quick(harness, monkeypatch, tmp_path):
    script = SCRIPT.replace('{"size": 10})', '{"size": 10}, quick=False)')
    monkeypatch.setattr(harness, "QUICK", tmp_path / "results")
    assert set(answered(harness, monkeypatch, tmp_path, "--quick", script=script)["cases"]) == {
        "small"
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--case", "smal"], "invalid choice: 'smal' (choose from"),
        (["--side", "peer"], "invalid choice: 'peer' (choose from"),
        (["--rounds", "0"], "a side runs once at least"),
    ],
)
def test_what_would_answer_nothing_is_refused(
    options, said, harness, monkeypatch, tmp_path, capsys
):
    with pytest.raises(SystemExit, match="2"):
        answered(harness, monkeypatch, tmp_path, *options)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_broken_side_fails_and_the_others_are_kept(harness, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        answered(harness, monkeypatch, tmp_path, script=SCRIPT.replace('cases=("none",)', ""))
    assert "no such column" in capsys.readouterr().err
    kept = json.loads((tmp_path / "results" / "toy.json").read_text())
    assert set(kept["cases"]["small"]["raw"]) == {"ours", "theirs"}


def test_tables_show_targets_and_what_was_missed(harness, performance, monkeypatch, tmp_path):
    result = answered(harness, monkeypatch, tmp_path, "--rounds", "1")
    monkeypatch.setattr(performance, "RESULTS", tmp_path / "results")
    table = performance.targets_table()
    assert (
        "| rate (`toy`) | large | rows a second | >= 3x theirs | 600 | 30 | 20 [20, 20] | yes |"
        in (table.splitlines())
    )
    assert "| time (`toy`) | large | seconds | <= 1.5 | 2 | - | - | **no** |" in table.splitlines()
    assert "| `toy` | ours | rows a second over size | 1: 6, 10: 600 | 2.00 | 2.00 |" in (
        performance.curves_table().splitlines()
    )
    assert performance.missed([result]) == ["toy"]


def test_every_missed_target_is_explained(performance):
    assert set(performance.missed()) <= set(performance.explained())


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_name_sides_and_scripts_that_exist(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    question = importlib.import_module(name).QUESTION
    sides = {side.name for side in question.sides}
    cases = {case.name for case in question.cases}
    for target in question.targets:
        assert {target.side, *filter(None, [target.against])} <= sides, target
        assert set(target.cases) <= cases, target
    for side in question.sides:
        assert set(side.cases) <= cases, side
        if isinstance(side.work, str):
            assert (BENCHMARKS / "peers" / side.work).is_file(), side
            assert (BENCHMARKS / "peers" / f"{side.environment}.txt").is_file(), side


def test_a_case_of_scaling_lies_on_one_axis(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    scaling = importlib.import_module("scaling")
    for case in scaling.QUESTION.cases:
        assert len(scaling.AXES.keys() & case.settings) == 1, case
    measured = {curve.over for curve in scaling.QUESTION.curves}
    assert measured == set(scaling.AXES)


def test_environments_pin_every_version():
    for path in (BENCHMARKS / "peers").glob("*.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert lines
        assert all(line.count("==") == 1 for line in lines), path


def test_peers_measure_ndcg_as_we_do():
    code = """
import sys
import numpy as np
from types import SimpleNamespace
from common import factor_lists, ndcg
log = SimpleNamespace(
    n_users=2, n_items=4,
    known_users=np.array([0, 1]), known_items=np.array([3, 0]),
    target_users=np.array([0, 1, 1]), target_items=np.array([2, 1, 3]),
)
users = np.array([[1.0], [1.0]])
items = np.array([[3.0], [2.0], [1.0], [9.0]])
lists = factor_lists(log, np.array([0, 1]), users, items, k=2)
print(lists.tolist(), round(ndcg(log, np.array([0, 1]), lists), 6))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BENCHMARKS / "peers",
        capture_output=True,
        text=True,
        check=True,
    )
    # User 0 lists 0 and 1 and wanted 2; user 1 lists 3 and 1 and wanted both.
    assert done.stdout.strip() == "[[0, 1], [3, 1]] 0.5"
