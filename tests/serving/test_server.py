"""The server as a process: the command, its address, and what survives its death."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import httpx
import pytest

from tastemaker.errors import ConfigError
from tastemaker.serving.server import configured


class Server:
    """A running `tastemaker serve`."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tastemaker", "serve", *arguments, "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"http://[\d.]+:\d+", line):
                self.address = found[0]
                return
        raise AssertionError(f"the server ended: {''.join(self.said)}")

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        os.kill(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout=30)


def test_an_acknowledged_event_survives_kill_9_of_the_server(folders, tmp_path):
    arguments = [str(folders["ease"]), "--store", f"sqlite:///{tmp_path}/events.db"]
    server = Server(*arguments)
    told = {"events": [{"event_id": "e1", "user": "new", "item": "i12"}]}
    asked = {"user": "new", "k": 40}
    with httpx.Client(base_url=server.address) as client:
        assert client.post("/events", json=told).json()["accepted"] == 1
        before = client.post("/recommend", json=asked).json()
    server.kill()
    server = Server(*arguments)
    with httpx.Client(base_url=server.address) as client:
        after = client.post("/recommend", json=asked).json()
        assert client.post("/events", json=told).json() == {"accepted": 0, "duplicates": 1}
        assert "openapi" in client.get("/openapi.json").json()
    assert [item["item"] for item in after["items"]] == [item["item"] for item in before["items"]]
    assert after["basis"] == "the user's history of 1 event, 1 of them since training"
    assert server.stop() in (0, 130)


def test_what_cannot_be_served_is_said(folders, tmp_path):
    def refused(*arguments):
        command = [sys.executable, "-m", "tastemaker", "serve", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        return done.stderr

    assert "name at least one run" in refused()
    assert "no run" in refused(str(tmp_path))


def test_runs_get_names_and_the_command_line_wins(tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text('port = 9000\nmax_k = 50\n[models]\nmain = "runs/a"\n')
    settings = configured([], config, {"port": 0})
    assert (settings.port, settings.max_k, settings.models) == (0, 50, {"main": "runs/a"})
    settings = configured(["runs/b", "other=runs/c"], config, {})
    assert settings.models == {"b": "runs/b", "other": "runs/c"}
    with pytest.raises(ConfigError, match="two runs are called 'a'"):
        configured(["x/a", "y/a"], None, {})
    config.write_text("prt = 9000\n")
    with pytest.raises(ConfigError, match=r"serve\.toml: unknown setting 'prt'"):
        configured(["runs/a"], config, {})
    with pytest.raises(ConfigError, match="sum to 1"):
        configured(["runs/a"], None, {"traffic": {"a": 0.5}})
    with pytest.raises(ConfigError, match="'b' is not among the models served"):
        configured(["runs/a"], None, {"default": "b"})
