"""Settings as people give them."""

from __future__ import annotations

from dataclasses import field

import pytest

from tastemaker.errors import ConfigError
from tastemaker.experiment.settings import documented, parse_assignments, read_settings
from tastemaker.models.base import GradientConfig, settings


def test_values_are_json_where_they_are_json():
    given = ["a=1", "b=0.5", "c=true", "d=null", "e=[1,2]", "f=ndcg@10", 'g="7"', "h= x ", "i=a=b"]
    expected = {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": [1, 2],
        "f": "ndcg@10",
        "g": "7",
        "h": "x",
        "i": "a=b",
    }
    assert parse_assignments(given) == expected


@pytest.mark.parametrize(
    ("given", "complaint"),
    [(["epochs"], "has no '='"), (["=3"], "has no '='"), (["a=1", "a=2"], "given twice")],
)
def test_unreadable_assignments_are_refused(given, complaint):
    with pytest.raises(ConfigError, match=complaint):
        parse_assignments(given)


def test_files(tmp_path):
    (tmp_path / "s.toml").write_text("epochs = 3\nmonitor = 'mrr@10'\n")
    (tmp_path / "s.json").write_text('{"epochs": 3, "monitor": "mrr@10"}')
    for name in ("s.toml", "s.json"):
        assert read_settings(tmp_path / name) == {"epochs": 3, "monitor": "mrr@10"}


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("s.toml", "epochs = ", "not valid TOML"),
        ("s.json", "{", "not valid JSON"),
        ("s.json", "[1]", "expected one table of settings, got list"),
        ("s.yaml", "a: 1", "from a .toml or .json file"),
        ("s.toml", None, "no such settings file"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, text, complaint):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{name}.*{complaint}"):
        read_settings(tmp_path / name)


@settings
class SampleConfig(GradientConfig):
    """Settings for this test."""

    epochs: int = 7  # fewer passes (ours)
    sizes: tuple[int, ...] = field(default=(1, 2))  # widths; one a layer
    plain: str = "no comment"


def test_fields_come_with_type_default_and_meaning():
    found = {setting.name: setting for setting in documented(SampleConfig)}
    assert found["epochs"].default == 7
    assert found["epochs"].meaning == "fewer passes (ours)"
    assert found["sizes"].meaning == "widths; one a layer"
    assert found["plain"].meaning == ""
    assert found["learning_rate"].default == 1e-3
    assert found["learning_rate"].meaning == "optimiser step size"
    assert found["decay"].type == "'constant' or 'linear' or 'cosine'"
    assert found["monitor"].type == "str or None"
