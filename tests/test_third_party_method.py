"""A method in a package of its own: found by its entry point, held to the same contract."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tastemaker.models import catalog
from tastemaker.testing import CHECKS

PACKAGE = Path(__file__).resolve().parent.parent / "examples" / "third_party_method"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example package as an installer leaves it: its code and its entry points on the path."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"][catalog.GROUP]
    lines = [f"[{catalog.GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(PACKAGE / "src"))
    catalog.entries.cache_clear()
    yield project["name"]
    catalog.entries.cache_clear()


def test_it_is_listed_with_its_needs(installed: str) -> None:
    entry = catalog.find("markov-chain")
    assert entry.family == "third-party"
    assert installed in entry.paper
    assert entry.needed() == ("order",)
    assert list(catalog.entries())[:-1] == list(catalog.ENTRIES)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_contract(check, installed: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    check(importlib.import_module("markov_chain").MarkovChain, folder)
