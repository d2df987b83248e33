"""The command line: every command, its JSON, its errors and exit codes."""

from __future__ import annotations

import csv
import json
import sys

import pytest

import tastemaker
from tastemaker import console
from tastemaker.cli import main
from tastemaker.models.catalog import ENTRIES

SMALL = (
    *("--set", "epochs=1", "--set", "hidden_size=8", "--set", "max_length=8"),
    *("--set", "num_layers=1"),
)


class Result:
    """What a command left: exit code, the lines of stdout, stderr."""

    def __init__(self, code, out, err):
        self.code, self.lines, self.err = code, out.splitlines(), err

    @property
    def json(self):
        return json.loads(self.lines[-1])

    @property
    def text(self):
        return "\n".join(self.lines)


@pytest.fixture
def tm(monkeypatch, capsys):
    """Runs a command line in this process."""
    quiet = console.is_quiet()

    def run(*arguments):
        console.set_quiet(False)
        monkeypatch.setattr(sys, "argv", ["tastemaker", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Result(left.value.code or 0, out, err)

    yield run
    console.set_quiet(quiet)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A log of thirty users on a ring of fifteen films, and the films' titles."""
    folder = tmp_path_factory.mktemp("files")
    with (folder / "log.csv").open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(["user", "film", "stars", "time"])
        for user in range(30):
            for step in range(7):
                log.writerow(
                    [f"u{user}", f"f{(user + step) % 15}", 1 + step % 5, 1_600_000_000 + step]
                )
    with (folder / "films.csv").open("w", newline="") as file:
        films = csv.writer(file)
        films.writerow(["film", "title"])
        films.writerows([[f"f{film}", f"Film {film}"] for film in range(15)])
    return folder


@pytest.fixture(scope="module")
def world(files, tmp_path_factory):
    """The imported data set and two runs on it, made by commands."""
    folder = tmp_path_factory.mktemp("world")
    quiet, argv = console.is_quiet(), sys.argv
    columns = ("--user", "user", "--item", "film", "--time", "time", "--label", "stars")
    titles = ("--items", files / "films.csv", "--item-id", "film")
    for arguments in (
        ("data", "import", files / "log.csv", *columns, *titles, "--to", folder / "data"),
        ("train", folder / "data", "--model", "popularity", "--out", folder / "popularity"),
        ("train", folder / "data", "--model", "ease", "--out", folder / "ease"),
    ):
        sys.argv = ["tastemaker", *map(str, arguments), "--quiet"]
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0
    sys.argv = argv
    console.set_quiet(quiet)
    return folder


def test_help_names_every_command(tm):
    found = tm("--help")
    assert found.code == 0
    for command in (
        *("data", "models", "train", "evaluate", "recommend", "similar", "compare"),
        *("tune", "report", "doctor"),
    ):
        assert f"\n  {command} " in found.text


def test_every_help_line_is_whole(tm):
    assert "..." not in tm("--help").text.replace("[ARGS]...", "")


def test_version(tm):
    assert tm("--version").lines == ["0.1.0"]


def test_data_import_show_and_list(tm, world, files, monkeypatch):
    shown = tm("data", "show", world / "data", "--json").json
    assert (shown["users"], shown["items"], shown["interactions"]) == (30, 15, 210)
    assert shown["columns"]["interactions"]["label"] == "float"
    assert "210" in tm("data", "show", world / "data").text
    monkeypatch.setenv("TASTEMAKER_DATA", str(world))
    listed = {entry["name"]: entry for entry in tm("data", "list", "--json").json["datasets"]}
    assert listed["data"]["where"] == str(world / "data")
    assert "ml-1m" in listed
    assert "ml-1m" in tm("data", "list").text


def test_data_import_says_what_it_stored(tm, files, tmp_path):
    options = ("--user", "user", "--item", "film", "--order", "time", "--to", tmp_path / "d")
    found = tm("data", "import", files / "log.csv", *options, "--json")
    assert found.json["interactions"] == 210
    assert found.json["folder"] == str(tmp_path / "d")
    again = tm("data", "import", files / "log.csv", *options)
    assert again.code == 2
    assert "exists already" in again.err


def test_data_import_names_a_missing_column_and_writes_nothing(tm, files, tmp_path):
    options = ("--user", "usr", "--item", "film", "--to", tmp_path / "d")
    found = tm("data", "import", files / "log.csv", *options)
    assert found.code == 2
    assert "usr" in found.err
    assert "user" in found.err
    assert list(tmp_path.iterdir()) == []


def test_data_get_stores_a_copy(tm, world, tmp_path):
    found = tm("data", "get", world / "data", "--to", tmp_path / "copy", "--json").json
    assert found["folder"] == str(tmp_path / "copy")
    assert (
        tm("data", "show", tmp_path / "copy", "--json").json["fingerprint"] == found["fingerprint"]
    )


def test_models(tm):
    found = tm("models", "--json").json
    assert [set(row) for row in found] == [{"name", "family", "task", "needs", "paper"}] * len(
        found
    )
    assert [row["name"] for row in found][: len(ENTRIES)] == list(ENTRIES)
    sasrec = next(row for row in found if row["name"] == "sasrec")
    assert sasrec["needs"] == ["order"]
    assert "lightgcn" in tm("models").text


def test_one_models_settings(tm):
    found = tm("models", "sasrec", "--json").json
    settings = {setting["name"]: setting for setting in found["settings"]}
    assert settings["epochs"]["meaning"]
    assert "hidden_size" in tm("models", "sasrec").text


def test_train_json(tm, world, tmp_path):
    found = tm("train", world / "data", "-m", "sasrec", "-o", tmp_path / "run", *SMALL, "--json")
    assert found.code == 0
    assert set(found.json) == {"run", "model", "metrics", "seconds"}
    assert found.json["model"] == "sasrec"
    assert set(found.json["metrics"]) == {"valid", "test"}
    assert 0 <= found.json["metrics"]["test"]["ndcg@10"] <= 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["hidden_size"] == 8


def test_train_shows_a_table_and_is_silent_when_quiet(tm, world, tmp_path):
    loud = tm("train", world / "data", "-m", "popularity", "-o", tmp_path / "loud")
    assert "ndcg@10" in loud.text
    assert "run:" in loud.err
    quiet = tm("train", world / "data", "-m", "popularity", "-o", tmp_path / "quiet", "--quiet")
    assert (quiet.code, quiet.text, quiet.err) == (0, "", "")


def test_train_takes_settings_from_a_file_and_set_wins(tm, world, tmp_path):
    (tmp_path / "s.toml").write_text("regularization = 1.0\n")
    name = next(iter(ENTRIES["ease"].load().Config().to_json()))
    (tmp_path / "s.toml").write_text(f"{name} = 20.0\n")
    options = ("--config", tmp_path / "s.toml", "-q")
    tm("train", world / "data", "-m", "ease", "-o", tmp_path / "a", *options)
    tm("train", world / "data", "-m", "ease", "-o", tmp_path / "b", *options, "--set", f"{name}=30")
    values = [
        json.loads((tmp_path / run / "run.json").read_text())["settings"][name] for run in "ab"
    ]
    assert values == [20.0, 30.0]


def test_train_with_filter_split_and_refit(tm, world, tmp_path):
    options = (
        "--filter",
        "min-label:threshold=3",
        "--split",
        "ratio:valid=0.2,test=0.2",
        "--refit",
    )
    found = tm("train", world / "data", "-m", "popularity", "-o", tmp_path / "run", *options)
    assert found.code == 0
    assert "dropped" in found.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["filters"] == ["min-label:threshold=3"]
    assert record["refit"] is True
    assert set(record["metrics"]) == {"test"}


def test_evaluate(tm, world):
    found = tm("evaluate", world / "ease", "--json").json
    trained = json.loads((world / "ease" / "run.json").read_text())
    value = found["values"]["ndcg@10"]
    assert value["low"] <= value["value"] <= value["high"]
    assert value["value"] == trained["metrics"]["test"]["ndcg@10"]
    assert found["metrics"] == {"test": trained["metrics"]["test"]}
    assert "full ranking" in tm("evaluate", world / "ease", "--part", "valid").text


def test_recommend_for_a_user(tm, world):
    found = tm("recommend", world / "ease", "--user", "u1", "-k", "4", "--json").json
    rows = found["recommendations"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["title"] == f"Film {rows[0]['item'][1:]}"
    assert rows[0]["title"] in tm("recommend", world / "ease", "--user", "u1").text


def test_ids_that_are_numbers_are_shown_as_they_are(tm, tmp_path):
    users, items = [1, 1, 2, 2, 3, 3], [1234, 5678, 1234, 9999, 5678, 9999]
    data = tastemaker.dataset({"u": users, "i": items}, user="u", item="i", name="numbers")
    tastemaker.fit(data, "popularity", out=tmp_path / "run", split="ratio:valid=0,order=random")
    assert " 9999 " in tm("recommend", tmp_path / "run", "--history", "1234", "-k", "2").text


def test_recommend_after_a_history_with_filters(tm, world, tmp_path):
    (tmp_path / "allow").write_text("f5\nf6\nf7\nnope\n")
    (tmp_path / "exclude").write_text("f6\n")
    files = ("--allow", tmp_path / "allow", "--exclude", tmp_path / "exclude")
    asked = ("recommend", world / "ease", "--history", "f3, f4,who", *files, "--json")
    found = tm(*asked)
    assert {row["item"] for row in found.json["recommendations"]} == {"f5", "f7"}
    assert set(found.json["ignored"]) == {"who", "nope"}
    assert "ignored" in found.err


def test_similar(tm, world):
    found = tm("similar", world / "ease", "--item", "f3", "-k", "2", "--json")
    if found.code == 0:
        assert len(found.json["similar"]) == 2
        assert "Film 3" in tm("similar", world / "ease", "--item", "f3").text
    refused = tm("similar", world / "popularity", "--item", "f3")
    assert refused.code == 2
    assert "no item vectors" in refused.err


def test_compare(tm, world):
    found = tm("compare", world / "popularity", world / "ease", "--json").json
    (row,) = [row for row in found["comparisons"] if row["metric"] == "ndcg@10"]
    assert row["run"] == "ease"
    assert row["low"] <= row["difference"] <= row["high"]
    assert 0 < row["p_value"] <= 1
    assert "permutation" in tm("compare", world / "popularity", world / "ease").text


def test_tune(tm, world, tmp_path):
    pytest.importorskip("optuna")
    asked = ("tune", world / "data", "-m", "ease", "--trials", "2", "-o", tmp_path / "t")
    found = tm(*asked, "--json").json
    assert found["budget"]["trials"] == {"complete": 2}
    assert "best of 2 trials" in tm(*asked).text


def test_the_engine_is_asked_for_rightly(tm, world, tmp_path, monkeypatch):
    refused = tm("recommend", world / "ease", "--user", "u1", "--engine", "ray")
    assert (refused.code, "are for --all-users" in refused.err) == (2, True)
    out = ("--all-users", "--out", tmp_path / "lists.parquet")
    refused = tm("recommend", world / "ease", *out, "--address", "10.0.0.1:6379")
    assert (refused.code, "are for --engine ray" in refused.err) == (2, True)
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = tm("recommend", world / "ease", *out, "--engine", "ray")
    assert (refused.code, "pip install 'tastemaker[ray]'" in refused.err) == (2, True)


def test_report(tm, world, tmp_path):
    found = tm("report", world / "ease", "--to", tmp_path / "page.html", "--json").json
    assert found["report"] == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_doctor(tm):
    assert tm("doctor", "--json").json["extras"]["tune"]["install"]
    assert "devices" in tm("doctor").text


WRONG = [
    (("train", "{data}", "-m", "sasrek", "-o", "{new}"), "did you mean 'sasrec'"),
    (("train", "ml-100q", "-m", "ease", "-o", "{new}"), "did you mean 'ml-100k'"),
    (("train", "{data}/none", "-m", "ease", "-o", "{new}"), "there is no such folder"),
    (("train", "{data}", "-m", "sasrec", "-o", "{new}", "--set", "epoch=1"), "'epochs'"),
    (("train", "{data}", "-m", "sasrec", "-o", "{new}", "--set", "epochs=0"), "'epochs'"),
    (("train", "{data}", "-m", "sasrec", "-o", "{new}", "--set", "epochs"), "has no '='"),
    (("train", "{data}", "-m", "ease", "-o", "{new}", "--split", "leave-two"), "leave-one-out"),
    (("train", "{data}", "-m", "ease", "-o", "{new}", "--filter", "kcore"), "k-core"),
    (("train", "{data}", "-m", "ease", "-o", "{new}", "--device", "tpu9"), "'tpu9'"),
    (("train", "{data}", "-m", "ease", "-o", "{new}", "--set", "preset=x"), "preset 'x'"),
    (("train", "{data}", "-m", "ease", "-o", "{runs}/ease"), "holds a finished run"),
    (("train", "{data}", "-o", "{new}"), "--model"),
    (("trian",), "trian"),
    (("evaluate", "{new}"), "does not exist"),
    (("evaluate", "{data}"), "is not a run"),
    (("evaluate", "{runs}/ease", "--part", "train"), "neither 'valid' nor 'test'"),
    (("evaluate", "{runs}/ease", "--metric", "ndgc@10"), "did you mean"),
    (("recommend", "{runs}/ease"), "--user ID or --history"),
    (("recommend", "{runs}/ease", "--user", "u99"), "unknown user 'u99'"),
    (("recommend", "{runs}/ease", "--history", "x"), "unknown item 'x'"),
    (("recommend", "{runs}/ease", "--user", "u1", "-k", "0"), "-k"),
    (("recommend", "{runs}/ease", "--user", "u1", "--allow", "{new}"), "there is no such file"),
    (("similar", "{runs}/ease", "--item", "f99"), "unknown item 'f99'"),
    (("compare", "{runs}/ease"), "at least two runs"),
    (("compare", "{runs}/ease", "{new}"), "does not exist"),
    (("data", "show", "nothing"), "no known data set"),
    (("models", "sasrek"), "did you mean 'sasrec'"),
]


@pytest.mark.parametrize(("arguments", "complaint"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_a_mistake_gets_one_line_and_exit_code_two(tm, world, tmp_path, arguments, complaint):
    places = {"data": world / "data", "runs": world, "new": tmp_path / "new"}
    found = tm(*(argument.format(**places) for argument in arguments))
    assert found.code == 2
    assert found.text == ""
    (line,) = found.err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert not (tmp_path / "new").exists()


def test_an_interruption_leaves_with_130(tm, world, tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tastemaker.experiment.fitting.train", interrupted)
    found = tm("train", world / "data", "-m", "ease", "-o", tmp_path / "run", "-q")
    assert found.code == 130
    assert "the same command" in found.err


def test_a_fault_of_the_program_leaves_with_one_and_a_hint(tm, world, tmp_path, monkeypatch):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("tastemaker.experiment.fitting.train", broken)
    asked = ("train", world / "data", "-m", "ease", "-o", tmp_path / "run", "-q")
    found = tm(*asked)
    assert found.code == 1
    assert "ZeroDivisionError: oops; set TASTEMAKER_DEBUG=1" in found.err
    assert "Traceback" not in found.err
    monkeypatch.setenv("TASTEMAKER_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["tastemaker", *map(str, asked)])
    with pytest.raises(ZeroDivisionError):
        main()
