"""The page in a real browser: search, build a history, compare, explain, with keys alone."""

from __future__ import annotations

import shutil
import threading
import time

import pytest
import uvicorn

from tastemaker.serving.app import create_app
from tastemaker.serving.engine import Engine
from tastemaker.serving.memory import LiveHistories
from tastemaker.serving.service import Service
from tastemaker.serving.settings import ServeSettings
from tastemaker.serving.store import open_store

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser; on Debian: apt-get install chromium"
)


@pytest.fixture(scope="module")
def address(loaded, tmp_path_factory):
    chosen = ServeSettings(device="cpu", request_seconds=30)
    folder = tmp_path_factory.mktemp("page")
    live = LiveHistories(open_store(f"sqlite:///{folder}/events.db"))
    app = create_app(Service(Engine(loaded, chosen), live, chosen))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, as in a container, Chromium starts without its sandbox only.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    opened = browser.new_page()
    faults, elsewhere = [], []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and faults.append(said.text))
    opened.on("request", lambda asked: asked.url.startswith(address) or elsewhere.append(asked.url))
    opened.goto(address)
    opened.wait_for_selector(".items > li")
    yield opened
    opened.close()
    assert faults == []
    assert [url for url in elsewhere if not url.startswith("data:")] == []


def titles(page, place):
    return page.locator(f".list[data-place='{place}'] .title").all_inner_texts()


def wait_for_lists(page):
    page.wait_for_selector(".list.waiting", state="detached")


def test_a_history_built_from_titles_changes_the_lists(page):
    before = titles(page, 0)
    page.focus("#search")
    page.keyboard.type("ring 2, stop")
    page.wait_for_selector("#found li")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#history li")
    wait_for_lists(page)
    chosen = page.locator("#history .name").inner_text()
    assert chosen.startswith("Ring 2, stop")
    assert titles(page, 0) != before
    assert not any(title.startswith(chosen) for title in titles(page, 0))


def test_a_recommended_item_joins_the_history_and_can_leave_it(page):
    first = titles(page, 0)[0].removesuffix(" (in both)")
    page.get_by_role("button", name=f"Add {first} to the history").first.click()
    page.wait_for_selector("#history li")
    wait_for_lists(page)
    assert page.locator("#history .name").inner_text() == first
    page.get_by_role("button", name=f"Remove {first}").click()
    wait_for_lists(page)
    assert page.locator("#history li").count() == 0
    assert "No history" in page.locator("#history-note").inner_text()


def test_a_user_is_shown_with_what_is_known(page):
    page.fill("#user", "u3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#history li")
    wait_for_lists(page)
    assert "history of" in page.locator("#history-note").inner_text()
    with page.expect_response("**/page/history*") as known:
        page.get_by_role("button", name="Somebody").click()
    assert known.value.ok
    assert page.input_value("#user").startswith("u")


def test_two_models_are_compared_and_explained(page):
    page.fill("#user", "u3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#history li")
    page.locator(".list[data-place='1'] select").select_option("sasrec")
    wait_for_lists(page)
    shared = set(titles(page, 0)) & set(titles(page, 1))
    assert page.locator("#shared").inner_text() == f"The lists share {len(shared)} of 10 items."
    page.locator(".list[data-place='0'] .acts button").first.click()
    page.wait_for_selector(".why li")
    assert "because of Ring" in page.locator(".why li").first.inner_text()


def test_a_run_has_its_page(page, address):
    page.get_by_role("link", name="sasrec").click()
    page.wait_for_selector("h1")
    assert page.locator("h1").inner_text() == "sasrec on tiny"
    for heading in ("Curves", "Metrics", "Slices", "Made with"):
        assert page.get_by_role("heading", name=heading, exact=True).count() == 1
    page.goto(address)
    page.wait_for_selector(".items > li")


def test_a_phone_shows_it_without_scrolling_sideways(page):
    page.set_viewport_size({"width": 360, "height": 740})
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 360
