"""Pictures of items and their encoder."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import sys
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from tastemaker.content.features import item_features
from tastemaker.content.images import ImageEncoder, find_image_encoder, item_images
from tastemaker.errors import DataError, MissingExtraError, MissingNeedError
from tests.content.catalogs import catalog

VISION = importlib.util.find_spec("efficientnet_lite_pytorch")


def png(colour: str, size: tuple[int, int] = (40, 20)) -> bytes:
    pillow = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    pillow.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


class Network(nn.Module):
    """Stands for the real one: the channels themselves as the last feature map."""

    @classmethod
    def from_name(cls, name):
        assert name == "efficientnet-lite0"
        return cls()

    def extract_features(self, pixels):
        return pixels


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """An encoder of eight pixels a side whose three numbers are the mean channels."""
    package = ModuleType("efficientnet_lite_pytorch")
    package.EfficientNet = Network
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setattr(ImageEncoder, "width", 3)
    torch.save({}, tmp_path / "weights.pth")
    return ImageEncoder(tmp_path / "weights.pth", size=8, batch_size=2)


def test_pictures_come_as_bytes_or_paths_and_may_be_missing(tmp_path):
    picture = png("red")
    (tmp_path / "red.png").write_bytes(picture)
    data = catalog(cover=[picture, None, picture])
    assert item_images(data, "cover") == [picture, b"", picture]
    paths = dataclasses.replace(data, items=pa.table({"cover": [str(tmp_path / "red.png"), None]}))
    assert item_images(paths, "cover") == [picture, b""]
    lost = dataclasses.replace(data, items=pa.table({"cover": [str(tmp_path / "lost.png")]}))
    with pytest.raises(DataError, match=r"lost\.png.*cannot be read"):
        item_images(lost, "cover")


def test_errors_name_the_column_and_the_picture(encoder):
    data = catalog(cover=[png("red"), png("blue")])
    with pytest.raises(MissingNeedError, match="did you mean 'cover'"):
        item_images(data, "covers")
    with pytest.raises(DataError, match="expected PNG or JPEG"):
        encoder.encode([b"no picture"])


def test_a_picture_is_fitted_into_a_white_square(encoder):
    black, red, missing = encoder.encode([png("black"), png("red"), b""])
    # Twice as wide as high: half of the square stays white, (255 - 127) / 128 = 1.
    np.testing.assert_allclose(black, [(1 - 127 / 128) / 2] * 3, atol=1e-6)
    np.testing.assert_allclose(red, [1, (1 - 127 / 128) / 2, (1 - 127 / 128) / 2], atol=1e-6)
    np.testing.assert_array_equal(missing, 0)


def test_missing_weights_name_the_extra(monkeypatch):
    monkeypatch.setattr("tastemaker.extras.find_spec", lambda name: None)
    find_image_encoder.cache_clear()
    with pytest.raises(MissingExtraError, match=r"tastemaker\[vision\]"):
        item_features(catalog(cover=[png("red")]), "image:cover")


@pytest.mark.skipif(VISION is None, reason="the extra vision is not installed")
def test_the_real_encoder_tells_colours_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path))
    find_image_encoder.cache_clear()
    data = catalog(cover=[png("red"), png("darkred"), png("blue"), None])
    vectors = item_features(data, "image:cover")
    assert vectors.shape == (4, 1280)
    np.testing.assert_allclose(vectors[3], vectors[:3].mean(0), rtol=1e-5)
    gaps = np.linalg.norm(vectors[0] - vectors[1:3], axis=1)
    assert gaps[0] < gaps[1]
