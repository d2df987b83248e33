"""The doctor finds what is there and names the remedy for what is not."""

from __future__ import annotations

import pytest
import torch

from tastemaker.experiment import doctor


def test_it_reports_versions_devices_and_threads():
    found = doctor.examine()
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["devices"][0]["device"] == "cpu"
    assert found["threads"]["torch"] == torch.get_num_threads()


def test_a_missing_extra_comes_with_its_command(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    found = doctor.examine()
    assert found["extras"]["tune"]["installed"] is False
    assert found["extras"]["tune"]["install"] == "pip install 'tastemaker[tune]'"
    assert any("torch is not installed" in problem for problem in found["problems"])


def test_caches_and_data_folders(monkeypatch, tmp_path):
    (tmp_path / "cache" / "data" / "set").mkdir(parents=True)
    (tmp_path / "cache" / "data" / "set" / "x.arrow").write_bytes(b"12345")
    (tmp_path / "sets" / "mine").mkdir(parents=True)
    (tmp_path / "sets" / "mine" / "dataset.toml").write_text("")
    monkeypatch.setenv("TASTEMAKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TASTEMAKER_DATA", f"{tmp_path / 'sets'}:{tmp_path / 'none'}")
    found = doctor.examine()
    assert found["caches"] == {"data": {"entries": 1, "bytes": 5}}
    assert [place["datasets"] for place in found["data_folders"]] == [["mine"], None]
    assert any("none, which does not exist" in problem for problem in found["problems"])


@pytest.mark.parametrize(
    ("found", "problems"),
    [
        ({"rich": "12.0"}, ["rich is 12.0, but rich>=13 is needed; upgrade it"]),
        ({"rich": "13"}, []),
    ],
)
def test_an_old_package_is_named(monkeypatch, found, problems):
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["rich>=13"])
    assert doctor._too_old(found) == problems
