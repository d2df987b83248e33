"""The table of methods: what it says is true of the classes, and others can add to it."""

from __future__ import annotations

import re
import sys

import pytest

from tastemaker.errors import ConfigError
from tastemaker.models import catalog
from tastemaker.models.base import Recommender
from tastemaker.models.catalog import ENTRIES, entries, find

NAMES = (
    "popularity",
    "item-knn",
    "ease",
    "ials",
    "bpr-mf",
    "lightgcn",
    "gru4rec",
    "sasrec",
    "bert4rec",
    "hstu",
    "tim4rec",
    "mclrec",
    "sra-cl",
    "tiger",
    "deepfm",
    "dcnv2",
    "din",
    "tin",
    "hstu-ranking",
    "kgat",
    "freedom",
    "bm3",
    "apr",
    "vat",
    "bigrec",
)


def test_every_method_is_listed():
    assert tuple(ENTRIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_table_agrees_with_the_class(name):
    entry = ENTRIES[name]
    kind = entry.load()
    assert issubclass(kind, Recommender)
    assert set(entry.needed()) == {need.value for need in kind.needs}
    assert kind.__module__ == entry.module
    assert entry.family in entry.module.split(".")
    assert entry.paper


@pytest.mark.parametrize("name", NAMES)
def test_search_and_presets_name_settings_of_the_config(name):
    kind = ENTRIES[name].load()
    known = set(kind.Config().to_json())
    assert set(kind.search) <= known
    assert all(set(preset) <= known for preset in kind.presets.values())


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown model 'sasrek'; did you mean 'sasrec'\?"):
        find("sasrek")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a made-up package whose entry points are the given lines."""

    def install(*lines: str) -> None:
        (tmp_path / "others.py").write_text(
            "from tastemaker.models.collaborative.popularity import Popularity\n"
            "class Mine(Popularity):\n    pass\n"
            "class NoModel:\n    pass\n"
        )
        info = tmp_path / "others-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
        points = "\n".join(lines)
        (info / "entry_points.txt").write_text(f"[tastemaker.models]\n{points}\n")
        monkeypatch.syspath_prepend(tmp_path)
        entries.cache_clear()

    yield install
    sys.modules.pop("others", None)
    entries.cache_clear()


def test_another_package_adds_a_method(package):
    package("mine = others:Mine")
    assert find("mine").load().__name__ == "Mine"
    assert find("mine").family == "third-party"
    assert find("mine").needed() == ()
    assert list(entries())[: len(NAMES)] == list(NAMES)


def test_another_package_cannot_take_a_name(package, capsys):
    package("ease = others:Mine")
    assert find("ease") is ENTRIES["ease"]
    assert "'ease' of others is ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("broken = no_such_package:Model", "no_such_package:Model cannot be imported"),
        ("broken = others:Missing", "others:Missing cannot be imported"),
        ("broken = others:NoModel", "others:NoModel is not a subclass"),
    ],
)
def test_a_broken_method_is_named_and_breaks_no_other(package, line, complaint):
    package(line)
    assert find("ease").load().__name__ == "EASE"
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        find("broken").load()


def test_the_group_is_the_documented_one():
    assert catalog.GROUP == "tastemaker.models"
