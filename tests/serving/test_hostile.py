"""A run folder of a stranger is data: it runs nothing, writes nowhere, and takes no more memory."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from tastemaker.errors import TastemakerError
from tastemaker.serving.loaded import LoadedRun


@pytest.fixture
def run(folders, tmp_path):
    """A copy of a good run, to be spoilt."""
    shutil.copytree(folders["sasrec"], tmp_path / "run")
    return tmp_path / "run"


def edit(run, **values):
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refuses(run, message=None):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TastemakerError, match=message):
        LoadedRun.open("stranger", run, device="cpu")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000  # kilobytes


class Payload:
    """Code, if anything unpickled it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(run, tmp_path):
    harm = pickle.dumps(Payload(tmp_path / "harm"))
    for name in ("model.safetensors", "run.json"):
        original = (run / name).read_bytes()
        (run / name).write_bytes(harm)
        refuses(run)
        (run / name).write_bytes(original)
    for path in (run / "data").rglob("*.arrow"):
        path.write_bytes(harm)
    refuses(run)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "model", ["../../evil", "os:system", "tastemaker.testing:tiny_dataset", "/bin/sh", ""]
)
def test_a_model_is_a_name_of_the_catalog(run, model):
    edit(run, model=model)
    refuses(run)


def test_settings_cannot_ask_for_more_memory_than_the_weights_take(run):
    settings = json.loads((run / "run.json").read_text())["settings"]
    edit(run, settings={**settings, "hidden_size": 1 << 28})
    refuses(run, "needs")
    edit(run, settings={**settings, "hidden_size": 1 << 62})
    refuses(run, "make no model")


def test_weights_that_claim_to_be_huge_are_refused(run):
    header = {
        "item_embeddings.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    }
    text = json.dumps(header).encode()
    (run / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    refuses(run)
    (run / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60))
    refuses(run)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000, '{"status": "finished"}', "NaN"]
)
def test_a_record_that_is_deep_or_short_is_refused(run, text):
    (run / "run.json").write_text(text)
    refuses(run)


@pytest.mark.parametrize("name", ["data", "model.safetensors"])
def test_links_out_of_the_folder_are_refused(run, tmp_path, name):
    outside = tmp_path / "outside"
    (run / name).rename(outside)
    (run / name).symlink_to(outside)
    refuses(run)


def test_names_in_the_data_lead_nowhere(run, tmp_path):
    meta = next(path for path in (run / "data").rglob("*.json"))
    spoilt = meta.read_text().replace("interactions", "../../outside")
    meta.write_text(spoilt)
    refuses(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_weights_of_other_shapes_are_refused(folders, tmp_path):
    for name, tensor in (("sasrec", "item_embeddings.weight"), ("ease", "weights")):
        shutil.copytree(folders[name], tmp_path / name)
        path = tmp_path / name / "model.safetensors"
        state = load_file(path)
        for value in (state[tensor][:3], state[tensor][:, :3], state[tensor][None]):
            save_file({**state, tensor: value.contiguous()}, path)
            refuses(tmp_path / name)
        save_file({**state, tensor: state[tensor].double()}, path)
        refuses(tmp_path / name)
        save_file({**state, tensor: state[tensor] * torch.nan}, path)
        refuses(tmp_path / name)


def test_json_in_the_data_that_is_deep_is_refused(run):
    paths = sorted((run / "data").rglob("*.json"))
    assert paths
    for path in paths:
        original = path.read_bytes()
        for text in ("[" * 200_000, '{"a":' * 200_000):
            path.write_text(text)
            refuses(run)
        path.write_bytes(original)
