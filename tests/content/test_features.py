"""The item-content store: sources, missing content, and a cache that loses nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tastemaker.content import features
from tastemaker.content.features import encoded, features_fingerprint, item_features
from tastemaker.data import Dataset
from tastemaker.errors import ConfigError, MissingNeedError
from tests.content.catalogs import catalog


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path / "cache"))


def test_texts_become_one_vector_an_item():
    vectors = item_features(catalog(title=["red car", "blue car", "tea"]), "text:hashing")
    assert vectors.shape == (3, 256)
    assert vectors.dtype == np.float32
    similar = vectors @ vectors.T
    assert similar[0, 1] > similar[0, 2]


def test_given_vectors_are_taken_as_they_are():
    data = catalog(look=[[1.0, 2.0], [0.0, 0.5], [3.0, 6.0]])
    np.testing.assert_array_equal(item_features(data, "column:look"), [[1, 2], [0, 0.5], [3, 6]])


def test_an_item_without_a_text_gets_the_mean():
    vectors = item_features(catalog(title=["red", None, "blue"]), "text:hashing")
    np.testing.assert_allclose(vectors[1], (vectors[0] + vectors[2]) / 2, atol=1e-7)


def test_fingerprints_change_with_content_and_encoder_alone():
    data = catalog(title=["red", "blue"])
    mine = features_fingerprint(data, "text:hashing")
    assert mine == features_fingerprint(catalog(title=["red", "blue"]), "text:hashing")
    assert mine != features_fingerprint(catalog(title=["red", "green"]), "text:hashing")
    looks = catalog(look=[[1.0], [2.0]]), catalog(look=[[1.0], [3.0]])
    assert features_fingerprint(looks[0], "column:look") != features_fingerprint(
        looks[1], "column:look"
    )


@pytest.mark.parametrize("source", ["txt", "column", "image", "vectors:look"])
def test_unknown_sources_are_refused_with_the_grammar(source):
    with pytest.raises(ConfigError, match="column:<embedding column>"):
        item_features(catalog(title=["red"]), source)


def test_missing_columns_are_refused_with_the_remedy():
    data = catalog(look=[[1.0], [2.0]])
    with pytest.raises(MissingNeedError, match="text column"):
        item_features(data, "text:hashing")
    with pytest.raises(MissingNeedError, match="did you mean 'look'"):
        item_features(data, "column:lok")
    bare = Dataset.from_frame(
        pl.DataFrame({"user": ["a"], "item": ["x"]}), user="user", item="item"
    )
    with pytest.raises(MissingNeedError, match="embedding column"):
        item_features(bare, "column:look")


def test_an_interrupted_encoding_goes_on_where_it_stopped(monkeypatch):
    monkeypatch.setattr(features, "_BLOCK", 2)
    asked: list[str] = []

    def encode(texts, *, patience=99):
        if len(asked) >= patience:
            raise KeyboardInterrupt
        asked.extend(texts)
        return np.array([[len(text)] for text in texts], np.float32)

    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    with pytest.raises(KeyboardInterrupt):
        encoded(texts, lambda some: encode(some, patience=4), "lengths")
    np.testing.assert_array_equal(encoded(texts, encode, "lengths").ravel(), [1, 2, 3, 4, 5])
    assert asked == texts  # nobody was encoded twice
    encoded(texts, encode, "lengths")
    assert asked == texts
    encoded(texts, encode, "another encoder")
    assert asked == texts * 2
