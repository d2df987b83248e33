"""Folders with a `dataset.toml`, made by hand and real ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tastemaker.data import Dataset, Kind, Role, read_folder
from tastemaker.data.storage import content_hash

DESCRIPTION = """
name = "films"
[interactions]
file = "ratings.tsv"
user = "person"
item = "film"
order = "nr"
label = "stars"
[interactions.columns]
device = "categorical"
[users]
file = "people.csv"
id = "person"
separator = ";"
[users.columns]
age = "numeric"
[items]
file = "films.csv"
id = "film"
title = "called"
[items.columns]
called = "text"
genres = { kind = "categories", separator = "|" }
[knowledge]
file = "facts.csv"
head = "a"
relation = "how"
tail = "b"
item_entity = "entity"
"""


def write_films(folder: Path) -> None:
    (folder / "dataset.toml").write_text(DESCRIPTION)
    (folder / "ratings.tsv").write_text(
        "person\tfilm\tnr\tstars\tdevice\nann\tf1\t2\t4\ttv\nann\tf2\t1\t5\tphone\nbob\tf1\t1\t3\ttv\n"
    )
    (folder / "people.csv").write_text("person;age\nbob;3\nann;4\n")
    (folder / "films.csv").write_text(
        "film,called,genres,entity\nf2,Two,War,e2\nf1,One,A|B,e1\nf3,Three,,\n"
    )
    (folder / "facts.csv").write_text("a,how,b\ne1,by,p1\ne2,by,p1\np1,born,c1\n")


def test_every_table(tmp_path: Path) -> None:
    write_films(tmp_path)
    data = read_folder(tmp_path)
    assert data.name == "films"
    assert data.user_ids.decode(data.column("user")).to_pylist() == ["ann", "ann", "bob"]
    assert data.item_ids.decode(data.column("item")).to_pylist() == ["f2", "f1", "f1"]
    assert data.column("device").tolist() == ["phone", "tv", "tv"]
    assert data.titles(np.arange(3)) == ["One", "Two", "Three"]
    assert data.users.column("age").to_pylist() == [4, 3]
    assert data.schema.roles[Role.LABEL] == "stars"
    assert data.schema.items == {
        "called": Kind.TEXT,
        "genres": Kind.CATEGORIES,
        "entity": Kind.ENTITY,
    }
    graph = data.knowledge
    assert graph is not None
    assert graph.entities.decode(graph.heads).to_pylist() == ["e1", "e2", "p1"]
    assert graph.relations.decode(graph.relations_).to_pylist() == ["by", "by", "born"]
    assert graph.entities.decode(graph.tails).to_pylist() == ["p1", "p1", "c1"]
    assert graph.entities.decode(graph.item_entities).to_pylist() == ["e1", "e2", None]
    assert (graph.n_entities, graph.n_relations, graph.n_triples) == (4, 2, 3)


def test_stored_and_described_folders_are_both_read(tmp_path: Path) -> None:
    write_films(tmp_path)
    data = read_folder(tmp_path)
    data.save(tmp_path / "stored")
    stored = read_folder(tmp_path / "stored")
    assert stored.fingerprint == data.fingerprint == content_hash(stored)
    assert stored.knowledge is not None
    assert np.array_equal(stored.knowledge.item_entities, [0, 1, -1])
    assert stored.describe()["knowledge"] == {"entities": 4, "relations": 2, "triples": 3}
    kept = stored.take(np.array([0])).compact()
    assert kept.knowledge is not None
    assert kept.knowledge.item_entities.tolist() == [1]


def test_unmatched_rows_are_dropped_unless_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_films(tmp_path)
    (tmp_path / "people.csv").write_text("person;age\nbob;3\n")
    data = read_folder(tmp_path)
    assert data.dropped == {"interactions of users missing in the users table": 2}
    assert data.user_ids.ids.to_pylist() == ["bob"]
    (tmp_path / "dataset.toml").write_text('unmatched = "fail"' + DESCRIPTION)
    with pytest.raises(
        ValueError, match=r"ratings.tsv, row 2, column 'person': 'ann' is not in the"
    ):
        read_folder(tmp_path)


def test_an_items_own_id_may_be_its_entity(tmp_path: Path) -> None:
    write_films(tmp_path)
    text = DESCRIPTION.replace('item_entity = "entity"', "")
    (tmp_path / "dataset.toml").write_text(text)
    (tmp_path / "facts.csv").write_text("a,how,b\nf1,like,f2\nf2,by,p\n")
    graph = read_folder(tmp_path).knowledge
    assert graph is not None
    assert graph.entities.decode(graph.item_entities).to_pylist() == ["f1", "f2", None]


SHAPES = {
    # users, items, interactions, ordered, clock
    "amazon-beauty": (22_363, 12_101, 198_502, True, False),
    "crs-lastfm": (1_799, 7_432, 76_612, False, False),
    "emoji-catalog": (0, 1_911, 0, False, False),
    "frappe": (757, 2_009, 17_421, False, False),
    "gowalla": (29_858, 40_981, 1_027_370, False, False),
    "kg-book-crossing": (17_860, 14_967, 139_746, False, False),
    "kg-lastfm-music": (1_872, 3_846, 42_346, False, False),
    "ml-100k": (943, 1_682, 100_000, True, True),
    "ml-1m": (6_040, 3_883, 1_000_209, True, False),
    "open-bandit-sample": (60_000, 80, 60_000, True, True),
    "tiktok-sample": (100, 1_651, 1_929, True, False),
    "tmall": (31_882, 31_024, 367_412, True, True),
}


def published(name: str) -> Path:
    """The folder of a real data set, found in TASTEMAKER_DATA."""
    for root in filter(None, os.environ.get("TASTEMAKER_DATA", "").split(os.pathsep)):
        if (Path(root) / name / "dataset.toml").is_file():
            return Path(root) / name
    pytest.skip(f"{name} is in no folder of TASTEMAKER_DATA")


@pytest.mark.parametrize("name", SHAPES)
def test_real_folders(name: str) -> None:
    data = read_folder(published(name))
    shape = (data.n_users, data.n_items, data.n_interactions, data.is_ordered, data.has_clock)
    assert shape == SHAPES[name]
    assert isinstance(data, Dataset)


@pytest.mark.parametrize("name", ["kg-book-crossing", "kg-lastfm-music"])
def test_items_are_the_first_entities(name: str) -> None:
    data = read_folder(published(name))
    graph = data.knowledge
    assert graph is not None
    assert graph.item_entities.min() >= 0
    assert graph.entities.decode(graph.item_entities).equals(data.item_ids.ids)


def test_films_are_linked_to_entities() -> None:
    data = read_folder(published("ml-100k"))
    graph = data.knowledge
    assert graph is not None
    assert graph.n_triples == 91_631
    linked = graph.item_entities >= 0
    assert linked.mean() > 0.9
    entities = data.items.column("freebase_id").combine_chunks()
    for code in np.flatnonzero(linked)[:50]:
        assert graph.entities.raw(int(graph.item_entities[code])) == entities[int(code)].as_py()
    assert data.titles(data.item_ids.encode([50])) == ["Star Wars (1977)"]
