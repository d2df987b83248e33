"""Hand-made samples of publishers' files, loaded as a person would load them."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tastemaker.data import catalog
from tastemaker.data.dataset import Dataset

Content = str | bytes


def _bytes(content: Content) -> bytes:
    return content.encode() if isinstance(content, str) else content


@pytest.fixture
def load_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Mapping[str, Any]], Dataset]:
    """Write files into a folder of originals and load the data set of that name, offline.

    A value that is a mapping becomes a zip of its members; a name ending in .gz is gzipped.
    """
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TASTEMAKER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(catalog, "obtain", _refuse)

    def load(name: str, files: Mapping[str, Any]) -> Dataset:
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for file, content in files.items():
            if isinstance(content, Mapping):
                with zipfile.ZipFile(folder / file, "w", zipfile.ZIP_DEFLATED) as archive:
                    for member, inner in content.items():
                        archive.writestr(member, _bytes(inner))
            elif file.endswith(".gz"):
                (folder / file).write_bytes(gzip.compress(_bytes(content)))
            else:
                (folder / file).write_bytes(_bytes(content))
        return catalog.load(name)

    return load


def _refuse(*_: object) -> Path:
    raise AssertionError("a test asked the network")


@pytest.fixture
def rows() -> Callable[..., list[tuple[Any, ...]]]:
    """The interactions as a person reads them: raw user, raw item, then the named columns."""

    def read(dataset: Dataset, *columns: str) -> list[tuple[Any, ...]]:
        users = dataset.user_ids.decode(dataset.column("user")).to_pylist()
        items = dataset.item_ids.decode(dataset.column("item")).to_pylist()
        others = [dataset.column(name).tolist() for name in columns]
        return list(zip(users, items, *others, strict=True))

    return read


@pytest.fixture
def item() -> Callable[[Dataset, Any], dict[str, Any]]:
    """The features of one item, by raw id."""
    return lambda dataset, raw: _features(dataset.items, dataset.item_ids, raw)


@pytest.fixture
def user() -> Callable[[Dataset, Any], dict[str, Any]]:
    """The features of one user, by raw id."""
    return lambda dataset, raw: _features(dataset.users, dataset.user_ids, raw)


def _features(table: Any, ids: Any, raw: Any) -> dict[str, Any]:
    code = int(ids.encode([raw])[0])
    assert code >= 0, f"{raw!r} is no known id"
    return dict(table.slice(code, 1).to_pylist()[0])
