"""Pictures of items: served from the data, shown by the page, and nothing else is ever read."""

from __future__ import annotations

import shutil
import struct
import threading
import time
import zlib
from urllib.parse import quote

import polars as pl
import pytest
import uvicorn
from fastapi.testclient import TestClient

from tastemaker.data import Dataset, split
from tastemaker.data.schema import Kind
from tastemaker.experiment.fitting import fit
from tastemaker.serving.app import create_app
from tastemaker.serving.engine import Engine
from tastemaker.serving.loaded import LoadedRun
from tastemaker.serving.memory import LiveHistories
from tastemaker.serving.service import Service
from tastemaker.serving.settings import ServeSettings
from tastemaker.serving.store import open_store

NAMES = ["a", "b", "c", "d/e", "../f"]
CHROMIUM = shutil.which("chromium")


def png(shade):
    """A picture of 8 by 8 grey points."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    points = zlib.compress((b"\0" + bytes([shade] * 8)) * 8)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", points) + chunk(b"IEND", b"")
    )


def run_with(folder, pictures, name="run"):
    """A run on a log of five items with these pictures, [5], bytes or paths or null."""
    users = [f"u{user}" for user in range(10) for _ in range(4)]
    items = [NAMES[(user + step) % 5] for user in range(10) for step in range(4)]
    table = pl.DataFrame({"item": NAMES, "title": [f"Title {n}" for n in NAMES], "look": pictures})
    dataset = Dataset.from_frame(
        pl.DataFrame({"user": users, "item": items}),
        user="user",
        item="item",
        items=table,
        item_id="item",
        item_columns={"look": Kind.IMAGE},
        name="pictured",
    )
    fit(
        split(dataset, "ratio:order=random"),
        "popularity",
        out=folder / name,
        device="cpu",
        evaluate_on=(),
    )
    return LoadedRun.open(name, folder / name, device="cpu")


def app_of(run, folder):
    chosen = ServeSettings(device="cpu", request_seconds=30)
    live = LiveHistories(open_store(f"sqlite:///{folder}/events.db"))
    return create_app(Service(Engine({run.name: run}, chosen), live, chosen))


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures -> their bytes; the fourth item has none, the fifth no picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place, name in enumerate("abc"):
        (folder / f"{name}.png").write_bytes(png(60 * place))
    return [
        *((folder / f"{name}.png").read_bytes() for name in "abc"),
        None,
        b"<script>alert(1)</script>",
    ]


@pytest.fixture
def app(pictures, tmp_path):
    return app_of(run_with(tmp_path, pictures), tmp_path)


def test_pictures_are_served_where_items_have_them(app, pictures):
    with TestClient(app) as client:
        found = client.post("/recommend", json={"k": 5}).json()["items"]
        urls = {item["item"]: item.get("picture") for item in found}
        assert urls["a"] == "items/a/picture"
        assert urls["d/e"] is None
        assert client.get("/items/b").json()["picture"] == "items/b/picture"
        for name, content in zip("abc", pictures, strict=False):
            answer = client.get("/" + urls[name])
            assert (answer.content, answer.headers["content-type"]) == (content, "image/png")
        without = client.get(f"/items/{quote('d/e', safe='')}/picture")
        assert without.status_code == 404


def test_what_is_no_picture_runs_nowhere(app):
    with TestClient(app) as client:
        found = client.post("/recommend", json={"k": 5}).json()["items"]
        (url,) = (item["picture"] for item in found if item["item"] == "../f")
        answer = client.get("/" + url)
    assert answer.headers["content-type"] != "text/html"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/items/../../etc/passwd/picture",
        "/items/..%2F..%2Fetc%2Fpasswd/picture",
        "/items/%2Fetc%2Fpasswd/picture",
        "/items/a/../../../etc/passwd",
        "/static/..%2Fpages.py",
        "/static/%2Fetc%2Fpasswd",
    ],
)
def test_paths_lead_nowhere(app, path):
    with TestClient(app) as client:
        answer = client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text


def test_a_run_cannot_name_files_to_be_served(tmp_path, pictures):
    del pictures
    paths = [str(tmp_path / "pictures" / "a.png"), "/etc/passwd", "../../etc/passwd", None, "a.png"]
    with TestClient(app_of(run_with(tmp_path, paths), tmp_path)) as client:
        for name in NAMES:
            quoted = quote(name, safe="")
            assert client.get(f"/items/{quoted}/picture").status_code == 404
        found = client.post("/recommend", json={"k": 5}).json()["items"]
        assert not [item for item in found if "picture" in item]


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser; on Debian: apt-get install chromium")
def test_the_page_shows_them(app):
    from playwright.sync_api import expect, sync_playwright

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        for name in "abc":
            shown = page.locator(f'.list[data-place="0"] img[src="items/{name}/picture"]')
            expect(shown).to_have_js_property("naturalWidth", 8)
        browser.close()
    server.should_exit = True
    thread.join()
