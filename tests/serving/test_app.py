"""The HTTP API over real runs: shapes, errors, limits, keys, live events, exchange."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from tastemaker.serving.app import create_app
from tastemaker.serving.engine import Engine
from tastemaker.serving.loaded import LoadedRun
from tastemaker.serving.memory import LiveHistories
from tastemaker.serving.service import Service
from tastemaker.serving.settings import ServeSettings
from tastemaker.serving.store import StoreUnavailableError, open_store


class Switched:
    """A store with a switch."""

    def __init__(self, store):
        self.store, self.down = store, False

    def __getattr__(self, name):
        if self.down and name != "close":
            raise StoreUnavailableError("the database is away", retry_after=7)
        return getattr(self.store, name)


def service_of(loaded, folder, **settings):
    chosen = ServeSettings(device="cpu", **settings)
    store = Switched(open_store(f"sqlite:///{folder}/events.db"))
    return Service(Engine(loaded, chosen), LiveHistories(store), chosen)


@pytest.fixture
def served(loaded, tmp_path):
    """A client factory; settings are those of the service."""
    open_clients = []

    def serve(runs=loaded, **settings):
        service = service_of(runs, tmp_path, **settings)
        client = TestClient(create_app(service), raise_server_exceptions=False)
        client.__enter__()
        client.service = service
        open_clients.append(client)
        return client

    yield serve
    for client in open_clients:
        client.__exit__(None, None, None)


def ids(answer):
    return [item["item"] for item in answer.json()["items"]]


def test_recommend_answers_in_the_ids_and_titles_of_the_data(served):
    answer = served().post("/recommend", json={"user": "u3", "k": 3, "model": "sasrec"})
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) == {"request_id", "model", "run", "items", "basis", "ignored"}
    assert (body["model"], body["run"]) == ("sasrec", "sasrec")
    assert set(body["items"][0]) == {"item", "title", "score"}
    assert body["items"][0]["title"].startswith("Ring ")
    assert body["basis"].startswith("the user's history of")


def test_the_first_run_answers_unless_another_is_named(served):
    client = served()
    assert client.post("/recommend", json={"user": "u3"}).json()["model"] == "ease"
    assert served(default="popularity").post("/recommend", json={}).json()["model"] == "popularity"


def test_an_event_changes_the_very_next_answer(served):
    client = served()
    for model in ("ease", "sasrec"):
        user = f"somebody new {model}"
        asked = {"user": user, "model": model, "k": 10}
        before = client.post("/recommend", json=asked)
        assert before.json()["basis"] == "no history: the user is unknown"
        event = {"event_id": f"e {model}", "user": user, "item": "i12"}
        told = client.post("/events", json={"events": [event, event]})
        assert told.json() == {"accepted": 1, "duplicates": 1}
        after = client.post("/recommend", json=asked)
        assert after.json()["basis"] == "the user's history of 1 event, 1 of them since training"
        assert ids(before) != ids(after)
        assert "i12" not in ids(after)


def test_filters_are_those_of_the_request(served):
    client = served()
    asked = {"history": ["i1", "i2"], "k": 40, "filters": {"where": {"ring": "ring 2"}}}
    assert set(ids(client.post("/recommend", json=asked))) == {f"i{n}" for n in range(20, 30)}
    asked["filters"] = {"caps": {"ring": 1}, "exclude": ["i0"]}
    assert len(ids(client.post("/recommend", json=asked))) == 4
    asked["filters"] = {"allow": ["i1", "i7"], "include_seen": True}
    assert set(ids(client.post("/recommend", json=asked))) == {"i1", "i7"}


def test_similar_score_and_items(served):
    client = served()
    similar = client.post("/similar", json={"item": "i5", "k": 3, "model": "sasrec"})
    assert len(ids(similar)) == 3
    assert "i5" not in ids(similar)
    scored = client.post("/score", json={"history": ["i1"], "items": ["i2", "what", "i9"]})
    assert ids(scored) == ["i2", "i9"]
    assert scored.json()["ignored"] == ["what"]
    assert client.get("/items/i5").json() == {"item": "i5", "title": "Ring 0, stop 5"}
    assert client.get("/items/none").status_code == 404


def test_explain_names_the_items_of_the_history(served):
    asked = {"history": ["i1", "i2"], "item": "i3", "model": "ease"}
    body = served().post("/explain", json=asked).json()
    assert body["kind"] == "leave-one-out"
    assert {reason["item"] for reason in body["reasons"]} <= {"i1", "i2"}
    assert body["reasons"][0]["title"].startswith("Ring")


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/recommend", {"user": 5}, 422, "body.user: Input should be a valid string"),
        ("/recommend", {"usr": "a"}, 422, "body.usr: Extra inputs are not permitted"),
        ("/recommend", {"k": 0}, 422, "body.k"),
        ("/recommend", {"k": 10_000}, 422, "k: 10,000 is more than this server gives, 1,000"),
        ("/recommend", {"model": "eas"}, 422, "did you mean 'ease'"),
        ("/recommend", {"filters": {"where": {"rng": "a"}}}, 422, "did you mean 'ring'"),
        ("/recommend", {"history": ["i1"] * 10_001}, 422, "history: 10,001 is more"),
        ("/score", {"items": ["i1"] * 10_001}, 422, "items: 10,001 is more"),
        ("/recommend", {"filters": {"allow": ["i1"] * 10_001}}, 422, "filters.allow: 10,001"),
        ("/recommend", {"filters": {"exclude": ["i1"] * 10_001}}, 422, "filters.exclude: 10,001"),
        (
            "/events",
            {"events": [{"event_id": str(n), "user": "u", "item": "i"} for n in range(1_001)]},
            422,
            "events: 1,001 is more than this server gives, 1,000",
        ),
        ("/explain", {"history": ["i1"], "item": "none"}, 404, "knows no item 'none'"),
        ("/similar", {"item": "none"}, 404, "knows no item 'none'"),
        ("/similar", {"item": "i1", "model": "popularity"}, 422, "has no item vectors"),
        ("/score", {"items": []}, 422, "body.items"),
        ("/events", {"events": []}, 422, "body.events"),
        ("/events", {"events": [{"event_id": "a", "user": "b"}]}, 422, "body.events.0.item"),
        ("/nowhere", {}, 404, "see /docs"),
    ],
)
def test_what_is_wrong_is_said(served, path, body, status, message):
    answer = served().post(path, json=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert message in answer.json()["error"]["message"]


def test_a_body_that_is_no_json_or_too_large_is_refused(served):
    client = served(max_body_bytes=2_000)
    broken = client.post("/recommend", content=b"{", headers={"content-type": "application/json"})
    assert broken.status_code == 400
    large = client.post("/recommend", content=b" " * 3_000)
    assert large.status_code == 413
    pieces = client.post("/recommend", content=(b" " * 500 for _ in range(6)))
    assert pieces.status_code == 413
    deep = b'{"filters": {"where": ' + b'{"a":' * 300 + b"1" + b"}" * 302
    nested = client.post("/recommend", content=deep, headers={"content-type": "application/json"})
    assert nested.status_code in (400, 422)


def test_keys_are_asked_for(served):
    client = served(api_keys=("one", "two"))
    assert client.get("/health").status_code == 200
    assert client.post("/recommend", json={}).status_code == 401
    assert client.post("/recommend", json={}, headers={"x-api-key": "wrong"}).status_code == 401
    assert client.post("/recommend", json={}, headers={"x-api-key": "two"}).status_code == 200


def test_other_origins_may_ask_only_when_named(served):
    origin = {"origin": "https://shop.example"}
    client = served(cors_origins=("https://shop.example",))
    assert (
        client.get("/health", headers=origin).headers["access-control-allow-origin"]
        == "https://shop.example"
    )
    assert "access-control-allow-origin" not in served().get("/health", headers=origin).headers


def test_traffic_is_split_by_user(served):
    client = served(traffic={"ease": 0.7, "popularity": 0.3})
    chosen = [client.service.choose(None, f"user {n}") for n in range(2_000)]
    assert 0.65 < chosen.count("ease") / 2_000 < 0.75
    assert client.service.choose(None, "user 7") == chosen[7]
    assert client.service.choose(None, None) == "ease"


def test_a_store_that_is_down_refuses_events_and_nothing_else(served):
    client = served()
    first, second = (
        {"events": [{"event_id": name, "user": "n", "item": "i3"}]} for name in ("a", "b")
    )
    client.post("/events", json=first)
    client.service.live.store.down = True
    refused = client.post("/events", json=second)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "7"
    assert client.post("/recommend", json={"user": "n"}).json()["basis"].startswith("the user's")
    unread = client.post("/recommend", json={"user": "u5"})
    assert unread.status_code == 200
    assert client.get("/ready").json()["store"] == "down"
    client.service.live.store.down = False
    again = client.post("/events", json=second)
    assert again.json() == {"accepted": 1, "duplicates": 0}


def test_answers_are_kept_for_later(served):
    client = served()
    answer = client.post("/recommend", json={"user": "u3", "k": 2})
    client.post("/recommend", json={"history": ["i1"], "k": 2})
    for _ in range(100):
        kept = client.service.live.store.served(10)
        if len(kept) == 2:
            break
        time.sleep(0.05)
    first = kept[1]
    assert (first.user, first.model, first.request_id) == (
        "u3",
        "ease",
        answer.json()["request_id"],
    )
    assert list(first.items) == ids(answer)


def test_metrics_count_requests(served):
    client = served()
    client.post("/recommend", json={"user": "u3"})
    client.post("/recommend", json={"k": 0})
    page = client.get("/metrics").text
    assert 'tastemaker_requests_total{path="/recommend",status="200"} 1.0' in page
    assert 'tastemaker_requests_total{path="/recommend",status="422"} 1.0' in page
    assert 'tastemaker_answers_total{model="ease",run="ease"} 1.0' in page


class Slow:
    """A loaded run that takes its time."""

    def __init__(self, loaded):
        self._loaded, self.gate = loaded, threading.Event()

    def __getattr__(self, name):
        return getattr(self._loaded, name)

    def answer(self, *arguments):
        self.gate.wait(10)
        return self._loaded.answer(*arguments)


def test_a_full_queue_and_a_late_answer_are_said(served, loaded):
    slow = Slow(loaded["ease"])
    client = served({"slow": slow}, queue_size=2, request_seconds=0.5)
    answers = []
    threads = [
        threading.Thread(
            target=lambda n=n: answers.append(client.post("/recommend", json={"k": 1 + n}))
        )
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slow.gate.set()
    codes = sorted(answer.status_code for answer in answers)
    assert set(codes) == {429, 504}
    busy = next(answer for answer in answers if answer.status_code == 429)
    assert busy.headers["retry-after"] == "1"


def test_a_run_is_exchanged_without_a_failed_request(served, folders, tmp_path):
    shutil.copytree(folders["ease"], tmp_path / "runs" / "current")
    shutil.copytree(folders["popularity"], tmp_path / "runs" / "newer")
    first = LoadedRun.open("main", tmp_path / "runs" / "current", device="cpu")
    client = served({"main": first})
    codes, asked, stop = [], threading.Event(), threading.Event()

    def ask():
        while not stop.is_set():
            codes.append(client.post("/recommend", json={"user": "u3"}))
            asked.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert asked.wait(60)
    done = client.post("/models/main/reload", json={"run": "newer"})
    stop.set()
    asking.join()
    codes.append(client.post("/recommend", json={"user": "u3"}))
    assert done.json()["method"] == "popularity"
    assert {answer.status_code for answer in codes} == {200}
    assert {answer.json()["run"] for answer in codes} == {"current", "newer"}


@pytest.mark.parametrize("run", ["missing", "broken", "misshapen"])
def test_a_broken_run_is_refused_and_the_old_one_stays(served, folders, tmp_path, run):
    for name in ("current", "broken", "misshapen"):
        shutil.copytree(folders["ease"], tmp_path / "runs" / name)
    (tmp_path / "runs" / "broken" / "model.safetensors").write_bytes(b"\x80\x04nonsense")
    weights = {"weights": torch.ones(3, 3)}
    save_file(weights, tmp_path / "runs" / "misshapen" / "model.safetensors")
    first = LoadedRun.open("main", tmp_path / "runs" / "current", device="cpu")
    client = served({"main": first})
    refused = client.post("/models/main/reload", json={"run": run})
    assert refused.status_code == 409
    assert client.post("/recommend", json={"user": "u3"}).json()["run"] == "current"


def test_a_run_that_fails_the_golden_request_is_refused(served, folders, tmp_path):
    golden = tmp_path / "golden.json"
    shutil.copytree(folders["ease"], tmp_path / "runs" / "current")
    shutil.copytree(folders["popularity"], tmp_path / "runs" / "newer")
    first = LoadedRun.open("main", tmp_path / "runs" / "current", device="cpu")
    client = served({"main": first}, golden=str(golden))
    asked = {"history": ["i21", "i22", "i23"], "k": 3}
    golden.write_text(json.dumps({**asked, "items": ids(client.post("/recommend", json=asked))}))
    assert client.post("/models/main/reload", json={}).status_code == 200
    refused = client.post("/models/main/reload", json={"run": "newer"})
    assert refused.status_code == 409
    assert "golden request" in refused.json()["error"]["message"]


@pytest.mark.parametrize("run", ["../elsewhere", "/etc", "..", ".hidden", "a/b"])
def test_a_run_elsewhere_cannot_be_loaded(served, run):
    assert served().post("/models/ease/reload", json={"run": run}).status_code == 422
