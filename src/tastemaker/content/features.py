"""The item-content store: one vector per item from texts, images or given columns, kept on disk.

Sources: `"text"` (all text columns through MiniLM), `"text:hashing"` (hashed words, no weights),
`"text:<folder or hub name>"`, `"column:<embedding column>"` (given vectors) and
`"image:<image column>"`. Encoded blocks are kept in the cache under the hash of encoder and
content, so an interrupted encoding continues and an unchanged catalog is never encoded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from tastemaker.console import Progress
from tastemaker.content.text import find_encoder, item_texts
from tastemaker.data.schema import Kind
from tastemaker.errors import ConfigError, MissingNeedError, nearest
from tastemaker.files import cache_dir, writing_file

if TYPE_CHECKING:
    from tastemaker.data import Dataset

__all__ = ["encoded", "features_fingerprint", "item_features"]

_BLOCK = 1024  # items encoded between two writes to the cache

Content = TypeVar("Content", str, bytes)


def item_features(dataset: Dataset, source: str) -> NDArray[np.float32]:
    """One vector per item, [N, D] float32; items without text or picture get the others' mean.

    Text and image vectors have the encoder's own scale (texts: unit length); given columns are
    taken as they are.

    Args:
        dataset: its items table is read, never its interactions.
        source: see the module.

    Raises:
        ConfigError: for an unknown source.
        MissingNeedError: when the items lack the column.
        MissingExtraError: when the encoder is not installed.
    """
    kind, name = _parsed(source)
    match kind:
        case "text":
            texts = item_texts(dataset)
            encoder = find_encoder(name)
            vectors = encoded(texts, encoder.encode, encoder.identity, label="encoding texts")
            return _with_mean(vectors, np.array([bool(text) for text in texts]))
        case "column":
            return _given(dataset, name)
    from tastemaker.content.images import find_image_encoder, item_images

    images = item_images(dataset, name)
    looking = find_image_encoder()
    vectors = encoded(images, looking.encode, looking.identity, label="encoding images")
    return _with_mean(vectors, np.array([bool(image) for image in images]))


def features_fingerprint(dataset: Dataset, source: str) -> str:
    """Hex SHA-256 of what `item_features` is made from: encoder and content; encodes nothing."""
    kind, name = _parsed(source)
    match kind:
        case "text":
            return _digest(find_encoder(name).identity, item_texts(dataset))
        case "column":
            return _digest("column", [_given(dataset, name).tobytes()])
    from tastemaker.content.images import find_image_encoder, item_images

    return _digest(find_image_encoder().identity, item_images(dataset, name))


def encoded(
    contents: Sequence[Content],
    encode: Callable[[Sequence[Content]], NDArray[np.float32]],
    identity: str,
    *,
    label: str = "encoding",
) -> NDArray[np.float32]:
    """[n, D] float32: each content encoded, block by block, through the cache on disk.

    Args:
        contents: texts, or encoded images.
        encode: contents -> [n, D] float32.
        identity: of the encoder and its settings; with the contents it makes the cache key.
        label: of the progress line.
    """
    blocks = []
    with Progress(label, len(contents), unit="items") as progress:
        for start in range(0, max(len(contents), 1), _BLOCK):
            block = contents[start : start + _BLOCK]
            path = cache_dir() / "features" / f"{_digest(identity, block)[:32]}.npy"
            if not path.exists():
                made = encode(block)
                with writing_file(path) as temporary, temporary.open("wb") as file:
                    np.save(file, made, allow_pickle=False)
            blocks.append(np.load(path, allow_pickle=False))
            progress.advance(len(block))
    return np.concatenate(blocks)


def _parsed(source: str) -> tuple[str, str]:
    """Kind and name of a source."""
    kind, _, name = source.partition(":")
    kinds = ("text", "column", "image")
    if kind not in kinds or (kind != "text" and not name):
        raise ConfigError(
            f"item features {source!r}{nearest(kind, kinds)}: expected 'text', 'text:hashing', "
            "'text:<folder or hub name>', 'column:<embedding column>' or 'image:<image column>'"
        )
    return kind, name or "minilm"


def _given(dataset: Dataset, name: str) -> NDArray[np.float32]:
    """The vectors of an embedding column, [N, D]; readers leave none out."""
    kinds = dataset.schema.items
    known = [column for column, kind in kinds.items() if kind is Kind.EMBEDDING]
    if dataset.items is None or name not in known:
        raise MissingNeedError(
            f"{dataset.name!r} has no embedding column {name!r}{nearest(name, known)}: add one to "
            f"the items; there are: {', '.join(known) or 'none'}"
        )
    column = dataset.items.column(name)
    flat = column.combine_chunks().flatten().to_numpy()
    vectors: NDArray[np.float32] = flat.reshape(-1, column.type.list_size).copy()
    return vectors


def _with_mean(vectors: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The vectors, with the mean of the present ones where an item has none."""
    if present.all() or not present.any():
        return vectors
    filled = vectors.copy()
    filled[~present] = vectors[present].mean(0)
    return filled


def _digest(identity: str, contents: Sequence[str] | Sequence[bytes]) -> str:
    digest = hashlib.sha256(identity.encode())
    for content in contents:
        raw = content.encode() if isinstance(content, str) else content
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
