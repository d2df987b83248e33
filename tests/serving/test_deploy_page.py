"""Every command of docs/deploy.md, as printed but for the port."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys

import httpx
import pytest

from tests.serving.test_server import Server
from tests.test_house import commands

EVENTS = [
    {"event_id": f"{user} {item}", "user": f"{user}", "item": f"{item}", "timestamp": 2e9 + item}
    for user in range(8)
    for item in range(user, user + 6)
]


@pytest.fixture
def shop(tmp_path):
    """A folder with the files that the page speaks of."""
    rows = [
        f"{user},{(user * 3 + step) % 100},{1_700_000_000 + user * 60 + step * 86_400}"
        for user in range(1, 61)
        for step in range(12)
    ]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,item,time", *rows, ""]))
    genres = ("Drama", "Crime", "Comedy")
    films = [f"{item},Film {item},{genres[item % 3]}" for item in range(100)]
    (tmp_path / "films.csv").write_text("\n".join(["item,title,genre", *films, ""]))
    return tmp_path


def test_commands_run_as_printed(shop, monkeypatch):
    monkeypatch.chdir(shop)
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    server, said = None, []
    for words in commands("docs/deploy.md"):
        match words:
            case ["tastemaker", "serve", *given]:
                shutil.copytree("runs/sasrec", "runs/2026-11-24")
                port = given.index("--port")
                server = Server(*given[:port], *given[port + 2 :])
            case ["tastemaker", *given]:
                if given[0] == "train":
                    given = [*given, "--set", "epochs=1"]
                if "--from-store" in given:
                    told = httpx.post(f"{server.address}/events", json={"events": EVENTS})
                    assert told.json()["accepted"] == len(EVENTS)
                subprocess.run([sys.executable, "-m", "tastemaker", *given], check=True)
            case ["curl", *given]:
                here = [re.sub(r"^localhost:8000", server.address, word) for word in given]
                done = subprocess.run(["curl", *here], check=True, capture_output=True, text=True)
                said.append(json.loads(done.stdout))
            case _:
                raise AssertionError(f"docs/deploy.md: what is {shlex.join(words)}?")
    server.stop()
    assert len(said) == 4
    assert not [answer for answer in said if "error" in answer]
    assert (shop / "lists.parquet").exists()
    assert (shop / "data" / "live").is_dir()
